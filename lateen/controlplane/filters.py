"""HTTP and network filters, in a fixed order (docs/architecture.md), and the connection managers that hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import timedelta

from google.protobuf.message import Message

from lateen.controlplane import names
from lateen.controlplane.access_logs import access_logs
from lateen.controlplane.clusters import dns_cache
from lateen.controlplane.plugins import NO_PLUGINS, Chain
from lateen.controlplane.protos import FALSE, ZERO, ads, duration, packed, uint32
from lateen.envoyapi.envoy.config.accesslog.v3 import accesslog_pb2
from lateen.envoyapi.envoy.config.core.v3 import backoff_pb2, base_pb2, config_source_pb2, grpc_service_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2 as lc
from lateen.envoyapi.envoy.config.ratelimit.v3 import rls_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.envoyapi.envoy.data.accesslog.v3 import accesslog_pb2 as log_data
from lateen.envoyapi.envoy.extensions.filters.common.set_filter_state.v3 import value_pb2 as filter_state
from lateen.envoyapi.envoy.extensions.filters.http.cors.v3 import cors_pb2
from lateen.envoyapi.envoy.extensions.filters.http.dynamic_forward_proxy.v3 import dynamic_forward_proxy_pb2
from lateen.envoyapi.envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2 as http_authz
from lateen.envoyapi.envoy.extensions.filters.http.fault.v3 import fault_pb2
from lateen.envoyapi.envoy.extensions.filters.http.ratelimit.v3 import rate_limit_pb2
from lateen.envoyapi.envoy.extensions.filters.http.router.v3 import router_pb2
from lateen.envoyapi.envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as network_authz
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.envoyapi.envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from lateen.envoyapi.envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from lateen.envoyapi.envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from lateen.mesh.hosts import service_host
from lateen.mesh.meshconfig import MeshConfig, NormalizationType
from lateen.mesh.plugins import Phase

_AUTHZ_TIMEOUT = timedelta(seconds=2)
_AUTHZ_TRY_TIMEOUT = timedelta(seconds=1)
_LIMIT_TIMEOUT = timedelta(seconds=1)
_DIRECT_PEER = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"
_FORBIDDEN = 403
_UNAVAILABLE = 503
DENY_STAGE = 1
_Hcm = hcm.HttpConnectionManager


@dataclasses.dataclass(frozen=True, slots=True)
class Enforcement:
    """What our services check of the traffic into one workload. `target` names its policies to them."""

    target: str = ""
    authorize: bool = False
    limit_stages: frozenset[int] = frozenset()
    metadata_namespaces: tuple[str, ...] = ()
    http_checks: tuple[hcm.HttpFilter, ...] = ()
    """Filters that decide before our service is asked, or instead of it."""
    tcp_checks: tuple[lc.Filter, ...] = ()
    trusted_hops: int = 0
    """Of X-Forwarded-For, where Envoy itself looks at the client's address."""
    announced: bool = False
    """Whether a load balancer announces clients (PROXY protocol): then a question says who the peer really is."""


NO_ENFORCEMENT = Enforcement()


# Calls to our services


def service_cluster(service: tuple[str, str, int]) -> str:
    """The cluster of one of our services."""
    name, namespace, port = service
    return names.outbound_cluster(service_host(name, namespace), port)


def _grpc(service: tuple[str, str, int], target: str, timeout: timedelta) -> grpc_service_pb2.GrpcService:
    return grpc_service_pb2.GrpcService(
        envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=service_cluster(service)),
        timeout=duration(timeout),
        initial_metadata=[base_pb2.HeaderValue(key=names.TARGET_HEADER, value=target)],
    )


def check_retries() -> base_pb2.RetryPolicy:
    """A Check that a replica could not answer is put to another: asking twice changes nothing, and a killed replica fails no request.

    Envoy takes the longest pause between tries as the timeout of each try too (`convertCoreToRouteRetryPolicy`): a replica that hangs
    is given up after it, and one that is only slow must not be. Pauses stay below 15 ms: there are only two.
    """
    predicate = base_pb2.RetryPolicy.RetryHostPredicate(
        name="envoy.retry_host_predicates.previous_hosts",
        typed_config=packed(previous_hosts_pb2.PreviousHostsPredicate()),
    )
    return base_pb2.RetryPolicy(
        retry_on="connect-failure,refused-stream,reset,unavailable",
        num_retries=uint32(2),
        retry_back_off=backoff_pb2.BackoffStrategy(
            base_interval=duration(timedelta(milliseconds=5)), max_interval=duration(_AUTHZ_TRY_TIMEOUT)
        ),
        retry_host_predicate=[predicate],
        host_selection_retry_max_attempts=5,
    )


def _ask_authz(enforcement: Enforcement) -> grpc_service_pb2.GrpcService:
    service = _grpc(names.EXT_AUTHZ, enforcement.target, _AUTHZ_TIMEOUT)
    if enforcement.announced:
        service.initial_metadata.append(base_pb2.HeaderValue(key=names.PEER_HEADER, value=_DIRECT_PEER))
    service.retry_policy.CopyFrom(check_retries())
    return service


def ext_authz(enforcement: Enforcement, *, routes_on_claims: bool = False) -> hcm.HttpFilter:
    """Ask the authorization service about each request. It fails closed."""
    config = http_authz.ExtAuthz(
        grpc_service=_ask_authz(enforcement),
        transport_api_version=config_source_pb2.V3,
        failure_mode_allow=False,
        include_peer_certificate=False,
        include_tls_session=True,
        clear_route_cache=routes_on_claims,
        stat_prefix="lateen",
        metadata_context_namespaces=enforcement.metadata_namespaces,
    )
    config.status_on_error.code = _FORBIDDEN  # type: ignore[assignment]  # protobuf's enums are ints at run time
    return _http("envoy.filters.http.ext_authz", config)


def rate_limit(target: str, stage: int) -> hcm.HttpFilter:
    """Ask the rate limit service about each request; the stage decides what happens when it cannot answer."""
    config = rate_limit_pb2.RateLimit(
        domain=names.RATE_LIMIT_DOMAIN,
        stage=stage,
        timeout=duration(_LIMIT_TIMEOUT),
        failure_mode_deny=stage == DENY_STAGE,
        rate_limited_as_resource_exhausted=True,
        rate_limit_service=rls_pb2.RateLimitServiceConfig(
            grpc_service=_grpc(names.RATE_LIMIT, target, _LIMIT_TIMEOUT), transport_api_version=config_source_pb2.V3
        ),
    )
    config.status_on_error.code = _UNAVAILABLE  # type: ignore[assignment]  # protobuf's enums are ints at run time
    return _http(f"envoy.filters.http.ratelimit{'.deny' if stage == DENY_STAGE else ''}", config)


def network_ext_authz(enforcement: Enforcement) -> lc.Filter:
    """Ask the authorization service about each TCP connection. It fails closed."""
    config = network_authz.ExtAuthz(
        stat_prefix="lateen",
        grpc_service=_ask_authz(enforcement),
        transport_api_version=config_source_pb2.V3,
        failure_mode_allow=False,
        include_peer_certificate=False,
        include_tls_session=True,
        metadata_context_namespaces=enforcement.metadata_namespaces,
    )
    return lc.Filter(name="envoy.filters.network.ext_authz", typed_config=packed(config))


def network_checks(enforcement: Enforcement, plugins: Chain = NO_PLUGINS) -> list[lc.Filter]:
    """What authorizes TCP connections, in order, with the network plugins around it."""
    asked = [network_ext_authz(enforcement)] if enforcement.authorize else []
    before, after = plugins.network(Phase.AUTHN), plugins.network(Phase.AUTHZ, Phase.STATS, Phase.LAST)
    return [*before, *enforcement.tcp_checks, *asked, *after]


# HTTP filters


def _http(name: str, config: Message) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=name, typed_config=packed(config))


def http_filters(
    enforcement: Enforcement = NO_ENFORCEMENT,
    *,
    routes_on_claims: bool = False,
    dynamic_hosts: bool = False,
    plugins: Chain = NO_PLUGINS,
) -> list[hcm.HttpFilter]:
    """The chain: cors, authorization, rate limits by failure mode, fault, (dynamic hosts), router; plugins by their phase."""
    result = [_http("envoy.filters.http.cors", cors_pb2.Cors())]
    result.extend(plugins.http(Phase.AUTHN))
    result.extend(enforcement.http_checks)
    if enforcement.authorize:
        result.append(ext_authz(enforcement, routes_on_claims=routes_on_claims))
    result.extend(plugins.http(Phase.AUTHZ))
    result.extend(rate_limit(enforcement.target, stage) for stage in sorted(enforcement.limit_stages))
    result.extend(plugins.http(Phase.STATS))
    result.append(_http("envoy.filters.http.fault", fault_pb2.HTTPFault()))
    result.extend(plugins.http(Phase.LAST))
    if dynamic_hosts:
        config = dynamic_forward_proxy_pb2.FilterConfig(dns_cache_config=dns_cache())
        result.append(_http("envoy.filters.http.dynamic_forward_proxy", config))
    result.append(_http("envoy.filters.http.router", router_pb2.Router()))
    return result


# Connection managers


def connection_manager(
    mesh: MeshConfig, stat_prefix: str, filters: Sequence[hcm.HttpFilter], logs: Sequence[accesslog_pb2.AccessLog] = ()
) -> hcm.HttpConnectionManager:
    """What all connection managers have in common. Paths are normalized before any filter or route sees them."""
    manager = _Hcm(
        stat_prefix=stat_prefix,
        codec_type=_Hcm.AUTO,
        http_filters=filters,
        access_log=[*access_logs(mesh), *logs],
        use_remote_address=FALSE,
        stream_idle_timeout=duration(ZERO),
        upgrade_configs=[_Hcm.UpgradeConfig(upgrade_type="websocket")],
        server_header_transformation=_Hcm.PASS_THROUGH,
    )
    normalize_paths(manager, mesh.path_normalization.normalization)
    return manager


def normalize_paths(manager: hcm.HttpConnectionManager, kind: NormalizationType) -> None:
    """The mesh's pathNormalization; DEFAULT is BASE."""
    manager.normalize_path.value = kind != NormalizationType.NONE
    if kind in {NormalizationType.MERGE_SLASHES, NormalizationType.DECODE_AND_MERGE_SLASHES}:
        manager.merge_slashes = True
    if kind == NormalizationType.DECODE_AND_MERGE_SLASHES:
        manager.path_with_escaped_slashes_action = _Hcm.UNESCAPE_AND_FORWARD


def use_rds(manager: hcm.HttpConnectionManager, name: str) -> None:
    """Routes by name over ADS."""
    manager.rds.CopyFrom(hcm.Rds(config_source=ads(), route_config_name=name))


def use_routes(manager: hcm.HttpConnectionManager, routes: route_pb2.RouteConfiguration) -> None:
    """Routes in place."""
    manager.route_config.CopyFrom(routes)


def forward_certificates(manager: hcm.HttpConnectionManager, *, append: bool) -> None:
    """`x-forwarded-client-cert`: sidecars append the peer they verified, gateways replace what a client claims."""
    manager.forward_client_cert_details = _Hcm.APPEND_FORWARD if append else _Hcm.SANITIZE_SET
    manager.set_current_client_cert_details.subject.value = True
    manager.set_current_client_cert_details.dns = True
    manager.set_current_client_cert_details.uri = True


def http_filter_chain(manager: hcm.HttpConnectionManager) -> lc.Filter:
    """The network filter that reads HTTP."""
    return lc.Filter(name="envoy.filters.network.http_connection_manager", typed_config=packed(manager))


def http_chain(manager: hcm.HttpConnectionManager, plugins: Chain) -> list[lc.Filter]:
    """The filter that reads HTTP, behind the network plugins of its chain."""
    return [*plugins.network(*Phase), http_filter_chain(manager)]


# TCP


def upstream_alpn(value: str) -> lc.Filter:
    """Offer this protocol upstream instead of the cluster's own."""
    entry = filter_state.FilterStateValue(object_key="envoy.network.application_protocols")
    entry.format_string.text_format_source.inline_string = value
    config = set_filter_state_pb2.Config(on_new_connection=[entry])
    return lc.Filter(name="envoy.filters.network.set_filter_state", typed_config=packed(config))


def tcp_proxy(
    mesh: MeshConfig,
    cluster: str | Sequence[tuple[str, int]],
    idle: timedelta | None = None,
    *,
    source_hash: bool = False,
    logs: Sequence[accesslog_pb2.AccessLog] = (),
) -> lc.Filter:
    """Forward bytes to one cluster, or to several by weight. `logs` tell by themselves which events they want."""
    proxy = tcp_proxy_pb2.TcpProxy(access_log=access_logs(mesh))
    if logs:
        for log in proxy.access_log:
            log.filter.log_type_filter.types.append(log_data.TcpConnectionEnd)
        proxy.access_log.extend(logs)
        proxy.access_log_options.flush_access_log_on_connected = True
    if isinstance(cluster, str):
        proxy.stat_prefix = proxy.cluster = cluster
    else:
        proxy.stat_prefix = cluster[0][0]
        for name, weight in cluster:
            proxy.weighted_clusters.clusters.add(name=name, weight=weight)
    if idle is not None:
        proxy.idle_timeout.CopyFrom(duration(idle))
    if source_hash:
        proxy.hash_policy.add().source_ip.SetInParent()
    return lc.Filter(name="envoy.filters.network.tcp_proxy", typed_config=packed(proxy))
