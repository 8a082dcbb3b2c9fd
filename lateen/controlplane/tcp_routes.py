"""VirtualService `tcp` and `tls` rules: weighted destinations of connections."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from lateen.controlplane.destinations import Destinations
from lateen.controlplane.findings import TranslationError
from lateen.controlplane.route_matches import MESH, Client, qualified_gateway
from lateen.mesh import virtualservice as vs
from lateen.mesh.kinds import ResourceKey


@dataclasses.dataclass(frozen=True, slots=True)
class TcpTarget:
    """Where connections go: clusters by weight; for TLS, under which server names; to which subnets, if it matters."""

    clusters: tuple[tuple[str, int], ...]
    origin: ResourceKey
    server_names: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()


def tcp_targets(virtual_service: vs.VirtualService, client: Client, destinations: Destinations) -> Iterator[TcpTarget]:
    """The `tcp` rules for this client and port, in order, up to the first without conditions on the address."""
    for index, rule in enumerate(virtual_service.spec.tcp):
        subnets = [m.destination_subnets for m in rule.match if _applies(m, client, virtual_service.namespace)]
        if rule.match and not subnets:
            continue
        clusters = weighted(rule.route, virtual_service, destinations, f"spec.tcp[{index}]")
        narrow = tuple(sorted({s for group in subnets for s in group})) if all(subnets) else ()
        yield TcpTarget(clusters, virtual_service.key, subnets=narrow)
        if not narrow:
            return


def tls_targets(virtual_service: vs.VirtualService, client: Client, destinations: Destinations) -> Iterator[TcpTarget]:
    """The `tls` rules for this client and port."""
    for index, rule in enumerate(virtual_service.spec.tls):
        for match in rule.match:
            if _applies(match, client, virtual_service.namespace):
                clusters = weighted(rule.route, virtual_service, destinations, f"spec.tls[{index}]")
                yield TcpTarget(clusters, virtual_service.key, match.sni_hosts, match.destination_subnets)


def weighted(
    routes: Sequence[vs.RouteDestination], owner: vs.VirtualService, destinations: Destinations, path: str
) -> tuple[tuple[str, int], ...]:
    """Clusters by weight; a single destination needs no weight."""
    chosen = [r for r in routes if (r.weight or 0) > 0] if len(routes) > 1 else list(routes)
    if not chosen:
        raise TranslationError(f"{path} has no destination with a weight")
    return tuple((destinations.cluster(r.destination, owner.namespace, owner.key), r.weight or 1) for r in chosen)


def _applies(match: vs.L4MatchAttributes | vs.TLSMatchAttributes, client: Client, own_namespace: str) -> bool:
    if match.gateways and client.gateway not in {qualified_gateway(g, own_namespace) for g in match.gateways}:
        return False
    if match.port and match.port != client.port:
        return False
    if client.gateway != MESH:
        return True
    if match.source_namespace and match.source_namespace != client.namespace:
        return False
    return _subset(match.source_labels, client.labels)


def _subset(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())
