"""The two listeners every proxy has from the start: readiness on 15021, Prometheus on 15090. Pure."""

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from lateen.agent.static_clusters import ADMIN_CLUSTER
from lateen.envoyapi.envoy.config.core.v3 import address_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2, route_pb2
from lateen.envoyapi.envoy.extensions.filters.http.health_check.v3 import health_check_pb2
from lateen.envoyapi.envoy.extensions.filters.http.router.v3 import router_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)

READY_PATH = "/healthz/ready"
METRICS_PATH = "/stats/prometheus"


def readiness_listener(address: str, port: int) -> listener_pb2.Listener:
    """200 on /healthz/ready once the first listeners were pushed (workers start no earlier), 503 while draining."""
    check = health_check_pb2.HealthCheck()
    check.pass_through_mode.value = False
    header = check.headers.add(name=":path")
    header.string_match.exact = READY_PATH
    filters = [hcm.HttpFilter(name="envoy.filters.http.health_check", typed_config=pack(check))]
    return _listener("readiness", address, port, filters, [])


def prometheus_listener(address: str, port: int) -> listener_pb2.Listener:
    """The admin interface's metrics, and nothing else of it."""
    route = route_components_pb2.Route()
    route.match.path = METRICS_PATH
    route.route.cluster = ADMIN_CLUSTER
    return _listener("prometheus", address, port, [], [route])


def socket_address(address: str, port: int) -> address_pb2.Address:
    """An IP address and port."""
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=address, port_value=port))


def pack(message: Message) -> Any:
    """The message as google.protobuf.Any, the same bytes every time."""
    packed = Any()
    packed.Pack(message, deterministic=True)
    return packed


def _listener(
    name: str, address: str, port: int, filters: list[hcm.HttpFilter], routes: list[route_components_pb2.Route]
) -> listener_pb2.Listener:
    hosts = [route_components_pb2.VirtualHost(name=name, domains=["*"], routes=routes)]
    manager = hcm.HttpConnectionManager(
        stat_prefix=name,
        route_config=route_pb2.RouteConfiguration(name=name, virtual_hosts=hosts),
        http_filters=[
            *filters,
            hcm.HttpFilter(name="envoy.filters.http.router", typed_config=pack(router_pb2.Router())),
        ],
    )
    chain = listener_components_pb2.FilterChain(
        filters=[
            listener_components_pb2.Filter(
                name="envoy.filters.network.http_connection_manager", typed_config=pack(manager)
            )
        ]
    )
    return listener_pb2.Listener(
        name=name,
        address=socket_address(address, port),
        filter_chains=[chain],
        # Probes must be answered when the proxy is full.
        ignore_global_conn_limit=True,
    )
