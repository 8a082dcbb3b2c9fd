"""Kubernetes Gateway API: Gateway, GatewayClass and ReferenceGrant; HTTPRoute stands in `httproute` and is importable from here."""

import ipaddress
import re
from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from lateen.mesh.httproute import HTTPRoute
from lateen.mesh.metadata import ClusterResource, Resource
from lateen.mesh.spec import (
    DNS_SUBDOMAIN,
    DefaultedSpec,
    Group,
    KindName,
    NamespaceName,
    ObjectName,
    Port,
    rule_error,
    unique,
)

__all__ = ["Gateway", "GatewayClass", "HTTPRoute", "ReferenceGrant"]

GROUP = "gateway.networking.k8s.io"
_WILDCARD_HOST = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_DOMAIN_PREFIXED = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/"
_PATH_CHARS = r"[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$"
_ANNOTATION_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]"
)
_MAX_KEY_PREFIX = 253

Hostname = Annotated[str, Field(min_length=1, max_length=253, pattern=_WILDCARD_HOST)]
SectionName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]


class FromNamespaces(StrEnum):
    """Whose routes may attach."""

    ALL = "All"
    SELECTOR = "Selector"
    SAME = "Same"
    NONE = "None"


class LabelSelectorRequirement(DefaultedSpec):
    """One expression of a label selector."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class NamespaceSelector(DefaultedSpec):
    """Kubernetes' label selector, applied to namespaces."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()


class RouteNamespaces(DefaultedSpec):
    """From which namespaces routes may attach."""

    from_: FromNamespaces = FromNamespaces.SAME
    selector: NamespaceSelector | None = None

    @model_validator(mode="after")
    def _not_none(self) -> "RouteNamespaces":
        if self.from_ is FromNamespaces.NONE:
            raise rule_error("enum_text", "must be one of All, Selector or Same", "from")
        return self


class ListenerNamespaces(DefaultedSpec):
    """From which namespaces ListenerSets may attach."""

    from_: FromNamespaces = FromNamespaces.NONE
    selector: NamespaceSelector | None = None


class AllowedListeners(DefaultedSpec):
    """Which ListenerSets may attach."""

    namespaces: ListenerNamespaces = ListenerNamespaces()


class RouteGroupKind(DefaultedSpec):
    """A kind of route."""

    group: Group = GROUP
    kind: KindName


class AllowedRoutes(DefaultedSpec):
    """Which routes may attach."""

    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: Annotated[tuple[RouteGroupKind, ...], Field(max_length=8)] = ()


class SecretObjectReference(DefaultedSpec):
    """A Secret, possibly elsewhere (then a ReferenceGrant is needed)."""

    group: Group = ""
    kind: KindName = "Secret"
    name: ObjectName
    namespace: NamespaceName | None = None


class TLSModeType(StrEnum):
    """Whether the gateway ends TLS."""

    TERMINATE = "Terminate"
    PASSTHROUGH = "Passthrough"


class ListenerTLS(DefaultedSpec):
    """TLS of a listener."""

    mode: TLSModeType = TLSModeType.TERMINATE
    certificate_refs: Annotated[tuple[SecretObjectReference, ...], Field(max_length=64)] = ()
    options: Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=16)] = {}

    @model_validator(mode="after")
    def _certificates(self) -> "ListenerTLS":
        if self.mode is TLSModeType.TERMINATE and not self.certificate_refs and not self.options:
            raise rule_error(
                "requires",
                "certificateRefs or options must be specified when mode is Terminate",
                hint="add certificateRefs: [{name: SECRET}]",
            )
        return self


_PROTOCOL = rf"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|{_DOMAIN_PREFIXED}[A-Za-z0-9]+$"


class Listener(DefaultedSpec):
    """A port on which the gateway listens."""

    name: SectionName
    hostname: Hostname | None = None
    port: Port
    protocol: Annotated[str, Field(min_length=1, max_length=255, pattern=_PROTOCOL)]
    tls: ListenerTLS | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()

    @model_validator(mode="after")
    def _protocol(self) -> "Listener":
        if self.tls is not None and self.protocol in {"HTTP", "TCP", "UDP"}:
            raise rule_error(
                "requires",
                "tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']",
                "tls",
                hint="remove tls, or use protocol: HTTPS",
            )
        if self.tls is not None and self.protocol == "HTTPS" and self.tls.mode is not TLSModeType.TERMINATE:
            raise rule_error(
                "requires",
                "tls mode must be Terminate for protocol HTTPS",
                "tls",
                "mode",
                hint="use protocol: TLS to pass TLS through",
            )
        if self.tls is None and self.protocol == "TLS":
            raise rule_error(
                "requires",
                "tls mode must be set for protocol TLS",
                "protocol",
                hint="add tls: {mode: Passthrough} or Terminate",
            )
        if self.hostname and self.protocol in {"TCP", "UDP"}:
            raise rule_error(
                "requires",
                "hostname must not be specified for protocols ['TCP', 'UDP']",
                "hostname",
                hint="remove hostname",
            )
        return self


_ADDRESS_TYPE = rf"^Hostname|IPAddress|NamedAddress|{_DOMAIN_PREFIXED}{_PATH_CHARS}"


class GatewayAddress(DefaultedSpec):
    """An address asked for."""

    type: Annotated[str, Field(min_length=1, max_length=253, pattern=_ADDRESS_TYPE)] = "IPAddress"
    value: Annotated[str, Field(max_length=253)] | None = None

    @model_validator(mode="after")
    def _value(self) -> "GatewayAddress":
        if self.value is None:
            return self
        if self.type == "IPAddress":
            try:
                ipaddress.ip_address(self.value)
            except ValueError:
                raise rule_error(
                    "address",
                    "must be an IP address",
                    "value",
                    hint="write an address such as 10.0.0.1, or use type: Hostname",
                ) from None
        if self.type == "Hostname" and not re.fullmatch(_WILDCARD_HOST[1:-1], self.value):
            raise rule_error(
                "address",
                "Hostname value must be empty or contain only valid characters",
                "value",
                hint="write a host name such as api.example.com",
            )
        return self


class ParametersReference(DefaultedSpec):
    """An object with parameters of the class."""

    group: Group
    kind: KindName
    name: ObjectName
    namespace: NamespaceName | None = None


class LocalParametersReference(DefaultedSpec):
    """An object with parameters, in the same namespace."""

    group: Group
    kind: KindName
    name: ObjectName


_LABEL_VALUE = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"


class GatewayInfrastructure(DefaultedSpec):
    """Labels and annotations of what is created for the gateway."""

    labels: Annotated[dict[str, Annotated[str, Field(max_length=63, pattern=_LABEL_VALUE)]], Field(max_length=8)] = {}
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=16)] = {}
    parameters_ref: LocalParametersReference | None = None

    @model_validator(mode="after")
    def _keys(self) -> "GatewayInfrastructure":
        for field, keys in (("labels", self.labels), ("annotations", self.annotations)):
            for key in keys:
                if not _ANNOTATION_KEY.fullmatch(key) or len(key.split("/")[0]) >= _MAX_KEY_PREFIX:
                    raise rule_error(
                        "label", "key must be a name of up to 63 characters, after an optional DNS prefix", field, key
                    )
        return self


class ObjectReference(DefaultedSpec):
    """Some object, possibly elsewhere (then a ReferenceGrant is needed)."""

    group: Group
    kind: KindName
    name: ObjectName
    namespace: NamespaceName | None = None


class FrontendValidationMode(StrEnum):
    """How strictly client certificates are checked."""

    ALLOW_VALID_ONLY = "AllowValidOnly"
    ALLOW_INSECURE_FALLBACK = "AllowInsecureFallback"


class FrontendTLSValidation(DefaultedSpec):
    """How client certificates are checked."""

    ca_certificate_refs: Annotated[tuple[ObjectReference, ...], Field(min_length=1, max_length=16)]
    mode: FrontendValidationMode = FrontendValidationMode.ALLOW_VALID_ONLY


class FrontendTLS(DefaultedSpec):
    """TLS towards clients."""

    validation: FrontendTLSValidation | None = None


class TLSPortConfig(DefaultedSpec):
    """TLS towards the clients of one port."""

    port: Port
    tls: FrontendTLS


class FrontendTLSConfig(DefaultedSpec):
    """TLS towards clients, by default and by port."""

    default: FrontendTLS
    per_port: Annotated[tuple[TLSPortConfig, ...], Field(max_length=64)] = ()

    @model_validator(mode="after")
    def _unique(self) -> "FrontendTLSConfig":
        unique(self.per_port, "perPort", "port")
        return self


class BackendTLS(DefaultedSpec):
    """The certificate the gateway shows to backends."""

    client_certificate_ref: SecretObjectReference | None = None


class GatewayTLSConfig(DefaultedSpec):
    """TLS of the gateway as a whole."""

    backend: BackendTLS | None = None
    frontend: FrontendTLSConfig | None = None


class GatewaySpec(DefaultedSpec):
    """The class and the listeners."""

    gateway_class_name: ObjectName
    listeners: Annotated[tuple[Listener, ...], Field(min_length=1, max_length=64)]
    addresses: Annotated[tuple[GatewayAddress, ...], Field(max_length=16)] = ()
    infrastructure: GatewayInfrastructure | None = None
    allowed_listeners: AllowedListeners | None = None
    tls: GatewayTLSConfig | None = None

    @model_validator(mode="after")
    def _unique(self) -> "GatewaySpec":
        unique(self.listeners, "listeners", "name")
        unique(self.listeners, "listeners", "port", "protocol", "hostname")
        seen = set()
        for index, address in enumerate(self.addresses):
            if address.value is not None and address.type in {"IPAddress", "Hostname"}:
                if (address.type, address.value) in seen:
                    raise rule_error("duplicate", f"{address.type} values must be unique", "addresses", index, "value")
                seen.add((address.type, address.value))
        return self


class Gateway(Resource):
    """An ingress (or waypoint) of the mesh."""

    api_version: str = "gateway.networking.k8s.io/v1"
    kind: str = "Gateway"
    spec: GatewaySpec


class GatewayClassSpec(DefaultedSpec):
    """Who serves gateways of the class."""

    controller_name: Annotated[str, Field(min_length=1, max_length=253, pattern=rf"^{_DOMAIN_PREFIXED}{_PATH_CHARS}")]
    description: Annotated[str, Field(max_length=64)] | None = None
    parameters_ref: ParametersReference | None = None


class GatewayClass(ClusterResource):
    """A class of gateways."""

    api_version: str = "gateway.networking.k8s.io/v1"
    kind: str = "GatewayClass"
    spec: GatewayClassSpec


class ReferenceGrantFrom(DefaultedSpec):
    """Who may refer."""

    group: Group
    kind: KindName
    namespace: NamespaceName


class ReferenceGrantTo(DefaultedSpec):
    """What may be referred to in the grant's namespace; no name is all of the kind."""

    group: Group
    kind: KindName
    name: ObjectName | None = None


class ReferenceGrantSpec(DefaultedSpec):
    """Who may refer to what."""

    from_: Annotated[tuple[ReferenceGrantFrom, ...], Field(min_length=1, max_length=16)]
    to: Annotated[tuple[ReferenceGrantTo, ...], Field(min_length=1, max_length=16)]


class ReferenceGrant(Resource):
    """Leave to refer to objects of this namespace from another."""

    api_version: str = "gateway.networking.k8s.io/v1"
    kind: str = "ReferenceGrant"
    spec: ReferenceGrantSpec
