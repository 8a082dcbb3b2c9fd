"""Gateway proxies: listeners and routes of Istio Gateways and Gateway API Gateways, merged by port."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from lateen.controlplane import filters, gateway_tls, names, routes, tls_contexts
from lateen.controlplane.access_logs import access_logs
from lateen.controlplane.authorization import no_keys
from lateen.controlplane.destinations import Destinations
from lateen.controlplane.enforcement import announces_clients, claims_namespace, enforcement_of, rate_limits_of
from lateen.controlplane.filters import Enforcement
from lateen.controlplane.findings import TranslationError
from lateen.controlplane.gateway_tls import SecretRef
from lateen.controlplane.httproutes import translate_http_routes
from lateen.controlplane.listeners import Made, cidr, tls_inspector
from lateen.controlplane.native_jwt import KeysOf
from lateen.controlplane.plugins import WorkloadPlugins
from lateen.controlplane.protos import TRUE, address, metadata, packed
from lateen.controlplane.proxy import Proxy
from lateen.controlplane.route_matches import Client, is_catch_all
from lateen.controlplane.routes import RouteContext, virtual_host
from lateen.controlplane.scope import Scope
from lateen.controlplane.secrets import server_certificate, trusted_roots
from lateen.controlplane.tcp_routes import TcpTarget, tcp_targets, tls_targets
from lateen.controlplane.telemetry import client_logs, peer_of
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2 as lc
from lateen.envoyapi.envoy.config.listener.v3 import listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.envoyapi.envoy.extensions.filters.listener.proxy_protocol.v3 import proxy_protocol_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from lateen.mesh import gateway as istio
from lateen.mesh import gatewayapi
from lateen.mesh.gateway_attachment import ListenerStatus
from lateen.mesh.hosts import fqdn, intersect
from lateen.mesh.httproute import HTTPRoute
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.plugins import Side, plugins_of
from lateen.mesh.view import MeshView
from lateen.mesh.virtualservice import VirtualService
from lateen.mesh.workloads import Workload

_PLAIN_HTTP = frozenset({"HTTP", "HTTP2", "GRPC", "GRPC-WEB"})
_TERMINATED_HTTP = frozenset({"HTTPS"})
_FORWARD_CERTIFICATES = {
    "SANITIZE": hcm.HttpConnectionManager.SANITIZE,
    "FORWARD_ONLY": hcm.HttpConnectionManager.FORWARD_ONLY,
    "APPEND_FORWARD": hcm.HttpConnectionManager.APPEND_FORWARD,
    "SANITIZE_SET": hcm.HttpConnectionManager.SANITIZE_SET,
    "ALWAYS_FORWARD_ONLY": hcm.HttpConnectionManager.ALWAYS_FORWARD_ONLY,
}
_HEADERS_TIMEOUT_SECONDS = 30
_MAX_STREAMS = 1000


@dataclasses.dataclass(slots=True)
class _Hosts:
    """Routes by host name, as several VirtualServices or HTTPRoutes add to them."""

    routes: dict[str, list[rc.Route]] = dataclasses.field(default_factory=dict)
    origins: dict[str, list[ResourceKey]] = dataclasses.field(default_factory=dict)
    redirected: set[str] = dataclasses.field(default_factory=set)

    def add(self, host: str, made: Sequence[rc.Route], origin: ResourceKey) -> None:
        self.routes.setdefault(host, []).extend(made)
        known = self.origins.setdefault(host, [])
        if origin not in known:
            known.append(origin)


@dataclasses.dataclass(slots=True)
class _Port:
    """One port: either plaintext HTTP, or filter chains (TLS, TCP)."""

    number: int
    bind: str = ""
    http: _Hosts | None = None
    chains: list[lc.FilterChain] = dataclasses.field(default_factory=list)
    inspect: bool = False
    origins: list[ResourceKey] = dataclasses.field(default_factory=list)
    names: set[str] = dataclasses.field(default_factory=set)


class GatewayBuilder:
    """Translates everything one gateway workload serves."""

    def __init__(self, scope: Scope, proxy: Proxy, workload: Workload, keys: KeysOf = no_keys) -> None:
        self.scope = scope
        self.view: MeshView = scope.view
        self.proxy = proxy
        self.workload = workload
        self.enforcement: Enforcement = dataclasses.replace(
            enforcement_of(self.view, workload, keys, routes_on_claims=True), announced=announces_clients(self.view)
        )
        self.limits = rate_limits_of(self.view, workload)
        self.claims = claims_namespace(self.view, workload)
        self.peer = peer_of(self.view, workload)
        self.plugins = WorkloadPlugins(plugins_of(self.view, workload))
        self.secrets: dict[SecretRef, secret_pb2.Secret] = {}
        self.route_configurations: dict[str, tuple[route_pb2.RouteConfiguration, tuple[ResourceKey, ...]]] = {}
        self._ports: dict[int, _Port] = {}

    def build(self) -> list[Made]:
        """All listeners; routes and secrets are in the attributes afterwards."""
        for gateway in self.view.istio_gateways(self.workload):
            for index, server in enumerate(gateway.spec.servers):
                with self.scope.findings.guard(gateway.key, f"spec.servers[{index}]"):
                    self._istio_server(gateway, server, index)
        attached = self.view.k8s_gateway_of(self.workload)
        if attached is not None:
            for status in self.view.gateway_status(attached.key).accepted:
                with self.scope.findings.guard(attached.key, f"spec.listeners[{status.index}]"):
                    self._k8s_listener(attached, status)
        return list(self._listeners())

    # Istio Gateway

    def _istio_server(self, gateway: istio.Gateway, server: istio.Server, index: int) -> None:
        protocol = server.port.protocol.upper()
        port = self._port(server.port.number, http=protocol in _PLAIN_HTTP, origin=gateway.key, bind=server.bind)
        if protocol in _PLAIN_HTTP:
            hosts = port.http if port.http is not None else _Hosts()
            self._virtual_services(gateway, server, server.port.number, hosts)
            if server.tls is not None and server.tls.https_redirect:
                for host in _server_hosts(server):
                    hosts.add(host, [], gateway.key)
                    hosts.redirected.add(host)
            port.http = hosts
            return
        mode = server.tls.mode if server.tls is not None else None
        if protocol == "TCP" and server.tls is None:
            self._tcp_chain(gateway, server, port)
        elif server.tls is None:
            raise TranslationError(f"protocol {protocol} needs tls")
        elif mode == istio.ServerTLSmode.PASSTHROUGH:
            self._passthrough_chains(gateway, server, port)
        elif mode == istio.ServerTLSmode.AUTO_PASSTHROUGH:
            raise TranslationError("mode AUTO_PASSTHROUGH is not supported yet")
        else:
            self._terminated(gateway, server, port, index, http=protocol in _TERMINATED_HTTP)

    def _terminated(self, gateway: istio.Gateway, server: istio.Server, port: _Port, index: int, *, http: bool) -> None:
        if server.tls is None:
            return
        alpn = gateway_tls.HTTP_ALPN if http else ()
        context = gateway_tls.istio_context(server.tls, self.proxy.namespace, self.view.mesh, self._want, alpn)
        server_names = self._unclaimed(port, _server_hosts(server))
        if not http:
            targets = self._tcp_targets(gateway, server)
            forwarding = [self._tcp_filters(target, server.port.number) for target in targets][:1]
            if not forwarding:
                return
            content = forwarding[0]
        else:
            number = server.port.number
            name = names.gateway_https_routes(number, server.port.name or str(index), gateway.name, gateway.namespace)
            hosts = _Hosts()
            self._virtual_services(gateway, server, number, hosts)
            self._add_routes(name, hosts, number, [gateway.key])
            content = self._http_filters(name, number)
        port.chains.append(_tls_chain(server_names, content, context, [gateway.key]))

    def _virtual_services(self, gateway: istio.Gateway, server: istio.Server, port: int, hosts: _Hosts) -> None:
        """The routes of every VirtualService of this gateway whose hosts the server admits."""
        name = f"{gateway.namespace}/{gateway.name}"
        client = Client(name, port, self.proxy.namespace, self.proxy.labels)
        retry = self.view.mesh.default_http_retry_policy
        context = RouteContext(client, Destinations(self.scope, port), self.scope.delegate, retry)
        for virtual_service in self._bound(name):
            admitted = list(_admitted(virtual_service, gateway, server))
            if not admitted or not virtual_service.spec.http:
                continue
            made = routes.translate_virtual_service(virtual_service, context, self.scope.findings)
            for host in admitted:
                hosts.add(host, made, virtual_service.key)

    def _bound(self, gateway: str) -> tuple[VirtualService, ...]:
        return self.view.virtual_services(self.proxy.namespace, self.proxy.labels, gateway)

    def _tcp_targets(self, gateway: istio.Gateway, server: istio.Server) -> Iterator[TcpTarget]:
        name, number = f"{gateway.namespace}/{gateway.name}", server.port.number
        client = Client(name, number, self.proxy.namespace, self.proxy.labels)
        for owner in self._bound(name):
            if any(_admitted(owner, gateway, server)):
                yield from tcp_targets(owner, client, Destinations(self.scope, number))

    def _tcp_chain(self, gateway: istio.Gateway, server: istio.Server, port: _Port) -> None:
        for target in self._tcp_targets(gateway, server):
            chain = lc.FilterChain(
                filters=self._tcp_filters(target, server.port.number), metadata=metadata([target.origin])
            )
            chain.filter_chain_match.prefix_ranges.extend(cidr(s) for s in target.subnets)
            port.chains.append(chain)
            if not target.subnets:
                return

    def _passthrough_chains(self, gateway: istio.Gateway, server: istio.Server, port: _Port) -> None:
        """TLS that is not ended here: the server name chooses the VirtualService's `tls` rule."""
        name, number = f"{gateway.namespace}/{gateway.name}", server.port.number
        client = Client(name, number, self.proxy.namespace, self.proxy.labels)
        for owner in self._bound(name):
            if not any(_admitted(owner, gateway, server)):
                continue
            for target in tls_targets(owner, client, Destinations(self.scope, number)):
                wanted = self._unclaimed(port, target.server_names)
                port.chains.append(_tls_chain(wanted, self._tcp_filters(target, number), None, [target.origin]))

    def _tcp_filters(self, target: TcpTarget, port: int) -> list[lc.Filter]:
        clusters = target.clusters
        one = clusters[0][0] if len(clusters) == 1 else clusters
        proxy = filters.tcp_proxy(self.view.mesh, one, logs=client_logs(self.peer, tcp=True))
        return [*filters.network_checks(self.enforcement, self.plugins.chain(Side.CLIENT, port)), proxy]

    # Gateway API

    def _k8s_listener(self, gateway: gatewayapi.Gateway, status: ListenerStatus) -> None:
        listener = status.listener
        http = listener.protocol == "HTTP"
        if not http and listener.protocol != "HTTPS":
            raise TranslationError(f"protocol {listener.protocol} is not supported yet")
        port = self._port(listener.port, http=http, origin=gateway.key)
        hosts = port.http if port.http is not None else _Hosts()
        by_host: dict[str, list[HTTPRoute]] = {}
        for item in status.routes:
            for host in item.hostnames:
                by_host.setdefault(host.lower(), []).append(item.route)
        for host, members in by_host.items():
            made = translate_http_routes(members, self.scope, listener.port)
            for route in members:
                hosts.add(host, [], route.key)
            hosts.add(host, made, members[0].key)
        if http:
            return
        context = gateway_tls.k8s_context(gateway, status, self.view, self._want, gateway_tls.HTTP_ALPN)
        server_names = self._unclaimed(port, [listener.hostname or "*"])
        name = names.gateway_https_routes(listener.port, listener.name, gateway.name, gateway.namespace)
        self._add_routes(name, hosts, listener.port, [gateway.key])
        port.chains.append(_tls_chain(server_names, self._http_filters(name, listener.port), context, [gateway.key]))

    # shared

    def _port(self, number: int, *, http: bool, origin: ResourceKey, bind: str | None = None) -> _Port:
        """The port's content so far; of plaintext HTTP and TLS on one port the first wins."""
        clash = next((p for n, p in self._ports.items() if n != number and _bound_port(n) == _bound_port(number)), None)
        if clash is not None:
            raise TranslationError(f"port {number} is served on {_bound_port(number)}, which port {clash.number} has")
        port = self._ports.get(number)
        if port is None:
            port = self._ports[number] = _Port(number, bind or "")
            port.http = _Hosts() if http else None
        elif http != (port.http is not None):
            raise TranslationError(f"port {number} already serves another protocol ({port.origins[0]})")
        if origin not in port.origins:
            port.origins.append(origin)
        return port

    def _unclaimed(self, port: _Port, hosts: Sequence[str]) -> list[str]:
        """Server names that no earlier chain of the port has; Envoy refuses duplicates."""
        port.inspect = True
        free = [host for host in dict.fromkeys(h.lower() for h in hosts) if host not in port.names]
        if not free:
            raise TranslationError(f"hosts {', '.join(hosts)} are already served with TLS on port {port.number}")
        port.names.update(free)
        return free

    def _want(self, ref: SecretRef) -> None:
        if ref not in self.secrets:
            make = trusted_roots if ref.roots else server_certificate
            self.secrets[ref] = make(self.view, ref.namespace, ref.name)

    def _add_routes(self, name: str, hosts: _Hosts, port: int, origins: Sequence[ResourceKey]) -> None:
        made = [
            self._virtual_host(
                host, port, _catch_all_last(hosts.routes[host]), hosts.origins[host], host in hosts.redirected
            )
            for host in sorted(hosts.routes)
        ]
        if not made:
            made = [virtual_host(f"blackhole:{port}", ["*"], [])]
        keys = [key for host in sorted(hosts.origins) for key in hosts.origins[host]]
        configuration = routes.route_configuration(name, made, ignore_port=True)
        self.route_configurations[name] = configuration, tuple(dict.fromkeys([*origins, *keys]))

    def _virtual_host(
        self,
        host: str,
        port: int,
        made: Sequence[rc.Route],
        origins: Sequence[ResourceKey],
        redirected: bool,  # noqa: FBT001
    ) -> rc.VirtualHost:
        result = virtual_host(f"{host}:{port}", [host], made, origins)
        result.rate_limits.extend(self.limits)
        for route in result.routes:
            for claim in route.match.dynamic_metadata:
                claim.filter = self.claims
        if redirected:
            result.require_tls = rc.VirtualHost.ALL
        return result

    def _http_filters(self, route_name: str, port: int) -> list[lc.Filter]:
        plugins = self.plugins.chain(Side.CLIENT, port)
        chain = filters.http_filters(
            self.enforcement, routes_on_claims=True, dynamic_hosts=self.scope.dynamic_hosts, plugins=plugins
        )
        manager = filters.connection_manager(self.view.mesh, f"outbound_{route_name}", chain, client_logs(self.peer))
        topology = self.view.mesh.default_config.gateway_topology or {}
        _edge(manager, topology)
        filters.use_rds(manager, route_name)
        return filters.http_chain(manager, plugins)

    def _listeners(self) -> Iterator[Made]:
        for number, port in sorted(self._ports.items()):
            if port.http is not None:
                name = names.gateway_http_routes(number)
                self._add_routes(name, port.http, number, port.origins)
                port.chains.append(lc.FilterChain(filters=self._http_filters(name, number)))
            if not port.chains:
                continue
            host = port.bind or self.proxy.address
            bound = _bound_port(number)
            listener = listener_pb2.Listener(
                name=f"{self.proxy.address}_{bound}",
                address=address(host, bound),
                traffic_direction=base_pb2.OUTBOUND,
                metadata=metadata(port.origins),
                filter_chains=port.chains,
                access_log=access_logs(self.view.mesh, unmatched_only=True),
            )
            if announces_clients(self.view):
                listener.listener_filters.append(_proxy_protocol())
            if port.inspect:
                listener.listener_filters.append(tls_inspector())
            yield Made(listener, tuple(port.origins))


def _proxy_protocol() -> lc.ListenerFilter:
    """Behind a load balancer that says in front of each connection who its client is: connections without that are refused."""
    name = "envoy.filters.listener.proxy_protocol"
    return lc.ListenerFilter(name=name, typed_config=packed(proxy_protocol_pb2.ProxyProtocol()))


def _bound_port(number: int) -> int:
    return names.gateway_bind_port(number)


def _edge(manager: hcm.HttpConnectionManager, topology: Mapping[str, object]) -> None:
    """A gateway meets clients it cannot trust: their address is the connection's, their claims about certificates are dropped."""
    manager.use_remote_address.CopyFrom(TRUE)
    hops = topology.get("numTrustedProxies")
    manager.xff_num_trusted_hops = hops if isinstance(hops, int) and hops > 0 else 0
    filters.forward_certificates(manager, append=False)
    wanted = _FORWARD_CERTIFICATES.get(str(topology.get("forwardClientCertDetails")))
    if wanted is not None:
        manager.forward_client_cert_details = wanted
    manager.server_header_transformation = hcm.HttpConnectionManager.OVERWRITE
    manager.server_name = "lateen"
    manager.request_headers_timeout.seconds = _HEADERS_TIMEOUT_SECONDS
    manager.http2_protocol_options.max_concurrent_streams.value = _MAX_STREAMS


def _tls_chain(
    server_names: Sequence[str],
    content: Sequence[lc.Filter],
    context: tls_pb2.DownstreamTlsContext | None,
    origins: Sequence[ResourceKey],
) -> lc.FilterChain:
    chain = lc.FilterChain(filters=content, metadata=metadata(origins))
    if "*" not in server_names:
        chain.filter_chain_match.server_names.extend(server_names)
    if context is not None:
        chain.transport_socket.CopyFrom(tls_contexts.socket(context))
        chain.transport_socket_connect_timeout.seconds = 15
    else:
        chain.filter_chain_match.transport_protocol = "tls"
    return chain


def _server_hosts(server: istio.Server) -> list[str]:
    return [host.rpartition("/")[2].lower() for host in server.hosts]


def _admitted(virtual_service: VirtualService, gateway: istio.Gateway, server: istio.Server) -> Iterator[str]:
    """The VirtualService's hosts as far as the server's `[namespace/]host` list admits them."""
    seen: set[str] = set()
    for entry in server.hosts:
        namespace, slash, pattern = entry.rpartition("/")
        wanted = gateway.namespace if namespace == "." else namespace
        if slash and wanted not in {"*", virtual_service.namespace}:
            continue
        for host in virtual_service.spec.hosts:
            both = intersect(pattern, fqdn(host, virtual_service.namespace))
            if both is not None and both not in seen:
                seen.add(both)
                yield both


def _catch_all_last(made: Sequence[rc.Route]) -> list[rc.Route]:
    """Several VirtualServices share a host: a catch-all of one must not hide the others."""
    return sorted(made, key=lambda route: is_catch_all(route.match))
