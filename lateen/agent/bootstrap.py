"""The bootstrap of a proxy: who it is, where its control plane and its secrets are, and the listeners that exist before any push. Pure."""

from dataclasses import dataclass

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from lateen.agent.proxyfile import ProxySpec
from lateen.agent.static_clusters import XDS_CLUSTER, admin_cluster, ads_cluster, sds_cluster
from lateen.agent.static_listeners import pack, prometheus_listener, readiness_listener, socket_address
from lateen.agent.wasm_noop import noop_module
from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.envoyapi.envoy.config.core.v3 import base_pb2, config_source_pb2, extension_pb2, grpc_service_pb2
from lateen.envoyapi.envoy.config.metrics.v3 import stats_pb2
from lateen.envoyapi.envoy.config.overload.v3 import overload_pb2
from lateen.envoyapi.envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2
from lateen.envoyapi.envoy.extensions.wasm.v3 import wasm_pb2

ADMIN_PORT, READINESS_PORT, PROMETHEUS_PORT = 15000, 15021, 15090
MAX_CONNECTIONS = 50_000
_DURATION_BUCKETS = (
    0.5,
    1,
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1000,
    2500,
    5000,
    10000,
    30000,
    60000,
    300000,
    600000,
    3600000,
)
_BYTES_BUCKETS = (64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_NEVER = Duration()
_RELEASED_BYTES, _RELEASE_SECONDS = 100 * 1024 * 1024, 5


@dataclass(frozen=True, slots=True)
class Mesh:
    """What every proxy of the agent shares."""

    ads_address: str
    trust_domain: str
    root_namespace: str = "istio-system"
    version: str = ""
    modules_dir: str = ""
    """Where proxies can read the modules of plugins by themselves."""


def bootstrap(proxy: ProxySpec, mesh: Mesh) -> bootstrap_pb2.Bootstrap:
    """Everything Envoy must know before its control plane speaks."""
    loopback = proxy.mode == "NONE"
    admin_address = proxy.address if loopback else "127.0.0.1"
    listen_address = proxy.address if loopback else "0.0.0.0"  # noqa: S104 - probes come from outside the namespace
    message = bootstrap_pb2.Bootstrap(
        node=node(proxy, mesh),
        admin=bootstrap_pb2.Admin(address=socket_address(admin_address, ADMIN_PORT)),
        dynamic_resources=_dynamic_resources(),
        static_resources=bootstrap_pb2.Bootstrap.StaticResources(
            clusters=[
                ads_cluster(mesh.ads_address, mesh.trust_domain, mesh.root_namespace),
                sds_cluster(proxy.sds_socket),
                admin_cluster(admin_address, ADMIN_PORT),
            ],
            listeners=[
                readiness_listener(listen_address, READINESS_PORT),
                prometheus_listener(listen_address, PROMETHEUS_PORT),
            ],
        ),
        stats_config=_stats_config(),
        layered_runtime=_runtime(),
        overload_manager=_overload_manager(),
        bootstrap_extensions=[_custom_stat_namespace()],
    )
    # Compiling a plugin's module takes memory for a moment that the allocator would keep: give it back, in the background.
    message.memory_allocator_manager.bytes_to_release = _RELEASED_BYTES
    message.memory_allocator_manager.memory_release_interval.seconds = _RELEASE_SECONDS
    # Cluster statistics cost memory for every cluster a proxy can see, used or not: make them at their first use.
    message.deferred_stat_options.enable_deferred_creation_stats = True
    if loopback:
        # Here and never per cluster: every replica has its own source address, and clusters stay the same for all.
        source = message.cluster_manager.upstream_bind_config.source_address
        source.address, source.port_value = proxy.address, 0
    return message


def render_bootstrap(message: bootstrap_pb2.Bootstrap) -> str:
    """The message as the JSON that `envoy --config-path` reads."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=1)


def node(proxy: ProxySpec, mesh: Mesh) -> base_pb2.Node:
    """Istio's node id and NodeMetadata. Both id and cluster are always set: Envoy 1.40 can end without them."""
    workload = proxy.workload_name or proxy.name
    metadata = Struct()
    metadata.update(
        {
            "NAMESPACE": proxy.namespace,
            "NAME": proxy.name,
            "WORKLOAD_NAME": workload,
            "SERVICE_ACCOUNT": proxy.service_account,
            "LABELS": dict(sorted(proxy.labels.items())),
            "INSTANCE_IPS": proxy.address,
            "INTERCEPTION_MODE": proxy.mode,
            "CLUSTER_ID": "lateen",
            "MESH_ID": mesh.trust_domain,
            "ISTIO_VERSION": mesh.version,
            "APP_ADDRESS": proxy.app_address or "127.0.0.1",
            "LATEEN_MODULES_DIR": mesh.modules_dir,
        }
    )
    region, _, rest = proxy.locality.partition("/")
    zone, _, sub_zone = rest.partition("/")
    domain = f"{proxy.namespace}.svc.cluster.local"
    return base_pb2.Node(
        id=f"{proxy.node_type}~{proxy.address}~{proxy.name}.{proxy.namespace}~{domain}",
        cluster=f"{workload}.{proxy.namespace}",
        metadata=metadata,
        locality=base_pb2.Locality(region=region, zone=zone, sub_zone=sub_zone) if proxy.locality else None,
    )


def _dynamic_resources() -> bootstrap_pb2.Bootstrap.DynamicResources:
    # Without a limit on the first fetch, the proxy is not ready, and accepts nothing, before it was told what to do.
    from_ads = config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        initial_fetch_timeout=_NEVER,
        resource_api_version=config_source_pb2.V3,
    )
    stream = grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=XDS_CLUSTER)
    # A control plane that restarts is found again within seconds; Envoy's own ceiling is half a minute.
    stream.retry_policy.retry_back_off.base_interval.nanos = 500_000_000
    stream.retry_policy.retry_back_off.max_interval.seconds = 5
    return bootstrap_pb2.Bootstrap.DynamicResources(
        lds_config=from_ads,
        cds_config=from_ads,
        ads_config=config_source_pb2.ApiConfigSource(
            api_type=config_source_pb2.ApiConfigSource.DELTA_GRPC,
            transport_api_version=config_source_pb2.V3,
            set_node_on_first_message_only=True,
            grpc_services=[grpc_service_pb2.GrpcService(envoy_grpc=stream)],
        ),
    )


def _stats_config() -> stats_pb2.StatsConfig:
    config = stats_pb2.StatsConfig()
    config.use_all_default_tags.value = True
    for part, buckets in (("istio_request_duration", _DURATION_BUCKETS), ("bytes", _BYTES_BUCKETS)):
        setting = config.histogram_bucket_settings.add(buckets=buckets)
        setting.match.contains = part
    return config


def _runtime() -> bootstrap_pb2.LayeredRuntime:
    static = Struct()
    # A regex that RE2 would compile into a huge program is refused, and reported, instead of eating memory.
    static.update({"re2.max_program_size.error_level": 32768})
    runtime = bootstrap_pb2.LayeredRuntime()
    runtime.layers.add(name="lateen", static_layer=static)
    runtime.layers.add(name="admin", admin_layer=bootstrap_pb2.RuntimeLayer.AdminLayer())
    return runtime


def _overload_manager() -> overload_pb2.OverloadManager:
    limit = downstream_connections_pb2.DownstreamConnectionsConfig(max_active_downstream_connections=MAX_CONNECTIONS)
    manager = overload_pb2.OverloadManager()
    manager.resource_monitors.add(
        name="envoy.resource_monitors.global_downstream_max_connections", typed_config=pack(limit)
    )
    return manager


def _custom_stat_namespace() -> extension_pb2.TypedExtensionConfig:
    """See `wasm_noop`: one idle virtual machine on the main thread."""
    service = wasm_pb2.WasmService(singleton=True)
    service.config.name = "lateen-stat-namespace"
    service.config.vm_config.vm_id = "lateen-stat-namespace"
    service.config.vm_config.runtime = "envoy.wasm.runtime.v8"
    service.config.vm_config.code.local.inline_bytes = noop_module()
    return extension_pb2.TypedExtensionConfig(name="envoy.bootstrap.wasm", typed_config=pack(service))
