"""Address ranges for runs: each holds a /24 by flock, so that meshes beside each other never meet.

The lock files of one user stand in one directory. Meshes of other users do not see them, so a loopback range is also probed: its first
address must be free for the control plane's port.
"""

import errno
import fcntl
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

PROBE_PORT = 15012
LOOPBACK_RANGES = tuple(IPv4Network(f"127.{second}.{third}.0/24") for second in (77, 78) for third in range(1, 255))
NETNS_RANGES = tuple(IPv4Network(f"10.{second}.{third}.0/24") for second in (211, 212) for third in range(1, 255))
VIP_RANGES = tuple(IPv4Network(f"10.{second}.{third}.0/24") for second in (213, 214) for third in range(1, 255))


class NoLeaseError(Exception):
    """Every address range is taken."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A /24 that is ours until the last process that inherited `fd` is gone."""

    network: IPv4Network
    path: Path
    fd: int

    def host(self, number: int) -> str:
        """The address with this last byte."""
        return str(self.network.network_address + number)

    def release(self) -> None:
        """Give the range back. The file stays: removing a locked file would let two holders in."""
        os.close(self.fd)


def lease_network(directory: Path, ranges: Iterable[IPv4Network], is_free: Callable[[IPv4Network], bool]) -> Lease:
    """The first range that nobody has leased and `is_free` accepts."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for network in ranges:
        path = directory / f"{network.network_address}.lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        if is_free(network):
            return Lease(network, path, fd)
        os.close(fd)
    raise NoLeaseError(f"every address range for a local mesh is taken: see the locks in {directory}")


def loopback_is_free(network: IPv4Network) -> bool:
    """Whether nobody (of another user, say) listens where the control plane of this range would."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(network.network_address + 1), PROBE_PORT))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def unrouted(routes: str) -> Callable[[IPv4Network], bool]:
    """A test for ranges that `ip -4 route`, whose output this is, does not know yet (the default route aside)."""
    known: list[IPv4Network] = []
    for line in routes.splitlines():
        first = line.split(maxsplit=1)[0] if line.strip() else "default"
        if first in {"unreachable", "blackhole", "prohibit"}:
            first = line.split()[1]
        try:
            known.append(IPv4Network(first, strict=False))
        except ipaddress.AddressValueError:
            continue
    return lambda network: not any(network.overlaps(other) for other in known if other.prefixlen)


def in_range(address: str, network: IPv4Network) -> bool:
    """Whether `address` belongs to `network`."""
    return IPv4Address(address) in network
