"""Real namespaces (root only), without a mesh in them."""

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from lateen.local import netns
from lateen.local.leases import NETNS_RANGES, VIP_RANGES, Lease, lease_network, unrouted
from lateen.local.placement import Replica, hosts_file
from lateen.local.plan import Workload, WorkloadKind

pytestmark = pytest.mark.xdist_group("netns")  # the namespaces have fixed names

RUN_ID = f"f{os.getpid() % 0xFFFFF:05x}"  # of this process: two may run at once


def test_the_rules_leave_envoys_own_traffic_alone() -> None:
    lines = netns.capture_rules().splitlines()
    exempt = lines.index("-A OUTPUT -m owner --uid-owner 1337 -j RETURN")
    captured = lines.index("-A OUTPUT -p tcp -j REDIRECT --to-ports 15001")
    assert exempt < captured
    assert all(any(f"--dport {port} -j RETURN" in line for line in lines) for port in (15020, 15021, 15090))


def test_without_root_the_error_says_what_to_do() -> None:
    with pytest.raises(netns.NetnsError, match="--mode loopback"):
        netns.check_host(1000)


def _replica(name: str, number: int, lease: Lease) -> Replica:
    workload = Workload(name, "ns", WorkloadKind.SIDECAR, 1, {}, "default", log_name=name)
    return Replica(workload, 0, number, lease.host(number), lease.host(number))


@pytest.fixture
def network() -> Iterator[tuple[netns.Network, list[Replica]]]:
    free = unrouted(netns.routes())
    made = netns.Network(RUN_ID, lease_network(NETNS_RANGES, free), lease_network(VIP_RANGES, free))
    replicas = [_replica("a", 10, made.lease), _replica("b", 11, made.lease)]
    vips = {("ns", "a"): made.vips.host(1)}
    try:
        made.create()
        made.add(replicas, {r.key: hosts_file(vips, "ns", r.name, r.address) for r in replicas})
        yield made, replicas
    finally:
        for command in netns.teardown(RUN_ID, replicas):
            subprocess.run(command, check=False, capture_output=True)


def _inside(replica: Replica, *command: str) -> str:
    done = subprocess.run(
        [*netns.enter(RUN_ID, replica), *command], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.mark.netns
def test_a_namespace_has_its_address_its_names_and_its_rules(network: tuple[netns.Network, list[Replica]]) -> None:
    made, (one, other) = network
    assert one.address in _inside(one, "ip", "-4", "addr", "show", "eth0")
    assert made.vips.host(1) in _inside(one, "getent", "hosts", "a.ns.svc.cluster.local")
    assert made.vips.host(1) in _inside(other, "getent", "hosts", "a")
    started = time.monotonic()
    unknown = subprocess.run([*netns.enter(RUN_ID, one), "getent", "hosts", "no.such.name"], check=False, timeout=60)
    assert unknown.returncode != 0
    assert time.monotonic() - started < 4, "no waiting for a name server that is not there"
    assert "--to-ports 15001" in _inside(one, "iptables-save", "-t", "nat")


@pytest.mark.netns
def test_teardown_leaves_no_trace(network: tuple[netns.Network, list[Replica]]) -> None:
    made, replicas = network
    names = [netns.namespace_name(RUN_ID, replica) for replica in replicas]
    assert all(Path("/run/netns", name).exists() for name in names)
    for command in netns.teardown(RUN_ID, replicas):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert not any(Path("/run/netns", name).exists() or Path("/etc/netns", name).exists() for name in names)
    links = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"lt{RUN_ID}" not in links
    assert unrouted(netns.routes())(IPv4Network(made.lease.network))


@pytest.mark.netns
def test_envoys_user_has_no_capabilities(network: tuple[netns.Network, list[Replica]]) -> None:
    _, (one, _) = network
    command = [*netns.enter(RUN_ID, one, uid=netns.ENVOY_UID), "cat", "/proc/self/status"]
    status = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    fields = {line.partition(":")[0]: line.partition(":")[2].split() for line in status.splitlines()}
    assert fields["Uid"] == ["1337"] * 4
    assert int(fields["CapEff"][0], 16) == 0
    assert fields["NoNewPrivs"] == ["1"]


@pytest.fixture(autouse=True)
def _one_at_a_time() -> Iterator[None]:
    """Addresses and names are fixed, so test workers take turns."""
    with (Path(tempfile.gettempdir()) / "lateen-test-netns.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
