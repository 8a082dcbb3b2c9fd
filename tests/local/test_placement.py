from ipaddress import IPv4Network

import pytest

from lateen.local.placement import NoRoomError, Replica, assign_vips, hosts_file, place
from lateen.local.plan import ServiceName, Workload, WorkloadKind

NETWORK = IPv4Network("127.77.3.0/24")


def _workload(name: str, replicas: int, kind: WorkloadKind = WorkloadKind.SIDECAR) -> Workload:
    return Workload(name, "ns", kind, replicas, {}, "default", log_name=name)


def _place(*workloads: Workload, taken: dict[str, int] | None = None) -> dict[str, Replica]:
    return {r.name: r for r in place(workloads, NETWORK, taken or {}, own_app_address=True)}


def test_replicas_and_gateways_have_addresses_of_their_own() -> None:
    placed = _place(_workload("a", 2), _workload("gw", 1, WorkloadKind.ROUTER))
    assert placed["a-0"].address == "127.77.3.10"
    assert placed["a-1"].app_address == "127.77.3.111"
    assert placed["gw-0"].address == placed["gw-0"].app_address == "127.77.3.220"
    addresses = [x for r in placed.values() for x in {r.address, r.app_address}]
    assert len(addresses) == len(set(addresses))


def test_a_replica_keeps_its_address_when_others_come_and_go() -> None:
    before = _place(_workload("a", 2), _workload("b", 1))
    taken = {r.key: r.number for r in before.values()}
    after = _place(_workload("a", 1), _workload("b", 3), taken=taken)
    assert after["a-0"].address == before["a-0"].address
    assert after["b-0"].address == before["b-0"].address
    assert len({r.number for r in after.values()}) == 4


def test_an_address_is_not_given_away_before_its_replica_has_stopped() -> None:
    before = _place(_workload("a", 2), _workload("b", 1))
    taken = {r.key: r.number for r in before.values()}
    after = _place(_workload("b", 1), _workload("c", 2), taken=taken)
    assert {after["c-0"].number, after["c-1"].number}.isdisjoint(taken.values())


def test_too_many_replicas_are_refused_in_words() -> None:
    with pytest.raises(NoRoomError, match=r"room for 100 replicas.*spec\.replicas"):
        _place(_workload("a", 101))


def test_vips_are_distinct_and_stable() -> None:
    services = [ServiceName(f"s{i}", "ns", (80,)) for i in range(120)]
    vips = assign_vips(services, NETWORK)
    assert len(set(vips.values())) == 120
    assert assign_vips(reversed(services), NETWORK) == vips
    assert assign_vips([*services, ServiceName("headless", "ns", (80,), headless=True)], NETWORK) == vips


def test_a_hosts_file_has_the_names_that_kubernetes_would_answer() -> None:
    text = hosts_file({("pay", "api"): "10.0.0.7", ("shop", "web"): "10.0.0.8"}, "shop", "web-0", "10.0.0.1")
    names = {name: line.split()[0] for line in text.splitlines() for name in line.split()[1:]}
    assert names["api.pay.svc.cluster.local"] == names["api.pay.svc"] == names["api.pay"] == "10.0.0.7"
    assert names["web"] == "10.0.0.8"
    assert "api" not in names
