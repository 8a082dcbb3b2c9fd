"""Is it an IP address, or a name that somebody has to resolve? The one place that decides it, and a leaf: it imports nothing of ours."""

import functools
import ipaddress


@functools.lru_cache(maxsize=65_536)
def is_address(text: str) -> bool:
    """Whether this is an IPv4 or IPv6 address as it is written in YAML, without brackets and port."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
