"""Services as clients see them, whatever declared them: a Kubernetes Service or a ServiceEntry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from lateen.mesh import kubernetes
from lateen.mesh.hosts import service_host
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.protocols import Protocol, parse_protocol, port_protocol
from lateen.mesh.serviceentry import Location, ServiceEntry, ServiceEntryResolution
from lateen.mesh.workloads import Workload

__all__ = ["Endpoint", "Protocol", "Resolution", "Service", "ServicePort", "from_kubernetes", "from_service_entry"]

EXPORT_TO_ANNOTATION = "networking.istio.io/exportTo"
_HEADLESS = "None"


class Resolution(StrEnum):
    """How a proxy finds the endpoints of a service."""

    CLIENT_SIDE = "ClientSideLB"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNSRoundRobin"
    PASSTHROUGH = "Passthrough"
    DYNAMIC_DNS = "DynamicDNS"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a service. `target_port` is a number, or the name of a port of the workload.

    When the author wrote no target port, `explicit` is false and a workload may map the port by its name to another number.
    """

    number: int
    name: str
    protocol: Protocol
    target_port: int | str
    explicit: bool = True


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
    selector: Mapping[str, str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    external_name: str = ""

    def port(self, number: int) -> ServicePort | None:
        """The port with this number."""
        return next((port for port in self.ports if port.number == number), None)

    @property
    def is_kubernetes(self) -> bool:
        """Whether a Kubernetes Service declared it."""
        return self.origin.kind == "Service"


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


def exported(export_to: Iterable[str], owner_namespace: str, client_namespace: str) -> bool:
    """Whether an object of `owner_namespace` may be seen from `client_namespace` (`*` all, `.` its own, `~` none, or names)."""
    scopes = frozenset(export_to)
    own = owner_namespace == client_namespace
    return "*" in scopes or client_namespace in scopes or (own and "." in scopes)


def from_kubernetes(service: kubernetes.Service, default_export: Iterable[str] = ()) -> Service:
    """The service a Kubernetes Service declares."""
    spec, meta = service.spec, service.metadata
    external_name = (spec.external_name or "") if spec.type is kubernetes.ServiceType.EXTERNAL_NAME else ""
    addresses = tuple(dict.fromkeys(ip for ip in (spec.cluster_ip, *spec.cluster_ips) if ip and ip != _HEADLESS))
    export = meta.annotations.get(EXPORT_TO_ANNOTATION, "")
    return Service(
        hostname=service_host(service.name, service.namespace),
        name=service.name,
        namespace=service.namespace,
        ports=tuple(_kubernetes_port(port) for port in spec.ports),
        addresses=addresses,
        resolution=Resolution.DNS if external_name else Resolution.CLIENT_SIDE,
        external=bool(external_name),
        export_to=frozenset(part.strip() for part in export.split(",") if part.strip())
        or frozenset(default_export)
        or frozenset("*"),
        created=meta.creation_timestamp,
        origin=service.key,
        headless=spec.cluster_ip == _HEADLESS,
        selector=dict(sorted(spec.selector.items())) or None,
        labels=meta.labels,
        annotations=meta.annotations,
        external_name=external_name.lower().rstrip("."),
    )


def _kubernetes_port(port: kubernetes.ServicePort) -> ServicePort:
    explicit = port.target_port is not None
    return ServicePort(
        number=port.port,
        name=port.name or "",
        protocol=port_protocol(port.port, port.name or "", port.protocol, port.app_protocol or ""),
        target_port=port.port if port.target_port is None else port.target_port,
        explicit=explicit,
    )


def from_service_entry(entry: ServiceEntry, default_export: Iterable[str] = ()) -> tuple[Service, ...]:
    """The services a ServiceEntry declares: one for each of its hosts."""
    spec = entry.spec
    ports = tuple(
        ServicePort(
            number=port.number,
            name=port.name or "",
            protocol=parse_protocol(port.protocol or ""),
            target_port=port.target_port or port.number,
            explicit=bool(port.target_port),
        )
        for port in spec.ports
    )
    return tuple(
        Service(
            hostname=host.lower(),
            name=host.lower(),
            namespace=entry.namespace,
            ports=ports,
            addresses=tuple(address for address in spec.addresses if address),
            resolution=_RESOLUTIONS[spec.resolution],
            external=spec.location is Location.MESH_EXTERNAL,
            export_to=frozenset(spec.export_to) or frozenset(default_export) or frozenset("*"),
            created=entry.metadata.creation_timestamp,
            origin=entry.key,
            subject_alt_names=spec.subject_alt_names,
            selector=dict(sorted(spec.workload_selector.labels.items())) if spec.workload_selector else None,
            labels=entry.metadata.labels,
            annotations=entry.metadata.annotations,
        )
        for host in dict.fromkeys(spec.hosts)
    )


_RESOLUTIONS = {
    ServiceEntryResolution.NONE: Resolution.PASSTHROUGH,
    ServiceEntryResolution.STATIC: Resolution.CLIENT_SIDE,
    ServiceEntryResolution.DNS: Resolution.DNS,
    ServiceEntryResolution.DNS_ROUND_ROBIN: Resolution.DNS_ROUND_ROBIN,
    ServiceEntryResolution.DYNAMIC_DNS: Resolution.DYNAMIC_DNS,
}
