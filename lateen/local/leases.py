"""Address ranges for runs: each holds a /24, so that meshes beside each other never meet, whoever's they are.

A range is held by an abstract unix socket of its name: the kernel gives that name to one process of the host's network, whatever its user
and its TMPDIR, and takes it back when the last process that inherited the socket is gone.
"""

import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network

# Addresses and ports of a range at which control plane and CA would listen.
PROBES = ((1, 15012), (2, 15013))
LOOPBACK_RANGES = tuple(IPv4Network(f"127.{second}.{third}.0/24") for second in (77, 78) for third in range(1, 255))
NETNS_RANGES = tuple(IPv4Network(f"10.{second}.{third}.0/24") for second in (211, 212) for third in range(1, 255))
VIP_RANGES = tuple(IPv4Network(f"10.{second}.{third}.0/24") for second in (213, 214) for third in range(1, 255))


class NoLeaseError(Exception):
    """Every address range is taken."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A /24 that is ours until the last process that inherited `fd` is gone."""

    network: IPv4Network
    fd: int

    def host(self, number: int) -> str:
        """The address with this last byte."""
        return str(self.network.network_address + number)

    def release(self) -> None:
        """Give the range back."""
        os.close(self.fd)


def lease_network(ranges: Iterable[IPv4Network], is_free: Callable[[IPv4Network], bool]) -> Lease:
    """The first range that nobody has leased and `is_free` accepts."""
    for network in ranges:
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0lateen-{network.network_address}")
        except OSError as error:
            holder.close()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        if is_free(network):
            return Lease(network, holder.detach())
        holder.close()
    raise NoLeaseError("every address range for a local mesh is taken on this host")


def loopback_is_free(network: IPv4Network) -> bool:
    """Whether nobody listens where control plane and CA of this range would."""
    for number, port in PROBES:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((str(network.network_address + number), port))
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
