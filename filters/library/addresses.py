"""Clients told apart by address and by SPIFFE identity."""

import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_networks(texts: Sequence[str], field: str = "addresses") -> tuple[Network, ...]:
    """Networks ("10.0.0.0/8") and single addresses; ValueError if one is neither."""
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def check_identities(field: str, patterns: Sequence[str]) -> None:
    """ValueError if one of the patterns of a field would never match."""
    for pattern in patterns:
        if not (pattern.startswith("spiffe://") or (pattern.endswith("*") and "spiffe://".startswith(pattern[:-1]))):
            raise ValueError(f"{field}: {pattern!r} is no SPIFFE identity: it begins with spiffe://")
        if "*" in pattern[:-1]:
            raise ValueError(f"{field}: {pattern!r}: a * can only be its end")


def parse_source(text: str | None) -> Address | None:
    """The address of Envoy's `source.address` ("10.1.2.3:4711", "[::1]:4711"); None if it is no IP address (a pipe)."""
    if text is None:
        return None
    host = text[1:].partition("]")[0] if text.startswith("[") else text.rpartition(":")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def within(address: Address | None, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks; IPv4 in IPv6 counts as IPv4."""
    return address is not None and any(address in network for network in networks)


def matches_identity(identity: str | None, patterns: Sequence[str]) -> bool:
    """Whether a SPIFFE identity is one of the patterns; a pattern that ends in `*` is a prefix."""
    if not identity:
        return False
    return any(
        identity.startswith(pattern[:-1]) if pattern.endswith("*") else identity == pattern for pattern in patterns
    )
