"""Do the resources of a snapshot fit together? Listeners name routes and secrets, routes and filters name clusters, clusters endpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from google.protobuf import any_pb2
from google.protobuf.message import Message

from lateen.controlplane import names
from lateen.controlplane.blobs import Blob
from lateen.controlplane.httproutes import UNKNOWN_BACKEND
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.core.v3 import grpc_service_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2, route_pb2
from lateen.envoyapi.envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2 as http_authz
from lateen.envoyapi.envoy.extensions.filters.http.ratelimit.v3 import rate_limit_pb2
from lateen.envoyapi.envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as network_authz
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.envoyapi.envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2

Resources = Mapping[str, Mapping[str, Blob]]
_BOOTSTRAP = frozenset({names.SDS_CLUSTER, names.ADS_CLUSTER, UNKNOWN_BACKEND})
_UNPACKED: dict[str, type[Message]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        hcm.HttpConnectionManager,
        tcp_proxy_pb2.TcpProxy,
        network_authz.ExtAuthz,
        http_authz.ExtAuthz,
        rate_limit_pb2.RateLimit,
        tls_pb2.DownstreamTlsContext,
        tls_pb2.UpstreamTlsContext,
    )
}


def check_references(resources: Resources) -> list[str]:
    """What names something that is not there; empty when all is well."""
    problems: list[str] = []
    for blob in resources.get(names.LDS, {}).values():
        problems.extend(_problems(blob, listener_pb2.Listener.FromString(blob.data), resources))
    for blob in resources.get(names.RDS, {}).values():
        problems.extend(_problems(blob, route_pb2.RouteConfiguration.FromString(blob.data), resources))
    for blob in resources.get(names.CDS, {}).values():
        cluster = cluster_pb2.Cluster.FromString(blob.data)
        problems.extend(_problems(blob, cluster, resources))
        if cluster.type == cluster_pb2.Cluster.EDS and cluster.WhichOneof("cluster_discovery_type") == "type":
            problems.extend(
                _missing(blob, names.EDS, cluster.eds_cluster_config.service_name or cluster.name, resources)
            )
    return problems


def _problems(blob: Blob, message: Message, resources: Resources) -> Iterator[str]:
    for part in walk(message):
        for type_url, name in _named(part):
            yield from _missing(blob, type_url, name, resources)


def _missing(blob: Blob, type_url: str, name: str, resources: Resources) -> Iterator[str]:
    if name not in resources.get(type_url, {}) and not (type_url == names.CDS and name in _BOOTSTRAP):
        yield f"{_word(blob.type_url)} {blob.name} names {_word(type_url)} {name}, which is absent"


def _word(type_url: str) -> str:
    return type_url.rpartition(".")[2]


def _named(part: Message) -> Iterator[tuple[str, str]]:
    """What one message names itself, by type URL and name."""
    match part:
        case hcm.Rds():
            yield names.RDS, part.route_config_name
        case hcm.HttpFilter() | listener_components_pb2.Filter() if part.HasField("config_discovery"):
            yield names.ECDS, part.name
        case route_components_pb2.RouteAction() if part.WhichOneof("cluster_specifier") == "cluster":
            yield names.CDS, part.cluster
        case (
            route_components_pb2.WeightedCluster.ClusterWeight()
            | tcp_proxy_pb2.TcpProxy.WeightedCluster.ClusterWeight()
        ):
            yield names.CDS, part.name
        case route_components_pb2.RouteAction.RequestMirrorPolicy():
            yield names.CDS, part.cluster
        case tcp_proxy_pb2.TcpProxy() if part.WhichOneof("cluster_specifier") == "cluster":
            yield names.CDS, part.cluster
        case grpc_service_pb2.GrpcService.EnvoyGrpc():
            yield names.CDS, part.cluster_name
        case tls_pb2.CommonTlsContext():
            configs = [
                *part.tls_certificate_sds_secret_configs,
                part.combined_validation_context.validation_context_sds_secret_config,
            ]
            yield from ((names.SDS, c.name) for c in configs if _over_ads(c))


def _over_ads(config: secret_pb2.SdsSecretConfig) -> bool:
    return config.sds_config.HasField("ads")


def walk(message: Message) -> Iterator[Message]:
    """A message and all messages inside of it, through the Any fields that matter."""
    yield message
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is None or kind.GetOptions().map_entry:
            continue
        for item in value if field.is_repeated else (value,):
            if isinstance(item, any_pb2.Any):
                packed = _UNPACKED.get(item.TypeName())
                if packed is not None:
                    yield from walk(packed.FromString(item.value))
            else:
                yield from walk(item)
