"""DestinationRule (networking.istio.io): how connections to a host are made. Sidecar and MeshConfig reuse its parts."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, Strict, model_validator

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import (
    Bool,
    Duration,
    DurationOrZero,
    Int32,
    LabelSelector,
    Percentage,
    PortSelector,
    Spec,
    UInt32,
    UInt64,
    at_most_one,
)


class SimpleLB(StrEnum):
    """Load balancing without affinity."""

    UNSPECIFIED = "UNSPECIFIED"
    LEAST_CONN = "LEAST_CONN"
    RANDOM = "RANDOM"
    PASSTHROUGH = "PASSTHROUGH"
    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"


class HTTPCookieAttribute(Spec):
    """An attribute of a generated cookie, such as SameSite."""

    name: str
    value: str | None = None


class HTTPCookie(Spec):
    """Affinity by cookie; `ttl` zero is a session cookie."""

    name: str
    path: str | None = None
    ttl: DurationOrZero | None = None
    attributes: tuple[HTTPCookieAttribute, ...] = ()


class RingHash(Spec):
    """Ring hash with at least `minimumRingSize` points."""

    minimum_ring_size: UInt64 | None = None


class MagLev(Spec):
    """Maglev with a table of `tableSize` (a prime)."""

    table_size: UInt64 | None = None


class ConsistentHashLB(Spec):
    """Affinity by a property of the request."""

    http_header_name: str | None = None
    http_cookie: HTTPCookie | None = None
    use_source_ip: Bool | None = None
    http_query_parameter_name: str | None = None
    ring_hash: RingHash | None = None
    maglev: MagLev | None = None
    minimum_ring_size: UInt64 | None = None

    @model_validator(mode="after")
    def _one(self) -> "ConsistentHashLB":
        at_most_one(self, ("http_header_name", "http_cookie", "use_source_ip", "http_query_parameter_name"))
        at_most_one(self, ("ring_hash", "maglev"))
        return self


class LocalityDistribute(Spec):
    """Where traffic from a locality goes, in percent."""

    from_: str | None = None
    to: dict[str, UInt32] = {}


class LocalityFailover(Spec):
    """Which region takes over from which."""

    from_: str | None = None
    to: str | None = None


class LocalityLoadBalancerSetting(Spec):
    """Locality-aware load balancing."""

    distribute: tuple[LocalityDistribute, ...] = ()
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    enabled: Bool | None = None


class ZoneAwareLbSetting(Spec):
    """Envoy's zone-aware routing."""

    enabled: Bool | None = None
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    min_cluster_size: Annotated[int, Strict(), Field(ge=1)] | None = None


class WarmupConfiguration(Spec):
    """Slow start of new endpoints."""

    duration: Duration
    minimum_percent: Percentage | None = None
    aggression: Annotated[float, Strict(), Field(ge=0)] | None = None


class LoadBalancerSettings(Spec):
    """How an endpoint is chosen."""

    simple: SimpleLB | None = None
    consistent_hash: ConsistentHashLB | None = None
    locality_lb_setting: LocalityLoadBalancerSetting | None = None
    zone_aware_lb_setting: ZoneAwareLbSetting | None = None
    warmup: WarmupConfiguration | None = None
    warmup_duration_secs: Duration | None = None

    @model_validator(mode="after")
    def _one(self) -> "LoadBalancerSettings":
        at_most_one(self, ("simple", "consistent_hash"))
        return self


class TcpKeepalive(Spec):
    """TCP keep-alive of upstream connections."""

    probes: UInt32 | None = None
    time: Duration | None = None
    interval: Duration | None = None


class TCPSettings(Spec):
    """Limits of TCP connections."""

    max_connections: Int32 | None = None
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: Duration | None = None
    idle_timeout: DurationOrZero | None = None


class H2UpgradePolicy(StrEnum):
    """Whether upstream connections use HTTP/2."""

    DEFAULT = "DEFAULT"
    DO_NOT_UPGRADE = "DO_NOT_UPGRADE"
    UPGRADE = "UPGRADE"


class Http2KeepAlive(Spec):
    """HTTP/2 PING keep-alive."""

    interval: Duration | None = None
    timeout: Duration | None = None


class HTTPSettings(Spec):
    """Limits of HTTP connections."""

    http1_max_pending_requests: Int32 | None = None
    http2_max_requests: Int32 | None = None
    max_requests_per_connection: Int32 | None = None
    max_retries: Int32 | None = None
    idle_timeout: Duration | None = None
    h2_upgrade_policy: H2UpgradePolicy | None = None
    use_client_protocol: Bool | None = None
    max_concurrent_streams: Int32 | None = None
    http2_keep_alive: Http2KeepAlive | None = None


class ConnectionPoolSettings(Spec):
    """Limits of connections."""

    tcp: TCPSettings | None = None
    http: HTTPSettings | None = None


class OutlierDetection(Spec):
    """When a failing endpoint is taken out of rotation."""

    split_external_local_origin_errors: Bool | None = None
    consecutive_local_origin_failures: UInt32 | None = None
    consecutive_errors: Int32 | None = None
    consecutive_gateway_errors: UInt32 | None = None
    consecutive_5xx_errors: UInt32 | None = Field(default=None, alias="consecutive5xxErrors")
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: Int32 | None = None
    min_health_percent: Int32 | None = None
    outlier_detection_http_error_codes: tuple[Annotated[int, Strict(), Field(ge=100, le=599)], ...] = ()


class TLSmode(StrEnum):
    """TLS towards the upstream."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class ClientTLSSettings(Spec):
    """TLS towards the upstream."""

    mode: TLSmode = TLSmode.DISABLE
    client_certificate: str | None = None
    private_key: str | None = None
    ca_certificates: str | None = None
    credential_name: str | None = None
    subject_alt_names: tuple[str, ...] = ()
    sni: str | None = None
    insecure_skip_verify: Bool | None = None
    ca_crl: str | None = None


class PortTrafficPolicy(Spec):
    """The policy of one port; blocks it lacks fall back to defaults, not to the parent policy."""

    port: PortSelector | None = None
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None


class TunnelSettings(Spec):
    """Tunnel TCP through an HTTP proxy."""

    protocol: str | None = None
    target_host: str
    target_port: UInt32


class ProxyProtocolVersion(StrEnum):
    """Version of the PROXY protocol."""

    V1 = "V1"
    V2 = "V2"


class ProxyProtocol(Spec):
    """Send a PROXY protocol header upstream."""

    version: ProxyProtocolVersion = ProxyProtocolVersion.V1


class RetryBudget(Spec):
    """Concurrent retries as a share of active requests."""

    percent: Percentage | None = None
    budget_interval: DurationOrZero | None = None
    min_retry_concurrency: UInt32 | None = None


class TrafficPolicy(Spec):
    """How connections are made."""

    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None
    port_level_settings: Annotated[tuple[PortTrafficPolicy, ...], Field(max_length=4096)] = ()
    tunnel: TunnelSettings | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None


class Subset(Spec):
    """A named group of endpoints."""

    name: str
    labels: dict[str, str] = {}
    traffic_policy: TrafficPolicy | None = None


class DestinationRuleSpec(Spec):
    """Policies of one host (or a wildcard)."""

    host: str
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: LabelSelector | None = None


class DestinationRule(Resource):
    """How connections to a host are made."""

    api_version: str = "networking.istio.io/v1"
    kind: str = "DestinationRule"
    spec: DestinationRuleSpec
