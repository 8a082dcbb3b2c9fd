"""MeshConfig (`mesh.yaml`): settings of the mesh as a whole, in Istio's own form."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from lateen.mesh.destinationrule import (
    ConnectionPoolSettings,
    LocalityLoadBalancerSetting,
    OutlierDetection,
    TcpKeepalive,
)
from lateen.mesh.gateway import TLSProtocol
from lateen.mesh.gatewayapi import NamespaceSelector
from lateen.mesh.spec import (
    Bool,
    Double,
    Duration,
    DurationOrZero,
    FreeForm,
    Int,
    Int32,
    NonEmpty,
    Percentage,
    Port,
    Spec,
    UInt32,
    at_most_one,
    exactly_one,
)
from lateen.mesh.virtualservice import HTTPRetry


class OutboundMode(StrEnum):
    """What happens to traffic to unknown services."""

    REGISTRY_ONLY = "REGISTRY_ONLY"
    ALLOW_ANY = "ALLOW_ANY"


class MeshOutboundTrafficPolicy(Spec):
    """Traffic to services that are not in the registry."""

    mode: OutboundMode = OutboundMode.ALLOW_ANY


class InboundMode(StrEnum):
    """Where inbound traffic to undeclared ports goes."""

    PASSTHROUGH = "PASSTHROUGH"
    LOCALHOST = "LOCALHOST"


class InboundTrafficPolicy(Spec):
    """Inbound traffic to ports that no service declares."""

    mode: InboundMode = InboundMode.PASSTHROUGH


class NormalizationType(StrEnum):
    """How paths are normalized before routing and policies see them."""

    DEFAULT = "DEFAULT"
    NONE = "NONE"
    BASE = "BASE"
    MERGE_SLASHES = "MERGE_SLASHES"
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"


class PathNormalization(Spec):
    """Path normalization; DEFAULT is BASE."""

    normalization: NormalizationType = NormalizationType.DEFAULT


class AccessLogEncoding(StrEnum):
    """Format of the access log file."""

    TEXT = "TEXT"
    JSON = "JSON"


class ExtAuthzRequestBody(Spec):
    """How much of the body the authorizer sees."""

    max_request_bytes: UInt32 | None = None
    allow_partial_message: Bool = False
    pack_as_bytes: Bool = False


class EnvoyExtAuthzHttp(Spec):
    """An authorizer that speaks HTTP."""

    service: NonEmpty
    port: Port
    timeout: Duration | None = None
    path_prefix: str | None = None
    fail_open: Bool = False
    status_on_error: str | None = None
    clear_route_cache: Bool = False
    include_headers_in_check: tuple[str, ...] = ()
    """Deprecated by Istio: it counts where `includeRequestHeadersInCheck` is not set."""
    include_request_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: dict[str, str] = {}
    include_request_body_in_check: ExtAuthzRequestBody | None = None
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_deny: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()


class EnvoyExtAuthzGrpc(Spec):
    """An authorizer that speaks Envoy's gRPC protocol."""

    service: NonEmpty
    port: Port
    timeout: Duration | None = None
    fail_open: Bool = False
    status_on_error: str | None = None
    clear_route_cache: Bool = False
    include_request_body_in_check: ExtAuthzRequestBody | None = None


class ServiceProvider(Spec):
    """A collector reached as a service of the mesh; settings beyond its address are passed on."""

    service: str | None = None
    port: Port | None = None
    max_tag_length: UInt32 | None = None


class Zipkin(ServiceProvider):
    """Zipkin."""

    enable64bit_trace_id: Bool | None = Field(default=None, alias="enable64bitTraceId")
    path: str | None = None


class OpenTelemetry(ServiceProvider):
    """An OpenTelemetry collector for traces."""

    http: FreeForm | None = None
    grpc: FreeForm | None = None
    resource_detectors: FreeForm | None = None
    dynatrace_sampler: FreeForm | None = None


class LogFormat(Spec):
    """Format of log lines."""

    text: str | None = None
    labels: dict[str, str] = {}

    @model_validator(mode="after")
    def _one(self) -> "LogFormat":
        at_most_one(self, ("text", "labels"))
        return self


class EnvoyFileAccessLog(Spec):
    """Access log to a file."""

    path: NonEmpty
    log_format: LogFormat | None = None
    omit_empty_values: Bool = False


class EnvoyOtelAls(ServiceProvider):
    """Access log to an OpenTelemetry collector."""

    log_name: str | None = None
    log_format: LogFormat | None = None


class EnvoyGrpcAls(ServiceProvider):
    """Access log over Envoy's gRPC protocol."""

    log_name: str | None = None
    additional_request_headers_to_log: tuple[str, ...] = ()
    additional_response_headers_to_log: tuple[str, ...] = ()
    additional_response_trailers_to_log: tuple[str, ...] = ()
    filter_state_objects_to_log: tuple[str, ...] = ()


class Prometheus(Spec):
    """Metrics for Prometheus; there is nothing to set."""


_PROVIDERS = (
    "envoy_ext_authz_http",
    "envoy_ext_authz_grpc",
    "zipkin",
    "lightstep",
    "datadog",
    "stackdriver",
    "opencensus",
    "skywalking",
    "opentelemetry",
    "prometheus",
    "envoy_file_access_log",
    "envoy_http_als",
    "envoy_tcp_als",
    "envoy_otel_als",
    "sds",
)


class ExtensionProvider(Spec):
    """A named provider of authorization, logs, traces or metrics."""

    name: NonEmpty
    envoy_ext_authz_http: EnvoyExtAuthzHttp | None = None
    envoy_ext_authz_grpc: EnvoyExtAuthzGrpc | None = None
    zipkin: Zipkin | None = None
    lightstep: FreeForm | None = None
    datadog: ServiceProvider | None = None
    stackdriver: FreeForm | None = None
    opencensus: FreeForm | None = None
    skywalking: FreeForm | None = None
    opentelemetry: OpenTelemetry | None = None
    prometheus: Prometheus | None = None
    envoy_file_access_log: EnvoyFileAccessLog | None = None
    envoy_http_als: EnvoyGrpcAls | None = None
    envoy_tcp_als: EnvoyGrpcAls | None = None
    envoy_otel_als: EnvoyOtelAls | None = None
    sds: FreeForm | None = None

    @model_validator(mode="after")
    def _one(self) -> "ExtensionProvider":
        exactly_one(self, _PROVIDERS)
        return self


class DefaultProviders(Spec):
    """Providers used where a Telemetry names none."""

    tracing: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    access_logging: tuple[str, ...] = ()


class TLSConfig(Spec):
    """TLS settings of the mesh."""

    min_protocol_version: TLSProtocol | None = None
    ecdh_curves: tuple[str, ...] = ()
    cipher_suites: tuple[str, ...] = ()


class CertificateData(Spec):
    """An extra root of trust."""

    pem: str | None = None
    spiffe_bundle_url: str | None = None
    cert_signers: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> "CertificateData":
        at_most_one(self, ("pem", "spiffe_bundle_url"))
        return self


class Tracing(Spec):
    """Tracing of the default proxy configuration."""

    sampling: Percentage | None = None
    max_path_tag_length: UInt32 | None = None
    custom_tags: dict[str, FreeForm] = {}
    enable_istio_tags: Bool | None = None
    zipkin: FreeForm | None = None
    tls_settings: FreeForm | None = None


class DefaultProxyConfig(Spec):
    """Settings of proxies that no ProxyConfig selects. Settings of Kubernetes and of the proxy image are kept but not interpreted."""

    concurrency: Annotated[Int32, Field(ge=0)] | None = None
    config_path: str | None = None
    binary_path: str | None = None
    service_cluster: str | None = None
    drain_duration: Duration | None = None
    termination_drain_duration: DurationOrZero | None = None
    discovery_address: str | None = None
    proxy_admin_port: Port | None = None
    status_port: Port | None = None
    control_plane_auth_policy: str | None = None
    stat_name_length: Int | None = None
    tracing: Tracing | None = None
    proxy_metadata: dict[str, str] = {}
    runtime_values: dict[str, str] = {}
    extra_stat_tags: tuple[str, ...] = ()
    proxy_stats_matcher: FreeForm | None = None
    gateway_topology: FreeForm | None = None
    readiness_probe: FreeForm | None = None
    hold_application_until_proxy_starts: Bool | None = None
    ca_certificates_pem: tuple[str, ...] = ()
    image: FreeForm | None = None
    private_key_provider: FreeForm | None = None
    proxy_headers: FreeForm | None = None
    envoy_access_log_service: FreeForm | None = None
    envoy_metrics_service: FreeForm | None = None
    proxy_bootstrap_template_path: str | None = None
    interception_mode: str | None = None
    zipkin_address: str | None = None
    file_flush_interval: Duration | None = None
    file_flush_min_size_kb: UInt32 | None = None
    stats_compression: Bool | None = None
    stats_eviction_interval: Duration | None = None
    sampling: Double | None = None


class ServiceSettings(Spec):
    """Settings of services by host."""

    settings: FreeForm | None = None
    hosts: tuple[str, ...] = ()


class DefaultTrafficPolicy(Spec):
    """What applies where a DestinationRule lacks the block."""

    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None


class EnforcementEngine(StrEnum):
    """Who decides about requests: the authorization service, or Envoy by itself."""

    EXT_AUTHZ = "extAuthz"
    NATIVE = "native"


class MeshConfig(Spec):
    """Settings of the mesh. Istio's defaults."""

    enforcement: EnforcementEngine = EnforcementEngine.EXT_AUTHZ
    """Ours: the engine of workloads whose labels and namespace name none."""

    trust_domain: NonEmpty = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: NonEmpty = "istio-system"
    extension_providers: Annotated[tuple[ExtensionProvider, ...], Field(max_length=1000)] = ()
    default_providers: DefaultProviders = DefaultProviders()
    path_normalization: PathNormalization = PathNormalization()
    outbound_traffic_policy: MeshOutboundTrafficPolicy = MeshOutboundTrafficPolicy()
    inbound_traffic_policy: InboundTrafficPolicy = InboundTrafficPolicy()
    access_log_file: str = ""
    access_log_format: str = ""
    access_log_encoding: AccessLogEncoding = AccessLogEncoding.TEXT
    enable_tracing: Bool = False
    enable_envoy_access_log_service: Bool = False
    disable_envoy_listener_log: Bool = False
    enable_auto_mtls: Bool = True
    enable_prometheus_merge: Bool = True
    connect_timeout: Duration | None = None
    protocol_detection_timeout: DurationOrZero | None = None
    tcp_keepalive: TcpKeepalive | None = None
    dns_refresh_rate: Duration | None = None
    h2_upgrade_policy: str = "DO_NOT_UPGRADE"
    locality_lb_setting: LocalityLoadBalancerSetting | None = None
    default_config: DefaultProxyConfig = DefaultProxyConfig()
    default_service_export_to: tuple[str, ...] = ()
    default_virtual_service_export_to: tuple[str, ...] = ()
    default_destination_rule_export_to: tuple[str, ...] = ()
    default_http_retry_policy: HTTPRetry | None = None
    default_traffic_policy: DefaultTrafficPolicy | None = None
    mesh_mtls: TLSConfig | None = Field(default=None, alias="meshMTLS")
    tls_defaults: TLSConfig | None = None
    ca_certificates: tuple[CertificateData, ...] = ()
    ca: FreeForm | None = None
    verify_certificate_at_client: Bool | None = None
    service_settings: tuple[ServiceSettings, ...] = ()
    service_scope_configs: tuple[FreeForm, ...] = ()
    discovery_selectors: tuple[NamespaceSelector, ...] = ()
    config_sources: tuple[FreeForm, ...] = ()
    inbound_cluster_stat_name: str = ""
    outbound_cluster_stat_name: str = ""
    proxy_listen_port: Port = 15001
    proxy_inbound_listen_port: Port = 15006
    proxy_http_port: Port | None = None
    ingress_class: str | None = None
    ingress_service: str | None = None
    ingress_selector: str | None = None
    ingress_controller_mode: str | None = None
    hbone_idle_timeout: DurationOrZero | None = None

    def provider(self, name: str) -> ExtensionProvider | None:
        """The extension provider called `name`."""
        return next((p for p in self.extension_providers if p.name == name), None)
