"""Ports that a mesh needs and somebody on this host has taken on every address: said before anything is started.

Each mesh has addresses of its own, so only listeners on 0.0.0.0 or :: are in its way.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from lateen.local import commands, sockets
from lateen.local.plan import Plan

# Outside of every range that meshes lease.
PROBE_ADDRESS = "127.77.0.1"
OF_SERVICES = (8081, 8082, 9191, 9192, 15012, 15013, 15014, 15020)
OF_ENVOYS = (15000, commands.OUTBOUND_PORT, commands.READY_PORT, 15090)
MAX_COMMAND = 100


class PortsTakenError(Exception):
    """Somebody else listens where the mesh has to; the text has a line for each port."""


def needed(plan: Plan, mode: str, *, issuers: bool) -> dict[int, str]:
    """What the mesh binds on this host: port to who needs it. Replicas of netns mode have networks of their own."""
    found = dict.fromkeys(OF_SERVICES, "the control side of the mesh")
    if issuers:
        found[commands.ISSUER_PORT] = "the local token issuer"
    if mode == commands.NETNS:
        return found
    found |= dict.fromkeys(OF_ENVOYS, "every Envoy")
    for workload in plan.workloads:
        ports = {*workload.listen_ports, *(port for container in workload.containers for port in container.ports)}
        for port in sorted(ports):
            found.setdefault(port, f"{workload.namespace}/{workload.name}")
    return found


def check(wanted: dict[int, str]) -> None:
    """PortsTakenError when one of them cannot be bound."""
    taken = [port for port in sorted(wanted) if not _is_free(port)]
    if taken:
        holders = _holders(taken)
        lines = (
            f"port {port}, which {wanted[port]} needs, is taken on every address of this host by {holders[port]}"
            for port in taken
        )
        raise PortsTakenError("\n".join(lines))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: the past does not count
        try:
            probe.bind((PROBE_ADDRESS, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def _holders(ports: Iterable[int]) -> dict[int, str]:
    inodes = {
        listener.inode: listener.port
        for listener in sockets.listeners(os.getpid())
        if listener.port in set(ports) and listener.address.is_unspecified
    }
    found = dict.fromkeys(ports, "a process of another user")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for inode in sockets.inodes_of(int(entry.name)) & inodes.keys():
                found[inodes[inode]] = f"`{_command(entry)}` (pid {entry.name})"
    return found


def _command(process: Path) -> str:
    with contextlib.suppress(OSError):
        words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return words if len(words) <= MAX_COMMAND else f"{words[:MAX_COMMAND]}..."
    return "?"
