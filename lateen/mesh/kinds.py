"""The table of resource kinds: names, groups, versions, and the model of each, imported only when asked for."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from lateen.mesh.metadata import Resource


class ResourceKey(NamedTuple):
    """The identity of a resource; `kind` is a `KindInfo.id`, `namespace` is empty for cluster-wide kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


@dataclass(frozen=True)
class KindInfo:
    """One kind of resource. `id` equals `kind` unless two groups share the word (`Gateway`, `IstioGateway`)."""

    id: str
    kind: str
    group: str
    versions: tuple[str, ...]
    plural: str
    short_names: tuple[str, ...]
    module: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The preferred `apiVersion`."""
        return f"{self.group}/{self.versions[0]}" if self.group else self.versions[0]

    @cached_property
    def model(self) -> "type[Resource]":
        """The pydantic model (imports pydantic)."""
        return cast("type[Resource]", getattr(import_module(f"lateen.mesh.{self.module}"), self.kind))


_NETWORKING = ("v1", "v1beta1", "v1alpha3")
_SECURITY = ("v1", "v1beta1")
_GATEWAY_API = ("v1", "v1beta1")

_ALL = (
    KindInfo(
        "VirtualService",
        "VirtualService",
        "networking.istio.io",
        _NETWORKING,
        "virtualservices",
        ("vs",),
        "virtualservice",
    ),
    KindInfo(
        "DestinationRule",
        "DestinationRule",
        "networking.istio.io",
        _NETWORKING,
        "destinationrules",
        ("dr",),
        "destinationrule",
    ),
    KindInfo("IstioGateway", "Gateway", "networking.istio.io", _NETWORKING, "gateways", ("gw",), "gateway"),
    KindInfo(
        "ServiceEntry", "ServiceEntry", "networking.istio.io", _NETWORKING, "serviceentries", ("se",), "serviceentry"
    ),
    KindInfo(
        "WorkloadEntry", "WorkloadEntry", "networking.istio.io", _NETWORKING, "workloadentries", ("we",), "workload"
    ),
    KindInfo(
        "WorkloadGroup", "WorkloadGroup", "networking.istio.io", _NETWORKING, "workloadgroups", ("wg",), "workload"
    ),
    KindInfo("Sidecar", "Sidecar", "networking.istio.io", _NETWORKING, "sidecars", (), "sidecar"),
    KindInfo(
        "EnvoyFilter", "EnvoyFilter", "networking.istio.io", ("v1alpha3",), "envoyfilters", ("ef",), "envoyfilter"
    ),
    KindInfo("ProxyConfig", "ProxyConfig", "networking.istio.io", ("v1beta1",), "proxyconfigs", (), "proxyconfig"),
    KindInfo(
        "PeerAuthentication",
        "PeerAuthentication",
        "security.istio.io",
        _SECURITY,
        "peerauthentications",
        ("pa",),
        "peerauthentication",
    ),
    KindInfo(
        "AuthorizationPolicy",
        "AuthorizationPolicy",
        "security.istio.io",
        _SECURITY,
        "authorizationpolicies",
        ("ap",),
        "authorizationpolicy",
    ),
    KindInfo(
        "RequestAuthentication",
        "RequestAuthentication",
        "security.istio.io",
        _SECURITY,
        "requestauthentications",
        ("ra",),
        "requestauthentication",
    ),
    KindInfo("WasmPlugin", "WasmPlugin", "extensions.istio.io", ("v1alpha1",), "wasmplugins", (), "wasmplugin"),
    KindInfo(
        "TrafficExtension",
        "TrafficExtension",
        "extensions.istio.io",
        ("v1alpha1",),
        "trafficextensions",
        (),
        "trafficextension",
    ),
    KindInfo(
        "Telemetry", "Telemetry", "telemetry.istio.io", ("v1", "v1alpha1"), "telemetries", ("telemetry",), "telemetry"
    ),
    KindInfo(
        "RateLimitPolicy",
        "RateLimitPolicy",
        "lateen.dev",
        ("v1alpha1",),
        "ratelimitpolicies",
        ("rl",),
        "ratelimitpolicy",
    ),
    KindInfo("Gateway", "Gateway", "gateway.networking.k8s.io", _GATEWAY_API, "gateways", ("gtw",), "gatewayapi"),
    KindInfo(
        "GatewayClass",
        "GatewayClass",
        "gateway.networking.k8s.io",
        _GATEWAY_API,
        "gatewayclasses",
        ("gc",),
        "gatewayapi",
        namespaced=False,
    ),
    KindInfo("HTTPRoute", "HTTPRoute", "gateway.networking.k8s.io", _GATEWAY_API, "httproutes", (), "httproute"),
    KindInfo(
        "ReferenceGrant",
        "ReferenceGrant",
        "gateway.networking.k8s.io",
        _GATEWAY_API,
        "referencegrants",
        ("refgrant",),
        "gatewayapi",
    ),
    KindInfo("Namespace", "Namespace", "", ("v1",), "namespaces", ("ns",), "kubernetes", namespaced=False),
    KindInfo("Service", "Service", "", ("v1",), "services", ("svc",), "kubernetes"),
    KindInfo("ServiceAccount", "ServiceAccount", "", ("v1",), "serviceaccounts", ("sa",), "kubernetes"),
    KindInfo("Deployment", "Deployment", "apps", ("v1",), "deployments", ("deploy",), "kubernetes"),
    KindInfo("Pod", "Pod", "", ("v1",), "pods", ("po",), "kubernetes"),
    KindInfo("Secret", "Secret", "", ("v1",), "secrets", (), "kubernetes"),
    KindInfo("ConfigMap", "ConfigMap", "", ("v1",), "configmaps", ("cm",), "kubernetes"),
)

KINDS: Mapping[str, KindInfo] = MappingProxyType({info.id: info for info in _ALL})
_BY_GROUP: Mapping[tuple[str, str], KindInfo] = {(info.group, info.kind): info for info in _ALL}
OUR_GROUPS = frozenset(info.group for info in _ALL)


def split_api_version(api_version: str) -> tuple[str, str]:
    """Group and version of an `apiVersion`; the core group is empty."""
    group, slash, version = api_version.rpartition("/")
    return (group, version) if slash else ("", api_version)


def kind_of(group: str, kind: str) -> KindInfo | None:
    """The kind called `kind` in API group `group`."""
    return _BY_GROUP.get((group, kind))


def find_kind(word: str) -> KindInfo | None:
    """What a user calls a kind: `vs`, `virtualservice`, `VirtualServices`, `gateways.networking.istio.io`.

    A bare `gateway` is the Gateway API's, as in kubectl the short name `gw` is Istio's and `gtw` the Gateway API's.
    """
    name, _, group = word.lower().partition(".")
    exact = [i for i in _ALL if name == i.id.lower() and (not group or i.group == group)]
    named = [
        i
        for i in _ALL
        if (name in {i.kind.lower(), i.plural} or name in i.short_names) and (not group or i.group == group)
    ]
    plain = [i for i in named if i.id == i.kind]
    return next(iter([*exact, *plain, *named]), None)


def similar_kinds(word: str) -> tuple[str, ...]:
    """Kinds whose names are close to `word`, best first."""
    by_name = {name.lower(): i.kind for i in _ALL for name in (i.kind, i.plural)}
    return tuple(dict.fromkeys(by_name[m] for m in difflib.get_close_matches(word.lower(), by_name, n=3, cutoff=0.7)))
