import os
import socket
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from lateen.local.leases import NoLeaseError, lease_network, loopback_is_free, unrouted

# Of this process: others may run the same tests on this host.
RANGES = tuple(IPv4Network(f"127.{99 + number}.{os.getpid() % 250}.0/24") for number in range(2))


def _anything(_network: IPv4Network) -> bool:
    return True


def test_two_runs_get_different_ranges_and_a_released_one_is_used_again() -> None:
    first = lease_network(RANGES, _anything)
    second = lease_network(RANGES, _anything)
    assert [first.network, second.network] == list(RANGES)
    with pytest.raises(NoLeaseError, match="every address range"):
        lease_network(RANGES, _anything)
    first.release()
    again = lease_network(RANGES, _anything)
    assert again.network == first.network
    assert again.host(10) == str(RANGES[0].network_address + 10)
    second.release()
    again.release()


def test_another_user_with_another_tmpdir_gets_another_range_until_the_last_process_is_gone(tmp_path: Path) -> None:
    lease = lease_network(RANGES, _anything)
    with subprocess.Popen(["sleep", "600"], pass_fds=[lease.fd]) as heir:
        lease.release()
        try:
            assert _leased_elsewhere(tmp_path) == str(RANGES[1])
        finally:
            heir.kill()
    assert _leased_elsewhere(tmp_path) == str(RANGES[0])


def _leased_elsewhere(directory: Path) -> str:
    script = (
        "import sys; from ipaddress import IPv4Network; from lateen.local.leases import lease_network; "
        "print(lease_network(map(IPv4Network, sys.argv[1:]), lambda _: True).network)"
    )
    line = [sys.executable, "-c", script, *map(str, RANGES)]
    return subprocess.run(
        line, env={"TMPDIR": str(directory)}, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


@pytest.mark.parametrize(("number", "port"), [(1, 15012), (2, 15013)])
def test_a_range_where_somebody_else_listens_is_passed_over(number: int, port: int) -> None:
    with socket.create_server((str(RANGES[0].network_address + number), port)):
        lease = lease_network(RANGES, loopback_is_free)
    assert lease.network == RANGES[1]
    lease.release()


@pytest.mark.parametrize(
    ("network", "free"),
    [
        pytest.param("10.1.2.0/24", False, id="connected network"),
        pytest.param("10.1.0.0/16", False, id="contains a known route"),
        pytest.param("10.9.0.0/24", False, id="blackholed"),
        pytest.param("10.200.0.0/24", True, id="only the default route leads there"),
    ],
)
def test_networks_that_the_host_knows_are_not_leased(network: str, free: bool) -> None:
    routes = "default via 192.0.2.1 dev eth0\n10.1.2.0/24 dev br0 proto kernel scope link\nblackhole 10.9.0.0/16\nbroadcast x\n"
    assert unrouted(routes)(IPv4Network(network)) is free
