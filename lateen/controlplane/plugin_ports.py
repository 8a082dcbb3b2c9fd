"""Plugins of a client that hold on some ports only, where one listener serves all ports: the HTTP proxy of a loopback mesh. Pure.

Its chain has them all, and the virtual hosts of the other ports switch them off (`FilterConfig.disabled`). A host that the mesh does
not know has a virtual host for each port that some plugin names, and one for the rest; without a port in its name it means port 80.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lateen.controlplane import names
from lateen.controlplane.blobs import Blob, Blobs
from lateen.controlplane.findings import Finding
from lateen.controlplane.plugins import WorkloadPlugins, resource_name
from lateen.controlplane.scope import Scope
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.mesh.plugins import Plugin, Side

_HTTP_PORT = 80
_ANY = "*"
_WITHOUT_PORT = r"[^:]*|\[[^\]]*\]"


def with_plugins_by_port(blobs: Sequence[Blob], plugins: WorkloadPlugins, interner: Blobs) -> list[Blob]:
    """The resources of one proxy, its proxy routes with plugins switched off on the ports where they do not hold."""
    choosy = plugins.choosy(Side.CLIENT)
    if not choosy:
        return list(blobs)
    return [_marked(blob, choosy, interner) if _is_proxy_routes(blob) else blob for blob in blobs]


def _is_proxy_routes(blob: Blob) -> bool:
    return blob.type_url == names.RDS and blob.name == names.HTTP_PROXY_ROUTES


def _marked(blob: Blob, choosy: Sequence[Plugin], interner: Blobs) -> Blob:
    routes = route_pb2.RouteConfiguration.FromString(blob.data)
    known = list(routes.virtual_hosts)
    del routes.virtual_hosts[:]
    for host in known:
        routes.virtual_hosts.extend(_unknown(host, choosy) if _ANY in host.domains else [_known(host, choosy)])
    return interner.intern(names.RDS, blob.name, routes, (*blob.origins, *(plugin.key for plugin in choosy)))


def _known(host: rc.VirtualHost, choosy: Sequence[Plugin]) -> rc.VirtualHost:
    """The virtual host of one port, which its name ends with."""
    _switch_off(host, choosy, int(host.name.rpartition(":")[2]))
    return host


def _unknown(host: rc.VirtualHost, choosy: Sequence[Plugin]) -> Iterator[rc.VirtualHost]:
    """The virtual host of all other names, and before it one for each port that matters."""
    ports = sorted(frozenset[int]().union(*(plugin.ports(Side.CLIENT) for plugin in choosy)))
    for port in ports:
        copy = rc.VirtualHost()
        copy.CopyFrom(host)
        copy.name, copy.domains[:] = f"{host.name}:{port}", [f"*:{port}"]
        _switch_off(copy, choosy, port)
        yield copy
    made = list(host.routes)
    del host.routes[:]
    for route in made:
        if _HTTP_PORT in ports:
            plain = host.routes.add()
            plain.CopyFrom(route)
            plain.match.headers.add(name=":authority").string_match.safe_regex.regex = _WITHOUT_PORT
            _switch_off(plain, choosy, _HTTP_PORT)
        rest = host.routes.add()
        rest.CopyFrom(route)
        _switch_off(rest, choosy, None)
    yield host


def _switch_off(place: rc.VirtualHost | rc.Route, choosy: Sequence[Plugin], port: int | None) -> None:
    for plugin in choosy:
        if not plugin.holds(Side.CLIENT, port):
            place.typed_per_filter_config[resource_name(plugin)].Pack(rc.FilterConfig(disabled=True))


def unmatched_ports(scope: Scope) -> Iterator[Finding]:
    """A network plugin stands before HTTP is read: in the one listener for HTTP calls it cannot know their ports."""
    http = {p.number for s in scope.services for p in s.ports if p.protocol.is_http and not p.protocol.is_http2}
    for plugin in scope.plugins.plugins:
        for index, entry in enumerate(plugin.match):
            missed = sorted(entry.ports & http) if Side.CLIENT in entry.sides else []
            if plugin.network and missed and not plugin.holds(Side.CLIENT, None):
                message = (
                    "HTTP calls to all ports leave a client of a loopback mesh through one listener: "
                    f"a network plugin does not hold there for port {', '.join(map(str, missed))}"
                )
                yield Finding(plugin.key, f"spec.match[{index}].ports", message)
