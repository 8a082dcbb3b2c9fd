"""Names, mapped ports, and what a node says about itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateen.controlplane import names
from lateen.controlplane.proxy import Mode, Proxy, ProxyType
from lateen.envoyapi.envoy.config.core.v3.base_pb2 import Node

_KEYS = st.lists(
    st.tuples(st.sampled_from(["a", "b.ns", "c.ns.svc.cluster.local"]), st.integers(1, 65535)), max_size=60
)


def test_clusters_are_parsed_back() -> None:
    assert names.parse_cluster(names.outbound_cluster("a.b", 80, "v1")) == ("outbound", 80, "v1", "a.b")
    assert names.parse_cluster(names.inbound_cluster(80)) == ("inbound", 80, "", "")
    assert names.parse_cluster("PassthroughCluster") is None


def test_privileged_gateway_ports_move() -> None:
    assert [names.gateway_bind_port(p) for p in (80, 443, 1023, 1024, 8080)] == [8080, 8443, 9023, 1024, 8080]


@given(_KEYS)
def test_mapped_ports_are_distinct_and_do_not_depend_on_order(keys: list[tuple[str, int]]) -> None:
    ports = names.assign_ports(keys)
    assert ports == names.assign_ports(reversed(keys))
    assert set(ports) == set(keys)
    assert len(set(ports.values())) == len(ports)
    assert all(20000 <= port < 30000 for port in ports.values())


def _node(ident: str = "sidecar~127.0.0.1~a-0.ns~ns.svc.cluster.local", **metadata: object) -> Node:
    node = Node(id=ident)
    node.metadata.update(metadata)  # type: ignore[arg-type]  # plain JSON values
    return node


def test_node() -> None:
    proxy = Proxy.from_node(
        _node(LABELS={"app": "a"}, INTERCEPTION_MODE="NONE", APP_ADDRESS="127.0.0.9", WORKLOAD_NAME="a")
    )
    assert (proxy.type, proxy.name, proxy.namespace, proxy.mode) == (ProxyType.SIDECAR, "a-0", "ns", Mode.NONE)
    assert (proxy.labels, proxy.app_address, proxy.workload_key) == ({"app": "a"}, "127.0.0.9", "ns/a")


@pytest.mark.parametrize(
    ("ident", "metadata", "message"),
    [
        ("sidecar~127.0.0.1~a.ns", {}, "not type~ip~name.namespace~domain"),
        ("ztunnel~127.0.0.1~a.ns~d", {}, "unknown proxy type"),
        ("sidecar~nowhere~a.ns~d", {}, "nowhere"),
        ("sidecar~127.0.0.1~a~d", {}, "is not name.namespace"),
        ("sidecar~127.0.0.1~a.ns~d", {"INTERCEPTION_MODE": "TPROXY"}, "use NONE or REDIRECT"),
    ],
)
def test_what_is_wrong_with_a_node(ident: str, metadata: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Proxy.from_node(_node(ident, **metadata))
