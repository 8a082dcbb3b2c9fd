"""Two Envoys made from the agent's own bootstraps: a server that demands the client's identity, a client that demands the server's.

No control plane is needed: what it would push is added as static listeners and clusters.
"""

from pathlib import Path

from google.protobuf import json_format

from lateen.agent.static_clusters import sds_secret
from lateen.agent.static_listeners import pack, socket_address
from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2, route_pb2
from lateen.envoyapi.envoy.extensions.filters.http.router.v3 import router_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2

SERVER_PORT = 8080
CLIENT_PORT = 8081


def load_bootstrap(path: Path) -> bootstrap_pb2.Bootstrap:
    """The agent's file, without the control plane."""
    message = json_format.Parse(path.read_text(), bootstrap_pb2.Bootstrap())
    message.ClearField("dynamic_resources")
    return message


def render(message: bootstrap_pb2.Bootstrap) -> str:
    return json_format.MessageToJson(message, preserving_proto_field_name=True)


def add_server(message: bootstrap_pb2.Bootstrap, address: str, client_id: str) -> None:
    """Answers 200 with the peer's verified identity in `x-peer`, to `client_id` only."""
    route = route_components_pb2.Route()
    route.match.prefix = "/"
    route.direct_response.status = 200
    header = route.response_headers_to_add.add()
    header.header.key, header.header.value = "x-peer", "%DOWNSTREAM_PEER_URI_SAN%"
    context = tls_pb2.DownstreamTlsContext(common_tls_context=_tls(client_id))
    context.require_client_certificate.value = True
    socket = base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))
    message.static_resources.listeners.append(_listener("server", address, SERVER_PORT, route, socket))


def add_client(message: bootstrap_pb2.Bootstrap, address: str, server_address: str, server_id: str) -> None:
    """Forwards to the server, which must prove to be `server_id`; a new connection for each request."""
    route = route_components_pb2.Route()
    route.match.prefix = "/"
    route.route.cluster = "server"
    message.static_resources.listeners.append(_listener("client", address, CLIENT_PORT, route, None))
    cluster = cluster_pb2.Cluster(
        name="server",
        type=cluster_pb2.Cluster.STATIC,
        transport_socket=base_pb2.TransportSocket(
            name="envoy.transport_sockets.tls",
            typed_config=pack(tls_pb2.UpstreamTlsContext(common_tls_context=_tls(server_id))),
        ),
    )
    cluster.connect_timeout.seconds = 5
    cluster.max_requests_per_connection.value = 1
    cluster.load_assignment.cluster_name = "server"
    endpoint = cluster.load_assignment.endpoints.add().lb_endpoints.add()
    endpoint.endpoint.address.CopyFrom(socket_address(server_address, SERVER_PORT))
    message.static_resources.clusters.append(cluster)


def _tls(peer: str) -> tls_pb2.CommonTlsContext:
    name = common_pb2.SubjectAltNameMatcher(san_type=common_pb2.SubjectAltNameMatcher.URI)
    name.matcher.exact = peer
    return tls_pb2.CommonTlsContext(
        tls_certificate_sds_secret_configs=[sds_secret("default")],
        combined_validation_context=tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
            default_validation_context=common_pb2.CertificateValidationContext(match_typed_subject_alt_names=[name]),
            validation_context_sds_secret_config=sds_secret("ROOTCA"),
        ),
    )


def _listener(
    name: str, address: str, port: int, route: route_components_pb2.Route, socket: base_pb2.TransportSocket | None
) -> listener_pb2.Listener:
    hosts = [route_components_pb2.VirtualHost(name=name, domains=["*"], routes=[route])]
    manager = hcm.HttpConnectionManager(
        stat_prefix=name,
        route_config=route_pb2.RouteConfiguration(name=name, virtual_hosts=hosts),
        http_filters=[hcm.HttpFilter(name="envoy.filters.http.router", typed_config=pack(router_pb2.Router()))],
    )
    chain = listener_components_pb2.FilterChain(
        filters=[
            listener_components_pb2.Filter(
                name="envoy.filters.network.http_connection_manager", typed_config=pack(manager)
            )
        ],
        transport_socket=socket,
    )
    return listener_pb2.Listener(name=name, address=socket_address(address, port), filter_chains=[chain])
