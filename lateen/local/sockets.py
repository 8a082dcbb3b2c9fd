"""Who listens where on this host, from /proc: answers about processes that we did not write."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from lateen.local import reaper

_LISTEN = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP socket that accepts connections."""

    address: Address
    port: int
    inode: int

    def serves(self, address: str) -> bool:
        """Whether a connection to `address` comes to it, if nobody listens more exactly."""
        return self.address.is_unspecified or self.address == ip_address(address)

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)  # noqa: PLR2004  (IPv6)
        return f"{host}:{self.port}"


def listeners(pid: int) -> tuple[Listener, ...]:
    """All TCP listeners in the network namespace of `pid`; none when it has gone."""
    found: list[Listener] = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
            found.extend(parse_listeners(lines))
    return tuple(found)


def parse_listeners(lines: list[str]) -> Iterator[Listener]:
    """The listeners among the lines of /proc/net/tcp or tcp6; an IPv4 address mapped into IPv6 is given as IPv4."""
    for line in lines:
        fields = line.split()
        if fields[3] == _LISTEN:
            host, _, port = fields[1].partition(":")
            yield Listener(_address(host), int(port, 16), int(fields[9]))


def _address(text: str) -> Address:
    """As the kernel prints it: words of four bytes in the byte order of the machine."""
    words = [text[start : start + 8] for start in range(0, len(text), 8)]
    raw = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    if len(words) == 1:
        return IPv4Address(raw)
    six = IPv6Address(raw)
    return six.ipv4_mapped or six


def listens(pid: int, address: str, port: int) -> bool:
    """Whether connections to `address` and `port` are accepted where `pid` lives.

    By whoever bound that very address, or by `pid` and its descendants on any address.
    """
    if not pid:
        return False
    fitting = [listener for listener in listeners(pid) if listener.port == port and listener.serves(address)]
    if any(not listener.address.is_unspecified for listener in fitting):
        return True
    return bool(fitting) and bool({listener.inode for listener in fitting} & _inodes(pid))


def own_listeners(pid: int) -> tuple[Listener, ...]:
    """What `pid` and its descendants listen on."""
    mine = _inodes(pid) if pid else set()
    return tuple(listener for listener in listeners(pid) if listener.inode in mine) if mine else ()


def _inodes(pid: int) -> set[int]:
    members = {pid, *reaper.descendants(pid, reaper.process_table())}
    return {inode for member in members for inode in inodes_of(member)}


def inodes_of(pid: int) -> set[int]:
    """The sockets that a process has open; none when it is gone or another user's."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                match = _SOCKET.fullmatch(os.readlink(entry.path))  # noqa: PTH115  (hot, and not a path)
                if match:
                    found.add(int(match[1]))
    return found
