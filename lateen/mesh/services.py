"""Services as clients see them, whatever declared them: a Kubernetes Service or a ServiceEntry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from lateen.mesh.kinds import ResourceKey
from lateen.mesh.workloads import Workload


class Protocol(StrEnum):
    """The protocol of a service port; UNSUPPORTED means that nobody said it, so it has to be sniffed."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"
    GRPC_WEB = "GRPC-Web"
    HTTPS = "HTTPS"
    TLS = "TLS"
    TCP = "TCP"
    UDP = "UDP"
    MONGO = "Mongo"
    REDIS = "Redis"
    MYSQL = "MySQL"
    UNSUPPORTED = "UnsupportedProtocol"

    @property
    def is_http(self) -> bool:
        """Whether a proxy reads requests of this protocol in plaintext."""
        return self in _HTTP

    @property
    def is_http2(self) -> bool:
        """Whether HTTP/2 is spoken for certain."""
        return self in {Protocol.HTTP2, Protocol.GRPC}

    @property
    def is_tls(self) -> bool:
        """Whether the application itself encrypts."""
        return self in {Protocol.HTTPS, Protocol.TLS}

    @property
    def is_sniffed(self) -> bool:
        """Whether a proxy has to find out the protocol."""
        return self is Protocol.UNSUPPORTED


_HTTP = frozenset({Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB})


class Resolution(StrEnum):
    """How a proxy finds the endpoints of a service."""

    CLIENT_SIDE = "ClientSideLB"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNSRoundRobin"
    PASSTHROUGH = "Passthrough"
    DYNAMIC_DNS = "DynamicDNS"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a service. `target_port` is a number, or the name of a port of the workload."""

    number: int
    name: str
    protocol: Protocol
    target_port: int | str


@dataclass(frozen=True)
class Service:
    """A service by one hostname. `addresses` are VIPs (none: headless, or known by name only)."""

    hostname: str
    name: str
    namespace: str
    ports: tuple[ServicePort, ...]
    addresses: tuple[str, ...]
    resolution: Resolution
    external: bool
    export_to: frozenset[str]
    created: datetime | None
    origin: ResourceKey
    subject_alt_names: tuple[str, ...] = ()
    headless: bool = False
    selector: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def port(self, number: int) -> ServicePort | None:
        """The port with this number."""
        return next((port for port in self.ports if port.number == number), None)


@dataclass(frozen=True)
class Endpoint:
    """One address that serves a port of a service. `service_account_identity` is empty when the peer has none."""

    address: str
    port: int
    workload: Workload | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    weight: int = 1
    locality: str = ""
    network: str = ""
    tls_mode: str = "disabled"
    service_account_identity: str = ""
