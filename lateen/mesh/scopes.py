"""What a client sees: exportTo of services and VirtualServices, narrowed by the Sidecar that applies to it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lateen.mesh.hosts import covers, fqdn
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.registry import Registry
from lateen.mesh.selectors import SelectorIndex, by_namespace
from lateen.mesh.services import Service, ServicePort, exported
from lateen.mesh.sidecar import IstioEgressListener, Sidecar
from lateen.mesh.virtualservice import VirtualService

MESH = "mesh"
OUR_SERVICES = "lateen-"


class Sidecars:
    """All Sidecars, oldest first: one with a selector wins over its namespace's, that over the root namespace's."""

    def __init__(self, sidecars: Iterable[Sidecar], root_namespace: str) -> None:
        self._root = root_namespace
        self._wide: dict[str, Sidecar] = {}
        selecting: list[Sidecar] = []
        for sidecar in sidecars:
            if sidecar.spec.workload_selector is None:
                self._wide.setdefault(sidecar.namespace, sidecar)
            else:
                selecting.append(sidecar)
        self._selecting = {
            namespace: SelectorIndex((selector_labels(sidecar), sidecar) for sidecar in group)
            for namespace, group in by_namespace(selecting, lambda sidecar: sidecar.namespace).items()
        }

    def of(self, namespace: str, labels: Mapping[str, str]) -> Sidecar | None:
        """The one that applies to a workload."""
        index = self._selecting.get(namespace)
        found = index.selecting(labels)[:1] if index else ()
        return found[0] if found else self._wide.get(namespace) or self._wide.get(self._root)


def selector_labels(sidecar: Sidecar) -> Mapping[str, str]:
    """The labels its workloadSelector asks for."""
    return sidecar.spec.workload_selector.labels if sidecar.spec.workload_selector else {}


@dataclass(frozen=True)
class _Listener:
    """One egress listener: `namespace/host` patterns, those excluded, and the port it is for (none: all others)."""

    port: int
    includes: tuple[tuple[str, str], ...]
    excludes: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, listener: IstioEgressListener, namespace: str) -> "_Listener":
        includes: list[tuple[str, str]] = []
        excludes: list[tuple[str, str]] = []
        for entry in listener.hosts:
            scope, _, host = entry.rpartition("/")
            if scope == "~":
                continue
            target = excludes if scope.startswith("~") else includes
            scope = scope.removeprefix("~")
            target.append((namespace if scope in {".", ""} else scope, host))
        return cls((listener.port and listener.port.number) or 0, tuple(includes), tuple(excludes))

    def shows(self, namespace: str, host: str, *, overlap: bool = False) -> bool:
        """Whether a host of `namespace` is included; `overlap`: whether a part of what it stands for is."""
        included = any(_matches(pattern, namespace, host, overlap=overlap) for pattern in self.includes)
        return included and not any(_matches(pattern, namespace, host) for pattern in self.excludes)


def _matches(pattern: tuple[str, str], namespace: str, host: str, *, overlap: bool = False) -> bool:
    scope, name = pattern
    if scope not in {"*", namespace}:
        return False
    return covers(name, host) or (overlap and covers(host, name))


class VirtualServices:
    """All VirtualServices with hosts, oldest first, by the gateway they are bound to."""

    def __init__(self, services: Iterable[VirtualService], default_export: Iterable[str]) -> None:
        self._default = frozenset(default_export) or frozenset("*")
        self._by_gateway: dict[str, list[VirtualService]] = {}
        for service in services:
            for gateway in gateways_of(service) if service.spec.hosts else ():
                self._by_gateway.setdefault(gateway, []).append(service)

    def bound(self, gateway: str, client_namespace: str) -> tuple[VirtualService, ...]:
        """Those of a gateway (`namespace/name`, or `mesh`) that are exported to the client's namespace."""
        found = self._by_gateway.get(gateway, ())
        return tuple(vs for vs in found if exported(vs.spec.export_to or self._default, vs.namespace, client_namespace))


def gateways_of(service: VirtualService) -> tuple[str, ...]:
    """The gateways a VirtualService is bound to, as `namespace/name` or `mesh`."""
    return tuple(dict.fromkeys(gateway_name(name, service.namespace) for name in service.spec.gateways or (MESH,)))


def gateway_name(name: str, namespace: str) -> str:
    """The full name of a gateway that an object in `namespace` calls `name`."""
    if name == MESH:
        return MESH
    scope, slash, rest = name.partition("/")
    if not slash:
        return f"{namespace}/{name}"
    return f"{namespace}/{rest}" if scope == "." else name


def destination_hosts(service: VirtualService) -> frozenset[str]:
    """The full names of all hosts it may send traffic to."""
    spec = service.spec
    hosts = [d.destination.host for http in spec.http for d in http.route]
    hosts += [m.destination.host for http in spec.http for m in http.mirrors]
    hosts += [http.mirror.host for http in spec.http if http.mirror]
    hosts += [d.destination.host for tls in spec.tls for d in tls.route]
    hosts += [d.destination.host for tcp in spec.tcp for d in tcp.route]
    return frozenset(fqdn(host, service.namespace) for host in hosts)


class Scopes:
    """Answers for clients, worked out once for each namespace and Sidecar."""

    def __init__(self, registry: Registry, virtual_services: VirtualServices, root_namespace: str) -> None:
        self._registry = registry
        self._virtual_services = virtual_services
        self._root = root_namespace
        self._services: dict[tuple[str, ResourceKey | None], tuple[Service, ...]] = {}
        self._routes: dict[tuple[str, ResourceKey | None], tuple[VirtualService, ...]] = {}

    def services(self, namespace: str, sidecar: Sidecar | None) -> tuple[Service, ...]:
        """One service a hostname, by hostname; with the ports that the Sidecar shows."""
        key = (namespace, sidecar.key if sidecar else None)
        found = self._services.get(key)
        if found is None:
            found = self._services[key] = tuple(self._visible(namespace, sidecar))
        return found

    def virtual_services(self, namespace: str, sidecar: Sidecar | None) -> tuple[VirtualService, ...]:
        """Those bound to `mesh` with a host that the client may know, oldest first."""
        key = (namespace, sidecar.key if sidecar else None)
        found = self._routes.get(key)
        if found is None:
            bound = self._virtual_services.bound(MESH, namespace)
            listeners = _listeners(sidecar, namespace)
            found = self._routes[key] = (
                bound if listeners is None else tuple(vs for vs in bound if _routes(listeners, vs))
            )
        return found

    def _visible(self, namespace: str, sidecar: Sidecar | None) -> Iterable[Service]:
        listeners = _listeners(sidecar, namespace)
        found: dict[str, Service] = {}
        for service in self._registry.all:  # the client's own namespace first, then the registry's order
            if exported(service.export_to, service.namespace, namespace):
                shown = service if listeners is None else _shown(listeners, service)
                known = found.get(service.hostname)
                if shown is not None and (known is None or (service.namespace == namespace != known.namespace)):
                    found[service.hostname] = shown
        if listeners is not None:
            for virtual_service in self.virtual_services(namespace, sidecar):
                for host in destination_hosts(virtual_service) - found.keys():
                    service_or_none = self._registry.visible(namespace, host)
                    if service_or_none is not None:
                        found[host] = service_or_none
        for service in self._registry.all:  # every proxy needs our own services, whatever its Sidecar says
            if service.namespace == self._root and service.name.startswith(OUR_SERVICES) and service.is_kubernetes:
                found[service.hostname] = service
        return (found[host] for host in sorted(found))


def _listeners(sidecar: Sidecar | None, namespace: str) -> tuple[_Listener, ...] | None:
    """The egress listeners; None when nothing narrows what the client sees."""
    if sidecar is None or not sidecar.spec.egress:
        return None
    return tuple(_Listener.of(listener, namespace) for listener in sidecar.spec.egress)


def _routes(listeners: tuple[_Listener, ...], service: VirtualService) -> bool:
    hosts = [fqdn(host, service.namespace) for host in service.spec.hosts]
    return any(listener.shows(service.namespace, host, overlap=True) for listener in listeners for host in hosts)


def _shown(listeners: tuple[_Listener, ...], service: Service) -> Service | None:
    """The service with the ports a Sidecar shows: a listener for a port alone decides about that port."""
    reserved = {listener.port for listener in listeners if listener.port}

    def shown(port: ServicePort) -> bool:
        responsible = port.number if port.number in reserved else 0
        return any(one.port == responsible and one.shows(service.namespace, service.hostname) for one in listeners)

    ports = tuple(port for port in service.ports if shown(port))
    if len(ports) == len(service.ports) and ports:
        return service
    return replace(service, ports=ports) if ports else None
