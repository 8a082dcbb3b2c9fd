"""A snapshot as a static bootstrap: for `envoy --mode validate`, and to start a real Envoy without a control plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from google.protobuf import any_pb2, json_format

from lateen.controlplane import names
from lateen.controlplane.references import walk
from lateen.controlplane.snapshot import Snapshot
from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.core.v3 import config_source_pb2
from lateen.envoyapi.envoy.config.endpoint.v3 import endpoint_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from lateen.envoyapi.envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

_HCM = hcm.HttpConnectionManager.DESCRIPTOR.full_name
_TLS = {kind.DESCRIPTOR.full_name: kind for kind in (tls_pb2.DownstreamTlsContext, tls_pb2.UpstreamTlsContext)}


def bootstrap(
    snapshot: Snapshot,
    *,
    admin_port: int = 0,
    identity: tuple[str, str] | None = None,
    validate_clusters: bool = True,
    edit: Callable[[bootstrap_pb2.Bootstrap], None] | None = None,
) -> bootstrap_pb2.Bootstrap:
    """Everything in place: RDS inlined, EDS as load assignments, SDS as static secrets.

    `identity` is (certificate chain and key, roots) in PEM for the secrets `default` and `ROOTCA`; they are only needed to start.
    """
    result = bootstrap_pb2.Bootstrap()
    result.node.id = "sidecar~127.0.0.1~test.default~default.svc.cluster.local"
    result.node.cluster = "test.default"
    result.admin.address.socket_address.address = "127.0.0.1"
    result.admin.address.socket_address.port_value = admin_port
    result.layered_runtime.layers.add(name="static").static_layer.update({"re2.max_program_size.error_level": 32768})
    resources = snapshot.resources
    routes = {name: route_pb2.RouteConfiguration.FromString(b.data) for name, b in resources.get(names.RDS, {}).items()}
    endpoints = {
        name: endpoint_pb2.ClusterLoadAssignment.FromString(b.data) for name, b in resources.get(names.EDS, {}).items()
    }
    for blob in resources.get(names.CDS, {}).values():
        result.static_resources.clusters.append(_cluster(cluster_pb2.Cluster.FromString(blob.data), endpoints))
    for blob in resources.get(names.LDS, {}).values():
        result.static_resources.listeners.append(
            _listener(listener_pb2.Listener.FromString(blob.data), routes, validate_clusters=validate_clusters)
        )
    for blob in resources.get(names.SDS, {}).values():
        result.static_resources.secrets.append(secret_pb2.Secret.FromString(blob.data))
    if identity is not None:
        default = result.static_resources.secrets.add(name=names.SDS_IDENTITY)
        default.tls_certificate.certificate_chain.inline_string = identity[0]
        default.tls_certificate.private_key.inline_string = identity[0]
        roots = result.static_resources.secrets.add(name=names.SDS_ROOTS)
        roots.validation_context.trusted_ca.inline_string = identity[1]
    else:
        _add_agent(result)
    if edit is not None:
        edit(result)
    if identity is not None:
        _static_secrets(result)
    return result


def to_json(message: bootstrap_pb2.Bootstrap) -> str:
    """The bootstrap as Envoy reads it."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=1)


def _cluster(
    cluster: cluster_pb2.Cluster, endpoints: Mapping[str, endpoint_pb2.ClusterLoadAssignment]
) -> cluster_pb2.Cluster:
    if cluster.WhichOneof("cluster_discovery_type") == "type" and cluster.type == cluster_pb2.Cluster.EDS:
        cluster.type = cluster_pb2.Cluster.STATIC
        cluster.ClearField("eds_cluster_config")
        cluster.load_assignment.CopyFrom(endpoints[cluster.name])
    return cluster


def _listener(
    listener: listener_pb2.Listener, routes: Mapping[str, route_pb2.RouteConfiguration], *, validate_clusters: bool
) -> listener_pb2.Listener:
    chains = [
        *listener.filter_chains,
        *([listener.default_filter_chain] if listener.HasField("default_filter_chain") else []),
    ]
    for chain in chains:
        for item in chain.filters:
            if item.typed_config.TypeName() != _HCM:
                continue
            manager = hcm.HttpConnectionManager.FromString(item.typed_config.value)
            if manager.HasField("rds"):
                manager.route_config.CopyFrom(routes[manager.rds.route_config_name])
            known = validate_clusters and "UnknownService" not in str(manager.route_config)
            manager.route_config.validate_clusters.value = known
            item.typed_config.Pack(manager, deterministic=True)
    return listener


def _add_agent(result: bootstrap_pb2.Bootstrap) -> None:
    """The clusters a real bootstrap brings; validation does not connect to them."""
    for name in (names.SDS_CLUSTER, names.ADS_CLUSTER):
        cluster = result.static_resources.clusters.add(name=name, type=cluster_pb2.Cluster.STATIC)
        cluster.load_assignment.cluster_name = name
        endpoint = cluster.load_assignment.endpoints.add().lb_endpoints.add().endpoint
        endpoint.address.pipe.path = f"/tmp/{name}.sock"
        cluster.typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].Pack(_h2())
    result.dynamic_resources.ads_config.api_type = config_source_pb2.ApiConfigSource.GRPC
    result.dynamic_resources.ads_config.transport_api_version = config_source_pb2.V3
    result.dynamic_resources.ads_config.grpc_services.add().envoy_grpc.cluster_name = names.ADS_CLUSTER


def _h2() -> http_protocol_options_pb2.HttpProtocolOptions:
    options = http_protocol_options_pb2.HttpProtocolOptions()
    options.explicit_http_config.http2_protocol_options.SetInParent()
    return options


def _static_secrets(result: bootstrap_pb2.Bootstrap) -> None:
    """Secrets by name only, so that Envoy looks among the static ones."""
    for cluster in result.static_resources.clusters:
        for match in cluster.transport_socket_matches:
            _without_source(match.transport_socket.typed_config)
        if cluster.HasField("transport_socket"):
            _without_source(cluster.transport_socket.typed_config)
    for listener in result.static_resources.listeners:
        for chain in listener.filter_chains:
            if chain.HasField("transport_socket"):
                _without_source(chain.transport_socket.typed_config)


def _without_source(config: any_pb2.Any) -> None:
    kind = _TLS.get(config.TypeName())
    if kind is None:
        return
    context = kind.FromString(config.value)
    for part in walk(context):
        if isinstance(part, secret_pb2.SdsSecretConfig):
            part.ClearField("sds_config")
    config.Pack(context, deterministic=True)
