import socket
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from lateen.local.leases import NoLeaseError, lease_network, loopback_is_free, unrouted

RANGES = (IPv4Network("127.99.1.0/24"), IPv4Network("127.99.2.0/24"))


def _anything(_network: IPv4Network) -> bool:
    return True


def test_two_runs_get_different_ranges_and_a_released_one_is_used_again(tmp_path: Path) -> None:
    first = lease_network(tmp_path, RANGES, _anything)
    second = lease_network(tmp_path, RANGES, _anything)
    assert [first.network, second.network] == list(RANGES)
    with pytest.raises(NoLeaseError, match="every address range"):
        lease_network(tmp_path, RANGES, _anything)
    first.release()
    again = lease_network(tmp_path, RANGES, _anything)
    assert again.network == first.network
    assert again.host(10) == "127.99.1.10"
    second.release()
    again.release()


def test_a_range_where_somebody_else_listens_is_passed_over(tmp_path: Path) -> None:
    with socket.create_server(("127.99.1.1", 15012)):
        lease = lease_network(tmp_path, RANGES, loopback_is_free)
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
