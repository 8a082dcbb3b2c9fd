"""Outbound virtual hosts of sidecars: one a service, under every name by which the client may call it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lateen.controlplane import names, routes
from lateen.controlplane.destinations import Destinations
from lateen.controlplane.protos import ZERO, duration
from lateen.controlplane.proxy import Mode
from lateen.controlplane.route_matches import MESH, Client
from lateen.controlplane.routes import RouteContext, virtual_host
from lateen.controlplane.scope import Scope
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.mesh.hosts import HostIndex, fqdn, is_wildcard, short_names
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.meshconfig import OutboundMode
from lateen.mesh.services import Service, ServicePort
from lateen.mesh.virtualservice import VirtualService

ALLOW_ANY = "allow_any"
BLOCK_ALL = "block_all"
_HTTP_PORT = 80
_BAD_GATEWAY = 502


def carries_http(port: ServicePort) -> bool:
    """Whether requests on this port are routed; a port of unknown protocol may carry them."""
    return port.protocol.is_http or port.protocol.is_sniffed


def http_ports(scope: Scope) -> list[int]:
    """The port numbers on which the client may meet HTTP."""
    return sorted({port.number for service in scope.services for port in service.ports if carries_http(port)})


class HostBuilder:
    """Makes the virtual hosts of one scope; a VirtualService is translated once a port."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        own = [vs for vs in scope.virtual_services if vs.spec.http]
        self._virtual_services = HostIndex((fqdn(host, vs.namespace), vs) for vs in own for host in vs.spec.hosts)
        self._hosts = list(dict.fromkeys(fqdn(host, vs.namespace) for vs in own for host in vs.spec.hosts))
        self._translated: dict[tuple[ResourceKey, int], list[rc.Route]] = {}

    def context(self, port: int) -> RouteContext:
        """How routes are made for a listener port of this client."""
        client = Client(MESH, port, self.scope.namespace, self.scope.labels)
        retry = self.scope.view.mesh.default_http_retry_policy
        return RouteContext(client, Destinations(self.scope, port), self.scope.delegate, retry)

    def _routes(self, virtual_service: VirtualService, port: int) -> list[rc.Route]:
        key = virtual_service.key, port
        if key not in self._translated:
            self._translated[key] = routes.translate_virtual_service(
                virtual_service, self.context(port), self.scope.findings
            )
        return self._translated[key]

    def service_routes(self, service: Service, port: int) -> tuple[list[rc.Route], tuple[ResourceKey, ...]]:
        """The routes of a service, its VirtualService's or the default one, and where they come from."""
        for virtual_service in self._virtual_services.most_specific(service.hostname)[:1]:
            made = self._routes(virtual_service, port)
            if made:
                return made, (service.origin, virtual_service.key)
        cluster = names.outbound_cluster(service.hostname, port)
        self.scope.refer(cluster, service.origin)
        return [routes.default_route(cluster, self.context(port), [service.origin])], (service.origin,)

    def port_hosts(self, port: int, taken: set[str], *, with_port: bool) -> Iterator[rc.VirtualHost]:
        """Services that have this port, then VirtualService hosts that are no service."""
        for service in self.scope.services:
            found = service.port(port)
            if found is None or not carries_http(found):
                continue
            made, origins = self.service_routes(service, port)
            yield from self._host(service.hostname, port, _names(self.scope, service), made, origins, taken, with_port)
        for host in self._hosts:
            if not is_wildcard(host) and self.scope.service(host) is not None:
                continue  # a service, but not on this port
            for virtual_service in self._virtual_services.most_specific(host)[:1]:
                made = self._routes(virtual_service, port)
                if made:
                    yield from self._host(host, port, [host], made, [virtual_service.key], taken, with_port)

    def _host(  # noqa: PLR0917
        self,
        name: str,
        port: int,
        hosts: Iterable[str],
        made: Sequence[rc.Route],
        origins: Sequence[ResourceKey],
        taken: set[str],
        with_port: bool,  # noqa: FBT001
    ) -> Iterator[rc.VirtualHost]:
        """Domains are unique within a route configuration; the first virtual host keeps a disputed one."""
        wanted = [domain for host in hosts for domain in _domains(host, port, with_port=with_port)]
        domains = [domain for domain in dict.fromkeys(wanted) if domain not in taken]
        if domains:
            taken.update(domains)
            yield virtual_host(f"{name}:{port}", domains, made, origins)


def _names(scope: Scope, service: Service) -> list[str]:
    result = [service.hostname, *short_names(service.hostname, scope.namespace)]
    result.extend(f"[{a}]" if ":" in a else a for a in service.addresses if "/" not in a)
    if service.headless and scope.mode == Mode.REDIRECT:
        result.append(f"*.{service.hostname}")
    return result


def _domains(host: str, port: int, *, with_port: bool) -> list[str]:
    if not with_port or host == "*":
        return [host]
    return [host, f"{host}:{port}"] if port == _HTTP_PORT else [f"{host}:{port}"]


def port_route_configuration(builder: HostBuilder, port: int) -> route_pb2.RouteConfiguration:
    """Routes of a captured port: the port is known, so names stand without it."""
    taken: set[str] = set()
    hosts = list(builder.port_hosts(port, taken, with_port=False))
    if "*" not in taken:
        hosts.append(unknown_host(builder.scope))
    return routes.route_configuration(str(port), hosts, ignore_port=True)


def proxy_route_configuration(builder: HostBuilder) -> route_pb2.RouteConfiguration:
    """Routes of the explicit HTTP proxy: all ports at once, each name with its port."""
    taken: set[str] = set()
    hosts: list[rc.VirtualHost] = []
    for port in http_ports(builder.scope):
        hosts.extend(builder.port_hosts(port, taken, with_port=True))
    if "*" not in taken:
        hosts.append(unknown_host(builder.scope))
    return routes.route_configuration(names.HTTP_PROXY_ROUTES, hosts)


def service_route_configuration(builder: HostBuilder, service: Service, port: int) -> route_pb2.RouteConfiguration:
    """Routes of a listener that belongs to one service port, whatever name the client uses."""
    made, origins = builder.service_routes(service, port)
    host = virtual_host(f"{service.hostname}:{port}", ["*"], made, origins)
    return routes.route_configuration(service_routes_name(service, port), [host])


def service_routes_name(service: Service, port: int) -> str:
    """`reviews.default.svc.cluster.local:9080`."""
    return f"{service.hostname}:{port}"


def allows_any(scope: Scope) -> bool:
    """Whether traffic to unknown hosts passes: the Sidecar's policy, else the mesh's."""
    mode = scope.view.outbound_traffic_policy(scope.namespace, scope.labels).mode
    return str(mode) != OutboundMode.REGISTRY_ONLY


def unknown_host(scope: Scope) -> rc.VirtualHost:
    """Hosts outside of the registry: forwarded as they are, or refused with 502."""
    allowed = allows_any(scope)
    name = ALLOW_ANY if allowed else BLOCK_ALL
    route = rc.Route(name=name, match=rc.RouteMatch(prefix="/"))
    if allowed:
        route.route.cluster = names.PASSTHROUGH
        route.route.timeout.CopyFrom(duration(ZERO))
    else:
        route.direct_response.status = _BAD_GATEWAY
    return virtual_host(name, ["*"], [route])
