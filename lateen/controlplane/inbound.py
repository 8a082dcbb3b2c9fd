"""Inbound side of sidecars: mutual TLS as PeerAuthentication demands, policies, and the application behind."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from lateen.controlplane import filters, names, routes, tls_contexts
from lateen.controlplane.access_logs import access_logs
from lateen.controlplane.authorization import no_keys
from lateen.controlplane.clusters import inbound_cluster, inbound_passthrough_cluster
from lateen.controlplane.enforcement import enforcement_of, rate_limits_of
from lateen.controlplane.filters import Enforcement
from lateen.controlplane.listeners import (
    WILDCARD,
    Made,
    detection_timeout,
    http_inspector,
    original_dst,
    tls_inspector,
)
from lateen.controlplane.native_jwt import KeysOf
from lateen.controlplane.plugins import NONE as NO_PLUGINS
from lateen.controlplane.plugins import WorkloadPlugins
from lateen.controlplane.protos import ZERO, address, duration, metadata, uint32
from lateen.controlplane.proxy import Mode, Proxy
from lateen.controlplane.telemetry import Peer, peer_of, server_logs
from lateen.controlplane.traffic_policies import EffectivePolicy, effective_policy
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2 as lc
from lateen.envoyapi.envoy.config.listener.v3 import listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.peerauthentication import MutualTlsMode, PeerAuthentication
from lateen.mesh.plugins import Side, plugins_of
from lateen.mesh.selectors import selects
from lateen.mesh.services import Protocol, Service
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload

_HTTP_ALPN = ("h2", "http/1.1")
_PLAIN_HTTP = ("http/1.0", "http/1.1", "h2c")
_IDLE = timedelta(hours=1)
_Listener = listener_pb2.Listener


@dataclasses.dataclass(frozen=True, slots=True)
class InboundPort:
    """A port on which the application serves."""

    number: int
    protocol: Protocol
    service: Service
    service_port: int


@dataclasses.dataclass(frozen=True, slots=True)
class InboundScope:
    """One workload's proxy: what stands in front of each of its ports."""

    view: MeshView
    proxy: Proxy
    workload: Workload
    enforcement: Enforcement
    limits: tuple[rc.RateLimit, ...]
    plugins: WorkloadPlugins = NO_PLUGINS

    @classmethod
    def of(cls, view: MeshView, proxy: Proxy, workload: Workload, keys: KeysOf = no_keys) -> InboundScope:
        """With the policies that select the workload."""
        enforcement = enforcement_of(view, workload, keys)
        plugins = WorkloadPlugins(plugins_of(view, workload))
        return cls(view, proxy, workload, enforcement, tuple(rate_limits_of(view, workload)), plugins)

    def ports(self) -> list[InboundPort]:
        """The ports that services send to; of several services with one port the first counts, as they are ordered."""
        found: dict[int, InboundPort] = {}
        for service, port, target in self.view.services_of(self.workload):
            if port.protocol != Protocol.UDP:
                found.setdefault(target, InboundPort(target, port.protocol, service, port.number))
        return [found[number] for number in sorted(found)]

    def mode(self, port: int | None) -> MutualTlsMode:
        """What PeerAuthentication demands on a port."""
        return self.view.mtls_mode(self.workload.namespace, self.workload.labels, port)

    def peer(self, port: InboundPort) -> Peer:
        """This workload, as the server of a port, in metrics."""
        service = port.service
        own = peer_of(self.view, self.workload)
        return dataclasses.replace(
            own, service=service.hostname, service_name=service.name, service_namespace=service.namespace
        )

    def policy(self, port: InboundPort) -> EffectivePolicy:
        """Connection limits are those of the service's own DestinationRule."""
        rule = self.view.destination_rule(self.workload.namespace, self.workload.labels, port.service.hostname)
        return effective_policy(rule, port.service_port)


def inbound_clusters(scope: InboundScope) -> Iterator[tuple[cluster_pb2.Cluster, tuple[ResourceKey, ...]]]:
    """The application's ports, and in REDIRECT mode whatever else is captured."""
    for port in scope.ports():
        origins = (port.service.origin,)
        app = scope.proxy.app_address or "127.0.0.1"
        yield inbound_cluster(port.number, app, port.protocol, scope.policy(port), origins), origins
    if scope.proxy.mode == Mode.REDIRECT:
        yield inbound_passthrough_cluster(), ()


def inbound_listeners(scope: InboundScope) -> Iterator[Made]:
    """One bound listener a port (NONE), or `virtualInbound` with a group of chains a port (REDIRECT)."""
    if scope.proxy.mode == Mode.REDIRECT:
        yield _virtual_inbound(scope)
        return
    for port in scope.ports():
        listener = _listener(scope, f"{scope.proxy.address}_{port.number}", scope.proxy.address, port.number)
        listener.filter_chains.extend(port_chains(scope, port))
        listener.metadata.CopyFrom(metadata([port.service.origin]))
        if scope.mode(port.number) != MutualTlsMode.DISABLE or port.protocol.is_sniffed:
            listener.listener_filters.append(tls_inspector())
        if port.protocol.is_sniffed:
            listener.listener_filters.append(http_inspector())
        if not port.protocol.is_http:
            detection_timeout(scope.view, listener)
        yield Made(listener, (port.service.origin,))


def _listener(scope: InboundScope, name: str, host: str, port: int) -> listener_pb2.Listener:
    return _Listener(
        name=name,
        address=address(host, port),
        traffic_direction=base_pb2.INBOUND,
        access_log=access_logs(scope.view.mesh, unmatched_only=True),
    )


def _virtual_inbound(scope: InboundScope) -> Made:
    listener = _listener(scope, names.VIRTUAL_INBOUND, WILDCARD, names.INBOUND_PORT)
    ports = scope.ports()
    loop = lc.FilterChain(
        name="virtualInbound-blackhole", filters=[filters.tcp_proxy(scope.view.mesh, names.BLACK_HOLE)]
    )
    loop.filter_chain_match.destination_port.value = names.INBOUND_PORT
    listener.filter_chains.append(loop)
    for port in ports:
        listener.filter_chains.extend(_on_port(port_chains(scope, port), port.number))
    for number in _separate_ports(scope) - {port.number for port in ports}:
        listener.filter_chains.extend(_on_port(passthrough_chains(scope, number), number))
    listener.filter_chains.extend(passthrough_chains(scope, None))
    listener.listener_filters.extend([original_dst(), tls_inspector()])
    if any(port.protocol.is_sniffed for port in ports):
        listener.listener_filters.append(http_inspector())
    plain = [p.number for p in ports if scope.mode(p.number) == MutualTlsMode.DISABLE and not p.protocol.is_sniffed]
    if plain:  # a server-first protocol must not wait for bytes that nobody reads
        listener.listener_filters[1].filter_disabled.CopyFrom(_any_port(plain))
    detection_timeout(scope.view, listener)
    origins = tuple(dict.fromkeys(port.service.origin for port in ports))
    listener.metadata.CopyFrom(metadata(origins))
    return Made(listener, origins)


def _on_port(chains: Sequence[lc.FilterChain], port: int) -> Iterator[lc.FilterChain]:
    for chain in chains:
        chain.filter_chain_match.destination_port.value = port
        yield chain


def _any_port(ports: Sequence[int]) -> lc.ListenerFilterChainMatchPredicate:
    result = lc.ListenerFilterChainMatchPredicate()
    for port in ports:
        rule = result.or_match.rules.add() if len(ports) > 1 else result
        rule.destination_port_range.start, rule.destination_port_range.end = port, port + 1
    return result


def _separate_ports(scope: InboundScope) -> set[int]:
    """Ports with a mode of their own that no service names."""
    found: set[int] = set()
    for policy in scope.view.get("PeerAuthentication"):
        if isinstance(policy, PeerAuthentication) and policy.namespace == scope.workload.namespace:
            selector = policy.spec.selector
            if selector is not None and selects(selector.match_labels, scope.workload.labels):
                found.update(policy.spec.port_level_mtls)
    return found


# Filter chains

_Content = Callable[[bool], list[lc.Filter]]
"""Network filters of a chain; the argument says whether the peer was verified by mutual TLS."""


def port_chains(scope: InboundScope, port: InboundPort) -> list[lc.FilterChain]:
    """Chains of a port that services send to."""
    mode, name, peer = scope.mode(port.number), f"{port.number}", scope.peer(port)
    tcp = functools.partial(_tcp_filters, scope, names.inbound_cluster(port.number), peer, port.number)
    http = functools.partial(_http_filters, scope, port, peer)
    if port.protocol.is_http:
        return _chains(scope, mode, name, _Contents(http, tcp, _HTTP_ALPN))
    if not port.protocol.is_sniffed:
        return _chains(scope, mode, name, _Contents(tcp, tcp, ()))
    return _sniffed_chains(scope, mode, name, http, tcp)


def passthrough_chains(scope: InboundScope, port: int | None) -> list[lc.FilterChain]:
    """Chains of ports that no service names: TLS and TCP policies hold there too."""
    peer = peer_of(scope.view, scope.workload)
    tcp = functools.partial(_tcp_filters, scope, names.INBOUND_PASSTHROUGH, peer, port)
    return _chains(scope, scope.mode(port), f"passthrough-{port or 'any'}", _Contents(tcp, tcp, ()))


@dataclasses.dataclass(frozen=True, slots=True)
class _Contents:
    """What a port's chains hold: for connections that are read, and for TLS that is not the mesh's."""

    read: _Content
    opaque: _Content
    alpn: Sequence[str]


def _chain(name: str, content: Sequence[lc.Filter], *, transport: str = "", alpn: Sequence[str] = ()) -> lc.FilterChain:
    chain = lc.FilterChain(name=name, filters=content)
    chain.filter_chain_match.transport_protocol = transport
    chain.filter_chain_match.application_protocols.extend(alpn)
    return chain


def _chains(scope: InboundScope, mode: MutualTlsMode, name: str, contents: _Contents) -> list[lc.FilterChain]:
    """STRICT: only mutual TLS. PERMISSIVE: plaintext too, and TLS that is not the mesh's goes to the application as it is."""
    plain, verified = contents.read(False), contents.read(True)  # noqa: FBT003 the two kinds of chain
    if mode == MutualTlsMode.DISABLE:
        return [_chain(f"{name}-plaintext", plain)]
    strict = mode == MutualTlsMode.STRICT
    mutual = _chain(f"{name}-mtls", verified, transport="tls", alpn=() if strict else tls_contexts.MESH_ALPN)
    mutual.transport_socket.CopyFrom(_mutual_tls(scope, contents.alpn))
    if strict:
        return [mutual]
    return [
        mutual,
        _chain(f"{name}-plaintext", plain, transport="raw_buffer"),
        _chain(f"{name}-tls-passthrough", contents.opaque(False), transport="tls"),  # noqa: FBT003
    ]


def _sniffed_chains(
    scope: InboundScope, mode: MutualTlsMode, name: str, http: _Content, tcp: _Content
) -> list[lc.FilterChain]:
    """A port of unknown protocol: clients of the mesh say by ALPN what they send, of others the first bytes tell."""
    plain = [
        _chain(f"{name}-plaintext-http", http(False), transport="raw_buffer", alpn=_PLAIN_HTTP),  # noqa: FBT003
        _chain(f"{name}-plaintext-tcp", tcp(False), transport="raw_buffer"),  # noqa: FBT003
        _chain(f"{name}-tls-passthrough", tcp(False), transport="tls"),  # noqa: FBT003
    ]
    if mode == MutualTlsMode.DISABLE:
        return plain
    mutual_http = _chain(f"{name}-mtls-http", http(True), transport="tls", alpn=tls_contexts.MESH_HTTP_ALPN)  # noqa: FBT003
    strict = mode == MutualTlsMode.STRICT
    alpn = () if strict else tls_contexts.MESH_TCP_ALPN
    mutual_tcp = _chain(f"{name}-mtls-tcp", tcp(True), transport="tls", alpn=alpn)  # noqa: FBT003
    mutual_http.transport_socket.CopyFrom(_mutual_tls(scope, _HTTP_ALPN))
    mutual_tcp.transport_socket.CopyFrom(_mutual_tls(scope, ()))
    return [mutual_http, mutual_tcp] if strict else [mutual_http, mutual_tcp, *plain]


def _mutual_tls(scope: InboundScope, alpn: Sequence[str]) -> base_pb2.TransportSocket:
    return tls_contexts.socket(tls_contexts.downstream_mesh(scope.view.mesh, alpn))


def _tcp_filters(scope: InboundScope, cluster: str, peer: Peer, port: int | None, mutual: bool) -> list[lc.Filter]:  # noqa: FBT001 see _Content
    plugins = scope.plugins.chain(Side.SERVER, port)
    logs = server_logs(peer, mutual=mutual, tcp=True)
    proxy = filters.tcp_proxy(scope.view.mesh, cluster, _IDLE, logs=logs)
    return [*filters.network_checks(scope.enforcement, plugins), proxy]


def _http_filters(scope: InboundScope, port: InboundPort, peer: Peer, mutual: bool) -> list[lc.Filter]:  # noqa: FBT001 see _Content
    plugins = scope.plugins.chain(Side.SERVER, port.number)
    chain = filters.http_filters(scope.enforcement, plugins=plugins)
    logs = server_logs(peer, mutual=mutual)
    manager = filters.connection_manager(scope.view.mesh, f"inbound_{port.number}", chain, logs)
    manager.xff_num_trusted_hops = scope.enforcement.trusted_hops
    filters.forward_certificates(manager, append=True)
    filters.use_routes(manager, routes.route_configuration(names.inbound_cluster(port.number), [_host(scope, port)]))
    return filters.http_chain(manager, plugins)


def _host(scope: InboundScope, port: InboundPort) -> rc.VirtualHost:
    """Everything goes to the application; a connection that it closed while idle is hidden by a retry."""
    route = rc.Route(
        name=routes.DEFAULT_ROUTE, match=rc.RouteMatch(prefix="/"), metadata=metadata([port.service.origin])
    )
    route.route.cluster = names.inbound_cluster(port.number)
    route.route.timeout.CopyFrom(duration(ZERO))
    route.route.max_stream_duration.grpc_timeout_header_max.CopyFrom(duration(ZERO))
    route.route.retry_policy.CopyFrom(rc.RetryPolicy(retry_on="reset-before-request", num_retries=uint32(2)))
    return rc.VirtualHost(
        name=f"inbound|http|{port.number}",
        domains=["*"],
        routes=[route],
        rate_limits=scope.limits,
        metadata=metadata([port.service.origin]),
    )
