"""`MeshView`: everything known about the mesh at one moment, indexed, immutable. Every part asks it; nothing edits it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from lateen.mesh.services import Endpoint, Service, ServicePort
from lateen.mesh.workloads import Workload

if TYPE_CHECKING:
    from lateen.mesh import gateway as istio
    from lateen.mesh import gatewayapi
    from lateen.mesh.authorizationpolicy import AuthorizationPolicy
    from lateen.mesh.destinationrule import DestinationRule
    from lateen.mesh.gateway_attachment import BackendResolution, GatewayStatus
    from lateen.mesh.httproute import HTTPBackendRef, HTTPRoute
    from lateen.mesh.kinds import ResourceKey
    from lateen.mesh.kubernetes import Secret
    from lateen.mesh.loader import Located
    from lateen.mesh.meshconfig import MeshConfig, OutboundTrafficPolicy
    from lateen.mesh.metadata import Resource
    from lateen.mesh.ratelimitpolicy import RateLimitPolicy
    from lateen.mesh.requestauthentication import RequestAuthentication
    from lateen.mesh.sidecar import Sidecar
    from lateen.mesh.virtualservice import VirtualService
    from lateen.mesh.yaml_source import SourceMap


class MutualTlsMode(StrEnum):
    """What a workload accepts on a port, after all PeerAuthentications were considered."""

    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


class MeshView:
    """Build one with `MeshView.build`; the order of its input does not matter."""

    mesh: MeshConfig
    root_namespace: str
    trust_domain: str
    services: Mapping[str, Service]
    workloads: tuple[Workload, ...]

    @classmethod
    def build(cls, resources: Iterable[Located | Resource], mesh: MeshConfig) -> MeshView:
        """Index resources; of two with the same key the one that stands later (file, line) counts."""
        raise NotImplementedError

    # resources
    def get(self, kind_id: str) -> tuple[Resource, ...]:
        """All resources of a kind: oldest first, then by name, then by namespace."""
        raise NotImplementedError

    def resource(self, key: ResourceKey) -> Resource | None: raise NotImplementedError
    def source(self, key: ResourceKey) -> SourceMap | None: raise NotImplementedError
    def secret(self, namespace: str, name: str) -> Secret | None: raise NotImplementedError

    # services and workloads
    def workload(self, namespace: str, name: str) -> Workload | None: raise NotImplementedError
    def workloads_of_key(self, key: str) -> tuple[Workload, ...]: raise NotImplementedError
    def services_named(self, hostname: str) -> tuple[Service, ...]: raise NotImplementedError
    def service_for(self, client_namespace: str, hostname: str) -> Service | None:
        """The service a client of that namespace means: its own namespace's, else the oldest exported to it."""
        raise NotImplementedError
    def endpoints(self, service: Service, port: ServicePort, subset_labels: Mapping[str, str] | None = None) -> tuple[Endpoint, ...]: raise NotImplementedError
    def services_of(self, workload: Workload) -> tuple[tuple[Service, ServicePort, int], ...]: raise NotImplementedError

    # what a client sees
    def sidecar(self, namespace: str, labels: Mapping[str, str]) -> Sidecar | None: raise NotImplementedError
    def visible_services(self, namespace: str, labels: Mapping[str, str]) -> tuple[Service, ...]: raise NotImplementedError
    def virtual_services(self, namespace: str, labels: Mapping[str, str], gateway: str = "mesh") -> tuple[VirtualService, ...]: raise NotImplementedError
    def destination_rule(self, client_namespace: str, client_labels: Mapping[str, str], hostname: str) -> DestinationRule | None: raise NotImplementedError
    def outbound_traffic_policy(self, namespace: str, labels: Mapping[str, str]) -> OutboundTrafficPolicy | None: raise NotImplementedError

    # identity and policies
    def identity_of(self, namespace: str, service_account: str) -> str: raise NotImplementedError
    def mtls_mode(self, namespace: str, labels: Mapping[str, str], port: int | None = None) -> MutualTlsMode: raise NotImplementedError
    def authorization_policies(self, workload: Workload) -> tuple[AuthorizationPolicy, ...]: raise NotImplementedError
    def request_authentications(self, workload: Workload) -> tuple[RequestAuthentication, ...]: raise NotImplementedError
    def rate_limit_policies(self, workload: Workload) -> tuple[RateLimitPolicy, ...]: raise NotImplementedError

    # gateways
    def istio_gateways(self, workload: Workload) -> tuple[istio.Gateway, ...]: raise NotImplementedError
    def k8s_gateways(self) -> tuple[gatewayapi.Gateway, ...]: raise NotImplementedError
    def k8s_gateway_of(self, workload: Workload) -> gatewayapi.Gateway | None: raise NotImplementedError
    def gateway_status(self, gateway: ResourceKey) -> GatewayStatus:
        """Listeners with their conflicts, and the routes attached to each in precedence order (gateway_attachment.py)."""
        raise NotImplementedError
    def http_routes(self, gateway: ResourceKey) -> tuple[HTTPRoute, ...]: raise NotImplementedError
    def resolve_backend(self, route: HTTPRoute, ref: HTTPBackendRef) -> BackendResolution: raise NotImplementedError
    def reference_granted(self, from_kind: str, from_namespace: str, to_kind: str, to_namespace: str, name: str) -> bool: raise NotImplementedError
