"""The clusters a proxy needs to reach its control plane, its secrets and its own admin interface. Pure."""

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration

from lateen.addresses import is_address
from lateen.envoyapi.envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from lateen.envoyapi.envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2, grpc_service_pb2
from lateen.envoyapi.envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from lateen.envoyapi.envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

XDS_CLUSTER = "xds-grpc"
SDS_CLUSTER = "sds-grpc"
ADMIN_CLUSTER = "prometheus_stats"
CONTROL_PLANE = "lateen-controlplane"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_UNLIMITED = 100_000


def ads_cluster(ads_address: str, trust_domain: str, root_namespace: str) -> cluster_pb2.Cluster:
    """The control plane over HTTP/2 and mutual TLS: it must present the control plane's identity."""
    host, _, port = ads_address.rpartition(":")
    host = host.strip("[]")
    cluster = cluster_pb2.Cluster(
        name=XDS_CLUSTER,
        type=cluster_pb2.Cluster.STATIC if is_address(host) else cluster_pb2.Cluster.STRICT_DNS,
        connect_timeout=Duration(seconds=1),
        load_assignment=_one_endpoint(
            XDS_CLUSTER,
            address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=int(port))),
        ),
        typed_extension_protocol_options={_HTTP_OPTIONS: _http2(keepalive=True)},
        circuit_breakers=_no_limits(),
        transport_socket=_control_plane_tls(trust_domain, root_namespace),
    )
    cluster.upstream_connection_options.tcp_keepalive.keepalive_time.value = 300
    # A control plane that moved is looked for anew rather than believed in.
    cluster.respect_dns_ttl = cluster.type == cluster_pb2.Cluster.STRICT_DNS
    return cluster


def sds_cluster(socket: str) -> cluster_pb2.Cluster:
    """The agent's unix socket of this proxy."""
    return cluster_pb2.Cluster(
        name=SDS_CLUSTER,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout=Duration(seconds=1),
        load_assignment=_one_endpoint(SDS_CLUSTER, address_pb2.Address(pipe=address_pb2.Pipe(path=socket))),
        typed_extension_protocol_options={_HTTP_OPTIONS: _http2(keepalive=False)},
        circuit_breakers=_no_limits(),
    )


def admin_cluster(address: str, port: int) -> cluster_pb2.Cluster:
    """The proxy's own admin interface, for the Prometheus listener."""
    where = address_pb2.Address(socket_address=address_pb2.SocketAddress(address=address, port_value=port))
    return cluster_pb2.Cluster(
        name=ADMIN_CLUSTER,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout=Duration(nanos=250_000_000),
        load_assignment=_one_endpoint(ADMIN_CLUSTER, where),
    )


def sds_secret(name: str) -> secret_pb2.SdsSecretConfig:
    """A secret by its name from the agent. The control plane writes the same bytes, so Envoy shares one subscription."""
    return secret_pb2.SdsSecretConfig(
        name=name,
        sds_config=config_source_pb2.ConfigSource(
            api_config_source=config_source_pb2.ApiConfigSource(
                api_type=config_source_pb2.ApiConfigSource.GRPC,
                transport_api_version=config_source_pb2.V3,
                set_node_on_first_message_only=True,
                grpc_services=[
                    grpc_service_pb2.GrpcService(
                        envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=SDS_CLUSTER)
                    )
                ],
            ),
            initial_fetch_timeout=Duration(),
            resource_api_version=config_source_pb2.V3,
        ),
    )


def _control_plane_tls(trust_domain: str, root_namespace: str) -> base_pb2.TransportSocket:
    name = common_pb2.SubjectAltNameMatcher(san_type=common_pb2.SubjectAltNameMatcher.URI)
    name.matcher.exact = f"spiffe://{trust_domain}/ns/{root_namespace}/sa/{CONTROL_PLANE}"
    context = tls_pb2.UpstreamTlsContext(
        sni=f"{CONTROL_PLANE}.{root_namespace}.svc",
        common_tls_context=tls_pb2.CommonTlsContext(
            alpn_protocols=["h2"],
            tls_params=common_pb2.TlsParameters(tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_2),
            tls_certificate_sds_secret_configs=[sds_secret("default")],
            combined_validation_context=tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
                default_validation_context=common_pb2.CertificateValidationContext(
                    match_typed_subject_alt_names=[name]
                ),
                validation_context_sds_secret_config=sds_secret("ROOTCA"),
            ),
        ),
    )
    packed = Any()
    packed.Pack(context, deterministic=True)
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed)


def _http2(*, keepalive: bool) -> Any:
    options = http_protocol_options_pb2.HttpProtocolOptions()
    http2 = options.explicit_http_config.http2_protocol_options
    http2.SetInParent()
    if keepalive:
        http2.connection_keepalive.interval.seconds = 30
        http2.connection_keepalive.timeout.seconds = 10
    packed = Any()
    packed.Pack(options, deterministic=True)
    return packed


def _no_limits() -> circuit_breaker_pb2.CircuitBreakers:
    """Long-lived streams of the proxy itself must not be refused by the default of 1,024 requests."""
    breakers = circuit_breaker_pb2.CircuitBreakers()
    for priority in (base_pb2.DEFAULT, base_pb2.HIGH):
        threshold = breakers.thresholds.add(priority=priority)
        for limit in (
            threshold.max_connections,
            threshold.max_pending_requests,
            threshold.max_requests,
            threshold.max_retries,
        ):
            limit.value = _UNLIMITED
    return breakers


def _one_endpoint(cluster: str, address: address_pb2.Address) -> endpoint_pb2.ClusterLoadAssignment:
    endpoint = endpoint_components_pb2.LbEndpoint(endpoint=endpoint_components_pb2.Endpoint(address=address))
    return endpoint_pb2.ClusterLoadAssignment(
        cluster_name=cluster, endpoints=[endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[endpoint])]
    )
