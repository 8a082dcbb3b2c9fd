"""Sidecar (networking.istio.io): what a sidecar listens on and which services it knows."""

from enum import StrEnum

from lateen.mesh.destinationrule import ConnectionPoolSettings
from lateen.mesh.gateway import ServerTLSSettings
from lateen.mesh.metadata import Resource
from lateen.mesh.spec import Spec, UInt32, WorkloadSelector
from lateen.mesh.virtualservice import Destination


class CaptureMode(StrEnum):
    """How traffic reaches a listener."""

    DEFAULT = "DEFAULT"
    IPTABLES = "IPTABLES"
    NONE = "NONE"


class SidecarPort(Spec):
    """A port of a sidecar listener."""

    number: UInt32 | None = None
    protocol: str | None = None
    name: str | None = None
    target_port: UInt32 | None = None


class IstioIngressListener(Spec):
    """An inbound listener."""

    port: SidecarPort
    bind: str | None = None
    capture_mode: CaptureMode = CaptureMode.DEFAULT
    default_endpoint: str | None = None
    tls: ServerTLSSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None


class IstioEgressListener(Spec):
    """An outbound listener, and the hosts (`namespace/dns`) it serves."""

    port: SidecarPort | None = None
    bind: str | None = None
    capture_mode: CaptureMode = CaptureMode.DEFAULT
    hosts: tuple[str, ...]


class OutboundMode(StrEnum):
    """What happens to traffic to unknown services."""

    REGISTRY_ONLY = "REGISTRY_ONLY"
    ALLOW_ANY = "ALLOW_ANY"


class OutboundTrafficPolicy(Spec):
    """Traffic to services that are not in the registry."""

    mode: OutboundMode | None = None
    egress_proxy: Destination | None = None


class SidecarSpec(Spec):
    """Scope and listeners of the workloads selected."""

    workload_selector: WorkloadSelector | None = None
    ingress: tuple[IstioIngressListener, ...] = ()
    egress: tuple[IstioEgressListener, ...] = ()
    inbound_connection_pool: ConnectionPoolSettings | None = None
    outbound_traffic_policy: OutboundTrafficPolicy | None = None


class Sidecar(Resource):
    """What a sidecar listens on and which services it knows."""

    api_version: str = "networking.istio.io/v1"
    kind: str = "Sidecar"
    spec: SidecarSpec = SidecarSpec()
