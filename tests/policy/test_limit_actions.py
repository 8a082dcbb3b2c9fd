"""The Envoy side of rate limits: real Envoy accepts every kind of action."""

from collections.abc import Callable

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToJson

from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2
from lateen.envoyapi.envoy.extensions.filters.http.router.v3 import router_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from lateen.policy.limit_actions import envoy_rate_limits
from tests.policy.rate_limit_policy import policy


def test_envoy_accepts_every_action(validate_envoy: Callable[[str], None]) -> None:
    router = AnyMessage()
    router.Pack(router_pb2.Router())
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix="test")
    host = manager.route_config.virtual_hosts.add(name="all", domains=["*"])
    host.rate_limits.extend(envoy_rate_limits([policy()]))
    assert len(host.rate_limits) == 2
    host.routes.add(
        match=route_components_pb2.RouteMatch(prefix="/"),
        direct_response=route_components_pb2.DirectResponseAction(status=200),
    )
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.CopyFrom(router)
    listener = listener_pb2.Listener(name="test")
    listener.address.socket_address.address = "127.0.0.1"
    listener.address.socket_address.port_value = 0
    listener.filter_chains.add().filters.add(name="hcm").typed_config.Pack(manager)
    bootstrap = bootstrap_pb2.Bootstrap()
    bootstrap.node.id = bootstrap.node.cluster = "test"
    bootstrap.static_resources.listeners.append(listener)
    validate_envoy(MessageToJson(bootstrap))
