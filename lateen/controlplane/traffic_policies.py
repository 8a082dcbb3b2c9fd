"""DestinationRule policies: which apply to a port or subset, and what they make of a cluster."""

from __future__ import annotations

import dataclasses
import math
from datetime import timedelta

from lateen.controlplane.findings import TranslationError
from lateen.controlplane.protos import MAX_UINT32, duration, packed, uint32
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2, outlier_detection_pb2
from lateen.envoyapi.envoy.config.core.v3 import protocol_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_options
from lateen.envoyapi.envoy.type.v3 import percent_pb2
from lateen.mesh import destinationrule as dr
from lateen.mesh.meshconfig import DefaultTrafficPolicy
from lateen.mesh.services import Protocol

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_DEFAULT_IDLE = timedelta(hours=1)
_DEFAULT_INTERVAL = timedelta(seconds=10)
_DEFAULT_EJECTION = timedelta(seconds=30)
_RING_SIZE = 1024
_MAX_RING_SIZE = 8 * 1024 * 1024
_MAGLEV_SIZE = 65537
_MAX_MAGLEV_SIZE = 5_000_011


@dataclasses.dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """What applies to one cluster once parent, port and subset were merged. None means default."""

    load_balancer: dr.LoadBalancerSettings | None = None
    connection_pool: dr.ConnectionPoolSettings | None = None
    outlier_detection: dr.OutlierDetection | None = None
    tls: dr.ClientTLSSettings | None = None
    proxy_protocol: dr.ProxyProtocol | None = None
    retry_budget: dr.RetryBudget | None = None
    tunnel: dr.TunnelSettings | None = None

    @property
    def consistent_hash(self) -> dr.ConsistentHashLB | None:
        """The hash settings, when requests are balanced by a hash."""
        return self.load_balancer.consistent_hash if self.load_balancer is not None else None


def effective_policy(rule: dr.DestinationRule | None, port: int, subset: str = "") -> EffectivePolicy:
    """A port's settings replace the whole policy; a subset's blocks replace the rule's one by one."""
    if rule is None:
        return EffectivePolicy()
    result = _overlay(EffectivePolicy(), rule.spec.traffic_policy, port)
    chosen = next((s for s in rule.spec.subsets if s.name == subset), None) if subset else None
    return _overlay(result, chosen.traffic_policy, port) if chosen is not None else result


def _overlay(base: EffectivePolicy, policy: dr.TrafficPolicy | None, port: int) -> EffectivePolicy:
    if policy is None:
        return base
    result = EffectivePolicy(
        load_balancer=policy.load_balancer or base.load_balancer,
        connection_pool=policy.connection_pool or base.connection_pool,
        outlier_detection=policy.outlier_detection or base.outlier_detection,
        tls=policy.tls or base.tls,
        proxy_protocol=policy.proxy_protocol or base.proxy_protocol,
        retry_budget=policy.retry_budget or base.retry_budget,
        tunnel=policy.tunnel or base.tunnel,
    )
    for level in policy.port_level_settings:
        if level.port is not None and level.port.number == port:
            return dataclasses.replace(
                result,
                load_balancer=level.load_balancer,
                connection_pool=level.connection_pool,
                outlier_detection=level.outlier_detection,
                tls=level.tls,
            )
    return result


def with_defaults(policy: EffectivePolicy, defaults: DefaultTrafficPolicy | None) -> EffectivePolicy:
    """The mesh's default blocks stand in for those that no DestinationRule sets."""
    if defaults is None:
        return policy
    return dataclasses.replace(
        policy,
        connection_pool=policy.connection_pool or defaults.connection_pool,
        outlier_detection=policy.outlier_detection or defaults.outlier_detection,
    )


# Load balancing


def apply_load_balancer(cluster: cluster_pb2.Cluster, settings: dr.LoadBalancerSettings | None) -> None:
    """LEAST_REQUEST unless the policy says otherwise."""
    cluster.lb_policy = cluster_pb2.Cluster.LEAST_REQUEST
    if settings is None:
        return
    if settings.consistent_hash is not None:
        _apply_hash(cluster, settings.consistent_hash)
        return
    simple = settings.simple
    if simple == dr.SimpleLB.ROUND_ROBIN:
        cluster.lb_policy = cluster_pb2.Cluster.ROUND_ROBIN
    elif simple == dr.SimpleLB.RANDOM:
        cluster.lb_policy = cluster_pb2.Cluster.RANDOM
    warmup = _slow_start(settings)
    if warmup is not None and cluster.lb_policy == cluster_pb2.Cluster.ROUND_ROBIN:
        cluster.round_robin_lb_config.slow_start_config.CopyFrom(warmup)
    elif warmup is not None and cluster.lb_policy == cluster_pb2.Cluster.LEAST_REQUEST:
        cluster.least_request_lb_config.slow_start_config.CopyFrom(warmup)


def _slow_start(settings: dr.LoadBalancerSettings) -> cluster_pb2.Cluster.SlowStartConfig | None:
    if settings.warmup is not None:
        result = cluster_pb2.Cluster.SlowStartConfig(slow_start_window=duration(settings.warmup.duration))
        if settings.warmup.aggression is not None:
            result.aggression.default_value = settings.warmup.aggression
            result.aggression.runtime_key = ""
        if settings.warmup.minimum_percent is not None:
            result.min_weight_percent.value = settings.warmup.minimum_percent
        return result
    if settings.warmup_duration_secs is not None:
        return cluster_pb2.Cluster.SlowStartConfig(slow_start_window=duration(settings.warmup_duration_secs))
    return None


def _apply_hash(cluster: cluster_pb2.Cluster, settings: dr.ConsistentHashLB) -> None:
    if settings.maglev is not None:
        cluster.lb_policy = cluster_pb2.Cluster.MAGLEV
        table = settings.maglev.table_size or _MAGLEV_SIZE
        if table > _MAX_MAGLEV_SIZE or not _is_prime(table):
            raise TranslationError(f"maglev tableSize {table} is not a prime up to {_MAX_MAGLEV_SIZE}")
        cluster.maglev_lb_config.table_size.value = table
        return
    size = settings.ring_hash.minimum_ring_size if settings.ring_hash is not None else settings.minimum_ring_size
    cluster.lb_policy = cluster_pb2.Cluster.RING_HASH
    cluster.ring_hash_lb_config.minimum_ring_size.value = min(size or _RING_SIZE, _MAX_RING_SIZE)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def hash_policy(settings: dr.ConsistentHashLB | None) -> rc.RouteAction.HashPolicy | None:
    """The route's side of a consistent hash: what of the request is hashed."""
    hashes = rc.RouteAction.HashPolicy
    if settings is None:
        return None
    if settings.http_header_name:
        return hashes(header=hashes.Header(header_name=settings.http_header_name))
    if settings.http_cookie is not None:
        cookie = hashes.Cookie(name=settings.http_cookie.name, path=settings.http_cookie.path or "")
        if settings.http_cookie.ttl is not None:  # zero makes it a session cookie; without ttl none is generated
            cookie.ttl.CopyFrom(duration(settings.http_cookie.ttl))
        for attribute in settings.http_cookie.attributes:
            cookie.attributes.add(name=attribute.name, value=attribute.value or "")
        return hashes(cookie=cookie)
    if settings.http_query_parameter_name:
        return hashes(query_parameter=hashes.QueryParameter(name=settings.http_query_parameter_name))
    if settings.use_source_ip:
        return hashes(connection_properties=hashes.ConnectionProperties(source_ip=True))
    return None


# Connection pool


def apply_connection_pool(
    cluster: cluster_pb2.Cluster,
    pool: dr.ConnectionPoolSettings | None,
    protocol: Protocol,
    *,
    h2_by_default: bool = False,
    retry_budget: dr.RetryBudget | None = None,
    keepalive: dr.TcpKeepalive | None = None,
) -> None:
    """Limits (Envoy's small defaults lifted), keep-alive, and the HTTP version spoken upstream."""
    tcp = pool.tcp if pool is not None and pool.tcp is not None else dr.TCPSettings()
    http = pool.http if pool is not None and pool.http is not None else dr.HTTPSettings()
    thresholds = cluster.circuit_breakers.thresholds.add(
        max_connections=uint32(tcp.max_connections or MAX_UINT32),
        max_pending_requests=uint32(http.http1_max_pending_requests or MAX_UINT32),
        max_requests=uint32(http.http2_max_requests or MAX_UINT32),
        max_retries=uint32(http.max_retries or MAX_UINT32),
        track_remaining=True,
    )
    if retry_budget is not None:
        budget = thresholds.retry_budget
        budget.budget_percent.value = 20 if retry_budget.percent is None else retry_budget.percent
        minimum = retry_budget.min_retry_concurrency
        budget.min_retry_concurrency.value = 3 if minimum is None else minimum
        thresholds.ClearField("max_retries")
    if tcp.connect_timeout is not None:
        cluster.connect_timeout.CopyFrom(duration(tcp.connect_timeout))
    if tcp.tcp_keepalive is not None or keepalive is not None:
        _keepalive(cluster, tcp.tcp_keepalive or keepalive or dr.TcpKeepalive())
    options = _http_options(http, tcp, protocol, h2_by_default=h2_by_default)
    if options is not None:
        cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(packed(options))


def _keepalive(cluster: cluster_pb2.Cluster, settings: dr.TcpKeepalive) -> None:
    keepalive = cluster.upstream_connection_options.tcp_keepalive
    keepalive.SetInParent()
    if settings.probes:
        keepalive.keepalive_probes.value = settings.probes
    if settings.time is not None:
        keepalive.keepalive_time.value = max(1, int(settings.time.total_seconds()))
    if settings.interval is not None:
        keepalive.keepalive_interval.value = max(1, int(settings.interval.total_seconds()))


def speaks_h2(protocol: Protocol, policy: dr.H2UpgradePolicy | None, *, h2_by_default: bool = False) -> bool:
    """Whether a cluster uses HTTP/2: gRPC and HTTP2 ports always, others when they are upgraded."""
    if protocol in {Protocol.HTTP2, Protocol.GRPC}:
        return True
    if policy == dr.H2UpgradePolicy.UPGRADE:
        return True
    return h2_by_default and policy in {None, dr.H2UpgradePolicy.DEFAULT}


def _http_options(
    http: dr.HTTPSettings, tcp: dr.TCPSettings, protocol: Protocol, *, h2_by_default: bool
) -> http_options.HttpProtocolOptions | None:
    """Which HTTP version, and its limits; None for clusters that never carry HTTP."""
    if not protocol.is_http and protocol != Protocol.UNSUPPORTED:
        return None
    options = http_options.HttpProtocolOptions()
    if http.use_client_protocol or protocol == Protocol.UNSUPPORTED:
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        _http2(options.use_downstream_protocol_config.http2_protocol_options, http)
    elif speaks_h2(protocol, http.h2_upgrade_policy, h2_by_default=h2_by_default):
        _http2(options.explicit_http_config.http2_protocol_options, http)
    else:
        options.explicit_http_config.http_protocol_options.SetInParent()
    common = options.common_http_protocol_options
    if http.max_requests_per_connection:
        common.max_requests_per_connection.value = http.max_requests_per_connection
    common.idle_timeout.CopyFrom(duration(http.idle_timeout or _DEFAULT_IDLE))
    if tcp.max_connection_duration is not None:
        common.max_connection_duration.CopyFrom(duration(tcp.max_connection_duration))
    return options


def _http2(options: protocol_pb2.Http2ProtocolOptions, http: dr.HTTPSettings) -> None:
    options.SetInParent()
    if http.max_concurrent_streams:
        options.max_concurrent_streams.value = http.max_concurrent_streams
    if http.http2_keep_alive is not None:
        keep = http.http2_keep_alive
        options.connection_keepalive.interval.CopyFrom(duration(keep.interval or timedelta(seconds=30)))
        options.connection_keepalive.timeout.CopyFrom(duration(keep.timeout or timedelta(seconds=10)))


def tcp_idle_timeout(policy: EffectivePolicy) -> timedelta:
    """How long a TCP connection may be idle; zero is for ever."""
    tcp = policy.connection_pool.tcp if policy.connection_pool is not None else None
    return _DEFAULT_IDLE if tcp is None or tcp.idle_timeout is None else tcp.idle_timeout


# Outlier detection


def outlier_detection(settings: dr.OutlierDetection) -> outlier_detection_pb2.OutlierDetection:
    """Eject failing hosts. The success-rate detectors stay off, as in Istio."""
    result = outlier_detection_pb2.OutlierDetection(
        interval=duration(settings.interval or _DEFAULT_INTERVAL),
        base_ejection_time=duration(settings.base_ejection_time or _DEFAULT_EJECTION),
        max_ejection_percent=uint32(10 if settings.max_ejection_percent is None else settings.max_ejection_percent),
        enforcing_success_rate=uint32(0),
        enforcing_failure_percentage=uint32(0),
        enforcing_failure_percentage_local_origin=uint32(0),
        enforcing_local_origin_success_rate=uint32(0),
    )
    fives = settings.consecutive_5xx_errors
    if fives is None:
        fives = settings.consecutive_errors or 5
    result.consecutive_5xx.value = max(fives, 1)
    result.enforcing_consecutive_5xx.value = 100 if fives else 0
    gateway = settings.consecutive_gateway_errors
    result.enforcing_consecutive_gateway_failure.value = 100 if gateway else 0
    if gateway:
        result.consecutive_gateway_failure.value = gateway
    if settings.split_external_local_origin_errors:
        result.split_external_local_origin_errors = True
        local = settings.consecutive_local_origin_failures
        result.consecutive_local_origin_failure.value = 5 if local is None else max(local, 1)
        result.enforcing_consecutive_local_origin_failure.value = 0 if local == 0 else 100
    return result


def apply_outlier_detection(cluster: cluster_pb2.Cluster, settings: dr.OutlierDetection | None) -> None:
    """Ejection, and below which share of healthy hosts Envoy uses all of them (Istio: never)."""
    panic = settings.min_health_percent or 0 if settings is not None else 0
    cluster.common_lb_config.healthy_panic_threshold.CopyFrom(percent_pb2.Percent(value=panic))
    if settings is not None:
        cluster.outlier_detection.CopyFrom(outlier_detection(settings))
