"""`MeshView`: everything known about the mesh at one moment, indexed, immutable. Every part asks it; nothing edits it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

from lateen.mesh import gateway as istio
from lateen.mesh import gatewayapi, kubernetes
from lateen.mesh.authorizationpolicy import AuthorizationPolicy
from lateen.mesh.destination_rules import DestinationRules, MergedRule
from lateen.mesh.destinationrule import DestinationRule
from lateen.mesh.gateway_attachment import Attachments, BackendResolution, GatewayStatus, Grants, resolve_backend
from lateen.mesh.hosts import service_host
from lateen.mesh.httproute import BackendObjectReference, HTTPRoute
from lateen.mesh.identity import SpiffeId
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.loader import Located
from lateen.mesh.meshconfig import MeshConfig, MeshOutboundTrafficPolicy
from lateen.mesh.metadata import Resource
from lateen.mesh.mtls import PeerAuthentications
from lateen.mesh.ordering import oldest_first
from lateen.mesh.peerauthentication import MutualTlsMode, PeerAuthentication
from lateen.mesh.policies import Policies
from lateen.mesh.ratelimitpolicy import RateLimitPolicy
from lateen.mesh.registry import Registry
from lateen.mesh.requestauthentication import RequestAuthentication
from lateen.mesh.scopes import MESH, Scopes, Sidecars, VirtualServices
from lateen.mesh.selectors import SelectorIndex
from lateen.mesh.serviceentry import ServiceEntry
from lateen.mesh.services import Endpoint, Service, ServicePort, from_kubernetes, from_service_entry
from lateen.mesh.sidecar import OutboundTrafficPolicy, Sidecar
from lateen.mesh.trafficextension import TrafficExtension
from lateen.mesh.virtualservice import VirtualService
from lateen.mesh.wasmplugin import WasmPlugin
from lateen.mesh.workload import WorkloadEntry
from lateen.mesh.workloads import GATEWAY_NAME_LABEL, Workload, workloads_of
from lateen.mesh.yaml_source import SourceMap

__all__ = ["MeshView", "MutualTlsMode"]

R = TypeVar("R", bound=Resource)


class MeshView:
    """Build one with `MeshView.build`; the order of its input does not matter."""

    def __init__(
        self,
        resources: Iterable[Resource],
        mesh: MeshConfig,
        sources: Mapping[ResourceKey, SourceMap] | None = None,
        extra_workloads: Iterable[Workload] = (),
    ) -> None:
        """`resources` have distinct keys; `extra_workloads` are those that no resource registers (offline analysis)."""
        self.mesh = mesh
        self.root_namespace: str = mesh.root_namespace
        self.trust_domain: str = mesh.trust_domain
        self._sources = sources or {}
        self._by_kind: dict[str, tuple[Resource, ...]] = {}
        self._resources: dict[ResourceKey, Resource] = {}
        self._index_resources(resources)
        self.workloads: tuple[Workload, ...] = (
            *workloads_of(self._all(WorkloadEntry), self._all(kubernetes.Pod)),
            *extra_workloads,
        )
        self._workloads = {(workload.namespace, workload.name): workload for workload in self.workloads}
        self._by_workload_key: dict[str, list[Workload]] = {}
        for workload in self.workloads:
            self._by_workload_key.setdefault(workload.key, []).append(workload)
        self._peer_authentications = PeerAuthentications(self._all(PeerAuthentication), self.root_namespace)
        self._registry = self._make_registry()
        self.services: Mapping[str, Service] = self._registry.by_hostname
        self._sidecars = Sidecars(self._all(Sidecar), self.root_namespace)
        self._virtual_services = VirtualServices(self._all(VirtualService), mesh.default_virtual_service_export_to)
        self._scopes = Scopes(self._registry, self._virtual_services, self.root_namespace)
        self._destination_rules = DestinationRules(
            self._all(DestinationRule), self.root_namespace, mesh.default_destination_rule_export_to
        )
        self._authorization = Policies(self._all(AuthorizationPolicy), self.root_namespace)
        self._authentication = Policies(self._all(RequestAuthentication), self.root_namespace)
        self._rate_limits = Policies(self._all(RateLimitPolicy), self.root_namespace)
        self.plugins: tuple[WasmPlugin | TrafficExtension, ...] = tuple(
            oldest_first((*self._all(WasmPlugin), *self._all(TrafficExtension)))
        )
        self._plugins = Policies(self.plugins, self.root_namespace)
        self._istio_gateways = SelectorIndex((gateway.spec.selector, gateway) for gateway in self._all(istio.Gateway))
        self._grants = Grants(self._all(gatewayapi.ReferenceGrant))
        self._attachments = Attachments(
            gateways=self._all(gatewayapi.Gateway),
            classes=self._all(gatewayapi.GatewayClass),
            routes=self._all(HTTPRoute),
            namespace_labels={
                namespace.name: namespace.metadata.labels for namespace in self._all(kubernetes.Namespace)
            },
            grants=self._grants,
            has_secret=lambda namespace, name: self.secret(namespace, name) is not None,
        )
        self._addressed_gateways = self._gateways_by_address()

    @classmethod
    def build(cls, resources: Iterable[Located | Resource], mesh: MeshConfig) -> MeshView:
        """Index resources; of two with the same key the one that stands later (file, line) counts."""
        chosen, sources = unique_resources(resources)
        return cls(chosen, mesh, sources)

    def with_workloads(self, extra: Iterable[Workload]) -> MeshView:
        """The same resources, and some workloads more."""
        return MeshView(self._resources.values(), self.mesh, self._sources, extra)

    def _index_resources(self, resources: Iterable[Resource]) -> None:
        groups: dict[str, list[Resource]] = {}
        for resource in resources:
            self._resources[resource.key] = resource
            groups.setdefault(resource.key.kind, []).append(resource)
        self._by_kind = {kind: tuple(oldest_first(group)) for kind, group in groups.items()}

    def _make_registry(self) -> Registry:
        default = self.mesh.default_service_export_to
        return Registry(
            [from_kubernetes(service, default) for service in self._all(kubernetes.Service)],
            [(entry, from_service_entry(entry, default)) for entry in self._all(ServiceEntry)],
            self.workloads,
            self.trust_domain,
            lambda namespace, labels, port: self.mtls_mode(namespace, labels, port) is MutualTlsMode.DISABLE,
        )

    def _gateways_by_address(self) -> dict[tuple[str, str], gatewayapi.Gateway]:
        """Gateways deployed by hand: `spec.addresses` names the Service of the workloads that serve them."""
        found: dict[tuple[str, str], gatewayapi.Gateway] = {}
        for gateway in self._attachments.gateways:
            for address in gateway.spec.addresses:
                services = self._registry.named(address.value or "") if address.type == "Hostname" else ()
                for service in services:
                    for port in service.ports if service.namespace == gateway.namespace else ():
                        for endpoint in self._registry.endpoints(service, port, {}):
                            if endpoint.workload is not None:
                                found.setdefault((endpoint.workload.namespace, endpoint.workload.name), gateway)
        return found

    # resources

    def _all(self, model: type[R]) -> tuple[R, ...]:
        return cast("tuple[R, ...]", self._by_kind.get(model.kind_id or model.__name__, ()))

    def get(self, kind_id: str) -> tuple[Resource, ...]:
        """All resources of a kind: oldest first, then by name, then by namespace."""
        return self._by_kind.get(kind_id, ())

    def resource(self, key: ResourceKey) -> Resource | None:
        """The resource of that key."""
        return self._resources.get(key)

    def source(self, key: ResourceKey) -> SourceMap | None:
        """Where the resource stands in its file, if it came from one."""
        return self._sources.get(key)

    def secret(self, namespace: str, name: str) -> kubernetes.Secret | None:
        """The Secret of that name."""
        found = self._resources.get(ResourceKey("Secret", namespace, name))
        return found if isinstance(found, kubernetes.Secret) else None

    # services and workloads

    def workload(self, namespace: str, name: str) -> Workload | None:
        """The replica registered under that name (its WorkloadEntry's)."""
        return self._workloads.get((namespace, name))

    def workloads_of_key(self, key: str) -> tuple[Workload, ...]:
        """The replicas that share a key, and with it all policies."""
        return tuple(self._by_workload_key.get(key, ()))

    def services_named(self, hostname: str) -> tuple[Service, ...]:
        """The services of that hostname in all namespaces: Kubernetes Services first, then the oldest."""
        return self._registry.named(hostname)

    def service_for(self, client_namespace: str, hostname: str) -> Service | None:
        """The service a client of that namespace means: its own namespace's, else the first exported to it."""
        return self._registry.visible(client_namespace, hostname)

    def endpoints(
        self, service: Service, port: ServicePort, subset_labels: Mapping[str, str] | None = None
    ) -> tuple[Endpoint, ...]:
        """The addresses behind a port, in a stable order; of a subset: those whose labels include the subset's."""
        return self._registry.endpoints(service, port, subset_labels or {})

    def services_of(self, workload: Workload) -> tuple[tuple[Service, ServicePort, int], ...]:
        """The services that select a workload, each of their ports, and the workload's port behind it."""
        return self._registry.services_of(workload)

    # what a client sees

    def sidecar(self, namespace: str, labels: Mapping[str, str]) -> Sidecar | None:
        """The Sidecar that applies to a workload."""
        return self._sidecars.of(namespace, labels)

    def visible_services(
        self, namespace: str, labels: Mapping[str, str], *, scoped: bool = True
    ) -> tuple[Service, ...]:
        """The services a client may call, one a hostname, by hostname; `scoped=False` for gateways, which obey no Sidecar."""
        return self._scopes.services(namespace, self._sidecars.of(namespace, labels) if scoped else None)

    def virtual_services(
        self, namespace: str, labels: Mapping[str, str], gateway: str = MESH
    ) -> tuple[VirtualService, ...]:
        """Those a client's proxy follows, oldest first; `gateway` is `namespace/name` for a gateway's."""
        if gateway != MESH:
            return self._virtual_services.bound(gateway, namespace)
        return self._scopes.virtual_services(namespace, self._sidecars.of(namespace, labels))

    def merged_destination_rule(
        self, client_namespace: str, client_labels: Mapping[str, str], hostname: str
    ) -> MergedRule | None:
        """As `destination_rule`, with the keys of all the rules it was merged from."""
        service = self._registry.visible(client_namespace, hostname)
        namespace = service.namespace if service else None
        return self._destination_rules.applying(client_namespace, client_labels, hostname, namespace)

    def destination_rule(
        self, client_namespace: str, client_labels: Mapping[str, str], hostname: str
    ) -> DestinationRule | None:
        """The rule that counts for a client and a host; several for one host are merged into one."""
        merged = self.merged_destination_rule(client_namespace, client_labels, hostname)
        return merged.rule if merged else None

    def outbound_traffic_policy(
        self, namespace: str, labels: Mapping[str, str]
    ) -> OutboundTrafficPolicy | MeshOutboundTrafficPolicy:
        """What happens to traffic to unknown services: the Sidecar's word, else the mesh's."""
        sidecar = self._sidecars.of(namespace, labels)
        return (sidecar and sidecar.spec.outbound_traffic_policy) or self.mesh.outbound_traffic_policy

    # identity and policies

    def identity_of(self, namespace: str, service_account: str) -> str:
        """`spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`."""
        return str(SpiffeId(self.trust_domain, namespace, service_account))

    def mtls_mode(self, namespace: str, labels: Mapping[str, str], port: int | None = None) -> MutualTlsMode:
        """What a workload accepts on a port (None: on the ports nobody names): DISABLE, PERMISSIVE or STRICT."""
        return self._peer_authentications.mode(namespace, labels, port)

    def peer_authentications(self, namespace: str, labels: Mapping[str, str]) -> tuple[PeerAuthentication, ...]:
        """The PeerAuthentications that have a say about a workload, the nearest scope first."""
        return self._peer_authentications.applying(namespace, labels)

    def authorization_policies(self, workload: Workload) -> tuple[AuthorizationPolicy, ...]:
        """All that apply to a workload, oldest first."""
        return self._authorization.applying(*self._target(workload))

    def request_authentications(self, workload: Workload) -> tuple[RequestAuthentication, ...]:
        """All that apply to a workload, oldest first."""
        return self._authentication.applying(*self._target(workload))

    def rate_limit_policies(self, workload: Workload) -> tuple[RateLimitPolicy, ...]:
        """All that apply to a workload, oldest first."""
        return self._rate_limits.applying(*self._target(workload))

    def plugins_of(self, workload: Workload) -> tuple[WasmPlugin | TrafficExtension, ...]:
        """All that apply to a workload, oldest first; `lateen.mesh.plugins` puts them into the order of a chain."""
        return self._plugins.applying(*self._target(workload))

    def _target(self, workload: Workload) -> tuple[str, Mapping[str, str], str | None]:
        gateway = self.k8s_gateway_of(workload)
        return (workload.namespace, workload.labels, gateway.name if gateway else None)

    # gateways

    def istio_gateways(self, workload: Workload) -> tuple[istio.Gateway, ...]:
        """Istio's Gateways, of any namespace, whose selector selects the workload, oldest first."""
        return self._istio_gateways.selecting(workload.labels)

    def k8s_gateways(self) -> tuple[gatewayapi.Gateway, ...]:
        """The Gateway API Gateways of our classes, oldest first."""
        return self._attachments.gateways

    def k8s_gateway_of(self, workload: Workload) -> gatewayapi.Gateway | None:
        """The Gateway a workload serves: by its label, or because the Gateway's address is a Service that selects it."""
        name = workload.labels.get(GATEWAY_NAME_LABEL)
        if name is None:
            return self._addressed_gateways.get((workload.namespace, workload.name))
        found = self._resources.get(ResourceKey("Gateway", workload.namespace, name))
        return found if isinstance(found, gatewayapi.Gateway) and found in self._attachments else None

    def gateway_status(self, gateway: ResourceKey) -> GatewayStatus:
        """Listeners with their conflicts, and the routes attached to each in precedence order; KeyError: not one of ours."""
        return self._attachments.status(gateway)

    def resolve_backend(self, route: HTTPRoute, ref: BackendObjectReference) -> BackendResolution:
        """The service and port of a backendRef, or why there is none."""
        return resolve_backend(route, ref, self._grants, self._kubernetes_service)

    def _kubernetes_service(self, namespace: str, name: str) -> Service | None:
        found = self._registry.named(service_host(name, namespace))
        return next((service for service in found if service.is_kubernetes), None)

    def reference_granted(
        self, from_kind: str, from_namespace: str, to_kind: str, to_namespace: str, name: str
    ) -> bool:
        """Whether an object may refer to another, here or by a ReferenceGrant; kinds are `KindInfo.id`s."""
        return self._grants.allow(from_kind, from_namespace, to_kind, to_namespace, name)


def unique_resources(
    resources: Iterable[Located | Resource],
) -> tuple[list[Resource], dict[ResourceKey, SourceMap]]:
    """One resource for each key, sorted by key: of several the one that stands last by file, line and content."""
    found: dict[ResourceKey, list[tuple[Resource, SourceMap | None]]] = {}
    for item in resources:
        resource, source = (item, None) if isinstance(item, Resource) else (item.resource, item.source)
        found.setdefault(resource.key, []).append((resource, source))
    chosen = {key: group[0] if len(group) == 1 else max(group, key=_place) for key, group in sorted(found.items())}
    sources = {key: source for key, (_, source) in chosen.items() if source is not None}
    return [resource for resource, _ in chosen.values()], sources


def _place(item: tuple[Resource, SourceMap | None]) -> tuple[str, int, str]:
    resource, source = item
    file, line = (source.file, source.position(()).line) if source else ("", 0)
    return (file, line, resource.model_dump_json())
