"""Our judgement of a message and the real Envoy's are the same: what we let pass it takes, what we refuse it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf import json_format

from lateen.controlplane.findings import TranslationError
from lateen.controlplane.snapshot import Snapshot
from lateen.controlplane.validation import validate
from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.extensions.filters.http.router.v3 import router_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from tests.controlplane.static_envoy import bootstrap, to_json


def _header(value: str) -> dict[str, object]:
    return {
        "match": {"prefix": "/"},
        "request_headers_to_add": [{"header": {"key": "x", "value": value}}],
        "route": {"cluster": "c"},
    }


def _direct(status: int) -> dict[str, object]:
    return {"match": {"prefix": "/"}, "direct_response": {"status": status}}


_GOOD_ROUTES: list[dict[str, object]] = [_header("100%% of %REQ(x-a)% %START_TIME(%s)%"), _direct(200), _header("")]
_BAD_ROUTES: list[dict[str, object]] = [
    _header("50%"),
    _header("%NO_SUCH_THING%"),
    _header("a\nb"),
    _direct(700),
    {"match": {"prefix": "/", "headers": [{"name": "", "present_match": True}]}, "route": {"cluster": "c"}},
    {"match": {"prefix": "/"}, "route": {"cluster": "c", "retry_policy": {"retry_back_off": {"base_interval": "0s"}}}},
]
_GOOD_CLUSTERS: list[dict[str, object]] = [{"outlier_detection": {"max_ejection_percent": 100}}]
_BAD_CLUSTERS: list[dict[str, object]] = [
    {"outlier_detection": {"max_ejection_percent": 101}},
    {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": "9000000"}},
    {"connect_timeout": "0s"},
]


def _route_json(content: dict[str, object]) -> tuple[rc.Route, str]:
    route = json_format.ParseDict(content, rc.Route())
    manager = hcm.HttpConnectionManager(stat_prefix="x", http_filters=[{"name": "envoy.filters.http.router"}])
    manager.http_filters[0].typed_config.Pack(router_pb2.Router())
    manager.route_config.virtual_hosts.add(name="v", domains=["*"], routes=[route])

    def add(target: bootstrap_pb2.Bootstrap) -> None:
        listener = target.static_resources.listeners.add(name="l")
        listener.address.socket_address.address = "127.0.0.1"
        listener.address.socket_address.port_value = 1
        chain = listener.filter_chains.add()
        chain.filters.add(name="envoy.filters.network.http_connection_manager").typed_config.Pack(manager)
        target.static_resources.clusters.append(cluster_pb2.Cluster(name="c", type=cluster_pb2.Cluster.STATIC))

    return route, to_json(bootstrap(Snapshot.of(()), edit=add))


def _cluster_json(content: dict[str, object]) -> tuple[cluster_pb2.Cluster, str]:
    cluster = json_format.ParseDict({"name": "c", "type": "STATIC", **content}, cluster_pb2.Cluster())

    def add(target: bootstrap_pb2.Bootstrap) -> None:
        target.static_resources.clusters.append(cluster)

    return cluster, to_json(bootstrap(Snapshot.of(()), edit=add))


_GOOD = [*(_route_json(c) for c in _GOOD_ROUTES), *(_cluster_json(c) for c in _GOOD_CLUSTERS)]
_BAD = [*(_route_json(c) for c in _BAD_ROUTES), *(_cluster_json(c) for c in _BAD_CLUSTERS)]


@pytest.mark.parametrize("number", range(len(_GOOD)))
def test_accepted_by_both(number: int, validate_envoy: Callable[[str], None]) -> None:
    message, config = _GOOD[number]
    validate(message)
    validate_envoy(config)


@pytest.mark.parametrize("number", range(len(_BAD)))
def test_refused_by_both(number: int, validate_envoy: Callable[[str], None]) -> None:
    message, config = _BAD[number]
    with pytest.raises(TranslationError):
        validate(message)
    with pytest.raises(AssertionError, match="envoy refuses"):
        validate_envoy(config)
