"""Outbound listeners of sidecars: captured ports (REDIRECT), or an explicit HTTP proxy and mapped ports (NONE)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from lateen.controlplane import filters, names
from lateen.controlplane.destinations import Destinations
from lateen.controlplane.plugins import NO_PLUGINS, Chain
from lateen.controlplane.protos import FALSE, TRUE, ZERO, address, duration, metadata, packed
from lateen.controlplane.proxy import Proxy
from lateen.controlplane.route_matches import MESH, Client
from lateen.controlplane.scope import Scope
from lateen.controlplane.tcp_routes import TcpTarget, tcp_targets, tls_targets
from lateen.controlplane.telemetry import client_logs
from lateen.controlplane.traffic_policies import tcp_idle_timeout
from lateen.controlplane.virtual_hosts import allows_any, carries_http, service_routes_name
from lateen.envoyapi.envoy.config.core.v3 import address_pb2, base_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2 as lc
from lateen.envoyapi.envoy.config.listener.v3 import listener_pb2
from lateen.envoyapi.envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from lateen.envoyapi.envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from lateen.envoyapi.envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.plugins import Phase, Side
from lateen.mesh.services import Protocol, Service, ServicePort
from lateen.mesh.view import MeshView

WILDCARD = "0.0.0.0"  # noqa: S104 the name of captured listeners, which are not bound
_HTTP_PROTOCOLS = ("http/1.1", "h2c")
_Listener = listener_pb2.Listener
_MAX_HEADLESS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A listener and what it was made from."""

    listener: listener_pb2.Listener
    origins: tuple[ResourceKey, ...] = ()


# Listener filters


def tls_inspector() -> lc.ListenerFilter:
    """Reads SNI and ALPN."""
    return lc.ListenerFilter(
        name="envoy.filters.listener.tls_inspector", typed_config=packed(tls_inspector_pb2.TlsInspector())
    )


def http_inspector() -> lc.ListenerFilter:
    """Finds out whether a connection carries HTTP."""
    return lc.ListenerFilter(
        name="envoy.filters.listener.http_inspector", typed_config=packed(http_inspector_pb2.HttpInspector())
    )


def original_dst() -> lc.ListenerFilter:
    """Recovers where a captured connection was going."""
    return lc.ListenerFilter(
        name="envoy.filters.listener.original_dst", typed_config=packed(original_dst_pb2.OriginalDst())
    )


def detection_timeout(view: MeshView, listener: listener_pb2.Listener) -> None:
    """Server-first protocols never send a first byte: wait for it without end unless the mesh sets a limit, then go on."""
    listener.listener_filters_timeout.CopyFrom(duration(view.mesh.protocol_detection_timeout or ZERO))
    listener.continue_on_listener_filters_timeout = True


# Captured traffic (REDIRECT)


@dataclasses.dataclass(slots=True)
class _Port:
    """All that shares one captured address and port."""

    http: bool = False
    sniffed: bool = False
    tls: list[tuple[Service, ServicePort]] = dataclasses.field(default_factory=list)
    tcp: list[tuple[Service, ServicePort]] = dataclasses.field(default_factory=list)


def captured_listeners(scope: Scope) -> Iterator[Made]:
    """`virtualOutbound` and one listener for each captured address and port."""
    yield Made(_virtual_outbound(scope))
    for (host, port), content in sorted(_group(scope).items()):
        made = _captured(scope, host, port, content)
        if made is not None:
            yield made


def _group(scope: Scope) -> dict[tuple[str, int], _Port]:
    ports: dict[tuple[str, int], _Port] = {}
    for service in scope.services:
        for port in service.ports:
            if port.protocol == Protocol.UDP:
                continue
            if carries_http(port):
                entry = ports.setdefault((WILDCARD, port.number), _Port())
                entry.http = True
                entry.sniffed |= port.protocol.is_sniffed
                if port.protocol.is_sniffed:  # what turns out not to be HTTP
                    for host in _addresses(scope, service, port, default=()):
                        ports.setdefault((host, port.number), _Port()).tcp.append((service, port))
                continue
            for host in _addresses(scope, service, port, default=(WILDCARD,)):
                entry = ports.setdefault((host, port.number), _Port())
                (entry.tls if port.protocol.is_tls else entry.tcp).append((service, port))
    return ports


def _addresses(scope: Scope, service: Service, port: ServicePort, default: tuple[str, ...]) -> tuple[str, ...]:
    """VIPs; for a headless service the endpoints themselves."""
    vips = tuple(a for a in service.addresses if "/" not in a)
    if vips or not service.headless:
        return vips or default
    found = sorted({e.address for e in scope.view.endpoints(service, port)})[:_MAX_HEADLESS]
    return tuple(found) or default


def _captured(scope: Scope, host: str, port: int, content: _Port) -> Made | None:
    listener = _Listener(
        name=f"{host}_{port}",
        address=address(host, port),
        bind_to_port=FALSE,
        traffic_direction=base_pb2.OUTBOUND,
    )
    origins = [s.origin for s, _ in (*content.tls, *content.tcp)]
    sniffing = content.sniffed or (content.http and (content.tls or content.tcp))
    tls_chains = list(_tls_chains(scope, content.tls, port))
    if tls_chains or sniffing:
        listener.listener_filters.append(tls_inspector())
    listener.filter_chains.extend(tls_chains)
    if content.http:
        chain = listener.filter_chains.add(filters=_http_filters(scope, str(port), port))
        if sniffing:
            listener.listener_filters.append(http_inspector())
            chain.filter_chain_match.application_protocols.extend(_HTTP_PROTOCOLS)
            chain.filter_chain_match.transport_protocol = "raw_buffer"
            detection_timeout(scope.view, listener)
    _tcp_chains(scope, listener, content, port)
    if not listener.filter_chains and not listener.HasField("default_filter_chain"):
        return None
    listener.metadata.CopyFrom(metadata(origins))
    return Made(listener, tuple(dict.fromkeys(origins)))


def _http_filters(scope: Scope, routes: str, port: int) -> list[lc.Filter]:
    plugins = scope.plugins.chain(Side.CLIENT, port)
    manager = outbound_manager(scope, f"outbound_{routes}", plugins)
    filters.use_rds(manager, routes)
    return filters.http_chain(manager, plugins)


def outbound_manager(
    scope: Scope, stat_prefix: str, plugins: Chain = NO_PLUGINS, *, dynamic_hosts: bool = False
) -> hcm.HttpConnectionManager:
    """HTTP from the application. Its own `x-forwarded-client-cert` goes no further."""
    chain = filters.http_filters(dynamic_hosts=dynamic_hosts or scope.dynamic_hosts, plugins=plugins)
    return filters.connection_manager(scope.view.mesh, stat_prefix, chain, client_logs(scope.peer))


def _tls_chains(scope: Scope, members: Sequence[tuple[Service, ServicePort]], port: int) -> Iterator[lc.FilterChain]:
    """TLS that the application started, told apart by its server name."""
    taken: set[str] = set()
    for service, _ in members:
        for target in _connection_targets(scope, service, port, tls=True):
            server_names = [n.lower() for n in target.server_names if n.lower() not in taken]
            if not server_names:
                continue
            taken.update(server_names)
            chain = lc.FilterChain(filters=_tcp_filters(scope, service, port, target))
            if "*" not in server_names:
                chain.filter_chain_match.server_names.extend(server_names)
            chain.filter_chain_match.transport_protocol = "tls"
            yield chain


def _tcp_chains(scope: Scope, listener: listener_pb2.Listener, content: _Port, port: int) -> None:
    """Plain TCP: rules for subnets first, then the first service that claims the rest."""
    for service, _ in content.tcp:
        for target in _connection_targets(scope, service, port, tls=False):
            chain = lc.FilterChain(filters=_tcp_filters(scope, service, port, target))
            if target.subnets:
                chain.filter_chain_match.prefix_ranges.extend(cidr(s) for s in target.subnets)
                listener.filter_chains.append(chain)
            elif not listener.HasField("default_filter_chain"):
                listener.default_filter_chain.CopyFrom(chain)
    if (content.tls or content.sniffed) and not listener.HasField("default_filter_chain"):
        listener.default_filter_chain.filters.append(_unknown_filter(scope))


def cidr(text: str) -> address_pb2.CidrRange:
    """`10.0.0.0/8`; a bare address is itself."""
    host, slash, length = text.partition("/")
    full = 128 if ":" in host else 32
    result = address_pb2.CidrRange(address_prefix=host)
    result.prefix_len.value = int(length) if slash else full
    return result


def _connection_targets(scope: Scope, service: Service, port: int, *, tls: bool) -> list[TcpTarget]:
    """Where connections to a service go: its VirtualService's rules, else to the service itself."""
    destinations = Destinations(scope, port)
    client = Client(MESH, port, scope.namespace, scope.labels)
    result: list[TcpTarget] = []
    index = scope.tls_rules if tls else scope.tcp_rules
    for owner in index.most_specific(service.hostname)[:1]:
        with scope.findings.guard(owner.key, "spec.tls" if tls else "spec.tcp"):
            result.extend((tls_targets if tls else tcp_targets)(owner, client, destinations))
    cluster = names.outbound_cluster(service.hostname, port)
    if tls:
        claimed = {n for t in result for n in t.server_names}
        if service.hostname not in claimed:
            result.append(TcpTarget(((cluster, 1),), service.origin, (service.hostname,)))
    elif not any(not t.subnets for t in result):
        result.append(TcpTarget(((cluster, 1),), service.origin))
    return result


def _tcp_filters(scope: Scope, service: Service, port: int, target: TcpTarget) -> list[lc.Filter]:
    policy = scope.policy(service.hostname, port, "")
    hashed = policy.consistent_hash is not None and bool(policy.consistent_hash.use_source_ip)
    clusters = target.clusters
    for cluster, _ in clusters:
        scope.refer(cluster, target.origin)
    one = clusters[0][0] if len(clusters) == 1 else clusters
    logs = client_logs(scope.peer, tcp=True)
    proxy = filters.tcp_proxy(scope.view.mesh, one, tcp_idle_timeout(policy), source_hash=hashed, logs=logs)
    found = service.port(port)
    sniffed = found is not None and found.protocol.is_sniffed
    alpn = [filters.upstream_alpn("istio")] if sniffed else []
    return [*scope.plugins.chain(Side.CLIENT, port).network(*Phase), *alpn, proxy]


def _unknown_filter(scope: Scope) -> lc.Filter:
    cluster = names.PASSTHROUGH if allows_any(scope) else names.BLACK_HOLE
    return filters.tcp_proxy(scope.view.mesh, cluster, logs=client_logs(scope.peer, tcp=True))


def _virtual_outbound(scope: Scope) -> listener_pb2.Listener:
    """Takes every captured connection, hands it to the listener of its destination, and keeps the rest."""
    loop = lc.FilterChain(
        name="virtualOutbound-blackhole", filters=[filters.tcp_proxy(scope.view.mesh, names.BLACK_HOLE)]
    )
    loop.filter_chain_match.destination_port.value = names.OUTBOUND_PORT
    return _Listener(
        name=names.VIRTUAL_OUTBOUND,
        address=address(WILDCARD, names.OUTBOUND_PORT),
        use_original_dst=TRUE,
        traffic_direction=base_pb2.OUTBOUND,
        listener_filters=[original_dst()],
        filter_chains=[
            loop,
            lc.FilterChain(name="virtualOutbound-catchall-tcp", filters=[_unknown_filter(scope)]),
        ],
    )


# Explicit listeners (NONE)


def mapped_ports(services: Iterable[Service]) -> dict[tuple[str, int], int]:
    """By host name and port: the local port of each service port that an HTTP proxy cannot reach (TCP, TLS and gRPC)."""
    return names.assign_ports((s.hostname, p.number) for s in services for p in s.ports if _is_mapped(p))


def _is_mapped(port: ServicePort) -> bool:
    return port.protocol != Protocol.UDP and (not port.protocol.is_http or port.protocol.is_http2)


def routed_mapped_ports(scope: Scope) -> Iterator[tuple[Service, int]]:
    """The mapped ports that have routes of their own (gRPC)."""
    for service in scope.services:
        for port in service.ports:
            if _is_mapped(port) and port.protocol.is_http:
                yield service, port.number


def explicit_listeners(scope: Scope, proxy: Proxy) -> Iterator[Made]:
    """`A_15001`, the HTTP proxy, and one listener for each mapped service port."""
    plugins = scope.plugins.chain_of_all_ports(Side.CLIENT)
    manager = outbound_manager(scope, names.HTTP_PROXY_ROUTES, plugins, dynamic_hosts=True)
    filters.use_rds(manager, names.HTTP_PROXY_ROUTES)
    yield Made(_explicit(proxy, names.OUTBOUND_PORT, filters.http_chain(manager, plugins)))
    ports = mapped_ports(scope.view.services.values())
    seen: set[int] = set()
    for service in scope.services:
        for port in service.ports:
            mapped = ports.get((service.hostname, port.number))
            if mapped is None or mapped in seen:
                continue
            seen.add(mapped)
            origins = (service.origin,)
            yield Made(_explicit(proxy, mapped, _mapped_filters(scope, service, port), origins), origins)


def _mapped_filters(scope: Scope, service: Service, port: ServicePort) -> list[lc.Filter]:
    if port.protocol.is_http:
        name = service_routes_name(service, port.number)
        plugins = scope.plugins.chain(Side.CLIENT, port.number)
        manager = outbound_manager(scope, name, plugins)
        filters.use_rds(manager, name)
        return filters.http_chain(manager, plugins)
    target = next(t for t in reversed(_connection_targets(scope, service, port.number, tls=port.protocol.is_tls)))
    return _tcp_filters(scope, service, port.number, target)


def _explicit(
    proxy: Proxy, port: int, content: Sequence[lc.Filter], origins: Sequence[ResourceKey] = ()
) -> listener_pb2.Listener:
    return _Listener(
        name=f"{proxy.address}_{port}",
        address=address(proxy.address, port),
        traffic_direction=base_pb2.OUTBOUND,
        metadata=metadata(origins),
        filter_chains=[lc.FilterChain(filters=content)],
    )
