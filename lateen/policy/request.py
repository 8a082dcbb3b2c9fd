"""What a policy may look at, in one value: built from a CheckRequest by ext_authz, by hand by `explain` and by tests."""

import socket
from collections.abc import Mapping
from typing import Final, NamedTuple

from lateen.policy.claims import Claims

NO_HEADERS: Final[Mapping[str, str]] = {}
NO_METADATA: Final[Mapping[str, Mapping[str, object]]] = {}
SPIFFE: Final = "spiffe://"
_MAPPED_IPV4: Final = 0xFFFF


class CheckInput(NamedTuple):
    """One HTTP request, or one TCP connection (`http` false: the HTTP fields are empty). Absent text is the empty string."""

    http: bool
    principal: str = ""
    """The peer certificate's URI SAN as it is, with its scheme; empty on plaintext."""
    source_ip: str = ""
    remote_ip: str = ""
    destination_ip: str = ""
    destination_port: int = 0
    sni: str = ""
    method: str = ""
    path: str = ""
    """Normalised by the proxy, without query and fragment."""
    host: str = ""
    """Lower case."""
    headers: Mapping[str, str] = NO_HEADERS
    """Lower-case names; several values of one name are joined by commas."""
    claims: Claims | None = None
    metadata: Mapping[str, Mapping[str, object]] = NO_METADATA
    """Dynamic metadata of the proxy, by namespace."""


def trust_domain_of(principal: str) -> str:
    """The trust domain of a SPIFFE identity; nothing for anything else."""
    return principal[len(SPIFFE) :].partition("/")[0] if principal.startswith(SPIFFE) else ""


def path_of(target: str) -> str:
    """The path of a request target: what stands before the query and the fragment."""
    return target.partition("?")[0].partition("#")[0]


def remote_address(forwarded_for: str, trusted_hops: int, connection_peer: str) -> str:
    """The client's address: the entry of X-Forwarded-For behind `trusted_hops` proxies, else the connection's peer.

    A proxy that trusts nothing in front of it has appended its own peer before filters run, so entries count from the right everywhere.
    """
    if not forwarded_for:
        return connection_peer
    entries = forwarded_for.rsplit(",", trusted_hops + 1)
    position = len(entries) - 1 - trusted_hops
    if position < 0:
        return connection_peer
    entry = entries[position].strip(" \t")
    return entry if parse_address(entry) is not None else connection_peer


def parse_address(text: str) -> tuple[int, int] | None:
    """An IP address as (bits, number); an IPv4 address mapped into IPv6 is the IPv4 address it maps. None for anything else."""
    try:
        return 32, int.from_bytes(socket.inet_pton(socket.AF_INET, text))
    except (OSError, ValueError):
        pass
    try:
        number = int.from_bytes(socket.inet_pton(socket.AF_INET6, text))
    except (OSError, ValueError):
        return None
    return (32, number & 0xFFFFFFFF) if number >> 32 == _MAPPED_IPV4 else (128, number)
