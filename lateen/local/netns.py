"""Network namespaces for the netns mode: one per replica on a bridge, with the rules that send its traffic through its Envoy.

What is made carries the run's id in its name; `teardown` lists the commands that undo all of it, for the reaper.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lateen.local.leases import Lease
from lateen.local.placement import Replica

ENVOY_UID = 1337
OUTBOUND_PORT, INBOUND_PORT = 15001, 15006
# Served by Envoy itself, in plaintext: Prometheus, health.
UNCAPTURED_PORTS = (15020, 15021, 15090)
SERVICE_NUMBERS = range(1, 7)
COMMAND_SECONDS = 20.0
# The hosts file is all there is: any other name fails at once rather than after a time-out.
NO_DNS = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
TOOLS = ("ip", "iptables-restore", "setpriv")
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


class NetnsError(Exception):
    """The namespaces cannot be made; the text says why and what to do."""


@cache
def tool(name: str) -> str:
    """The path of a system tool."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise NetnsError(f"netns mode needs {name}: install it (Debian: apt-get install iproute2 iptables util-linux)")
    return found


def check_host(user: int) -> None:
    """Raise NetnsError unless `user`, who runs this process, may and can make network namespaces."""
    if user != 0:
        raise NetnsError("netns mode needs root: use sudo, or --mode loopback, which needs no privileges")
    for name in TOOLS:
        tool(name)
    probe = subprocess.run([tool("ip"), "link", "show"], capture_output=True, text=True, check=False, timeout=10)
    unshare = shutil.which("unshare", path=_PATH)
    if unshare is not None:
        probe = subprocess.run([unshare, "-n", "true"], capture_output=True, text=True, check=False, timeout=10)
    if probe.returncode:
        raise NetnsError(f"netns mode needs CAP_NET_ADMIN and CAP_SYS_ADMIN: {probe.stderr.strip()}")


def namespace_name(run_id: str, replica: Replica) -> str:
    """For `ip netns exec`."""
    return f"lateen-{run_id}-{replica.log_name}"


def bridge_name(run_id: str) -> str:
    """At most 15 characters."""
    return f"lt{run_id}br"


def veth_name(run_id: str, replica: Replica) -> str:
    """The host's end of a replica's cable."""
    return f"lt{run_id}h{replica.number}"


def enter(run_id: str, replica: Replica, *, uid: int | None = None) -> tuple[str, ...]:
    """What to put before a command so that it runs in the replica's namespace, with its own /etc/hosts."""
    inside = (tool("ip"), "netns", "exec", namespace_name(run_id, replica))
    if uid is None:
        return inside
    user = ("--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--no-new-privs", "--pdeathsig", "KILL", "--")
    return (*inside, tool("setpriv"), "--inh-caps=-all", *user)


def capture_rules() -> str:
    """For iptables-restore: what leaves the application goes to Envoy's outbound port, what arrives to its inbound port."""
    lines = ["*nat", ":PREROUTING ACCEPT", ":OUTPUT ACCEPT"]
    lines += [f"-A PREROUTING -p tcp --dport {port} -j RETURN" for port in UNCAPTURED_PORTS]
    lines += [
        f"-A PREROUTING -p tcp -j REDIRECT --to-ports {INBOUND_PORT}",
        # Envoy calls its own replica: that call must arrive as any other.
        f"-A OUTPUT -o lo ! -d 127.0.0.0/8 -p tcp -m owner --uid-owner {ENVOY_UID} -j REDIRECT --to-ports {INBOUND_PORT}",
        f"-A OUTPUT -m owner --uid-owner {ENVOY_UID} -j RETURN",
        "-A OUTPUT -d 127.0.0.0/8 -j RETURN",
        f"-A OUTPUT -p tcp -j REDIRECT --to-ports {OUTBOUND_PORT}",
        "COMMIT",
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Network:
    """The bridge of a run and what hangs on it."""

    run_id: str
    lease: Lease
    vips: Lease

    def create(self) -> None:
        """Make the bridge, with the addresses of our own services on the host's side of it."""
        bridge = bridge_name(self.run_id)
        lines = [f"link add {bridge} type bridge"]
        lines += [f"addr add {self.lease.host(number)}/24 dev {bridge}" for number in SERVICE_NUMBERS]
        lines += [f"link set {bridge} up"]
        _batch(lines)

    def add(self, replicas: Iterable[Replica], hosts: Mapping[str, str]) -> None:
        """Make the namespaces of these replicas. `hosts` has the text of /etc/hosts by the replica's key."""
        bridge = bridge_name(self.run_id)
        for replica in replicas:
            name = namespace_name(self.run_id, replica)
            directory = Path("/etc/netns") / name
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            (directory / "hosts").write_text(hosts[replica.key], encoding="utf-8")
            (directory / "resolv.conf").write_text(NO_DNS, encoding="utf-8")
            veth = veth_name(self.run_id, replica)
            _batch(
                [
                    f"netns add {name}",
                    f"link add {veth} type veth peer name eth0 netns {name}",
                    f"link set {veth} master {bridge}",
                    f"link set {veth} up",
                ]
            )
            # VIPs live nowhere: the default route only makes them routable, so that the rules below see the connection.
            inside = [
                "link set lo up",
                f"addr add {replica.address}/24 dev eth0",
                "link set eth0 up",
                f"route add default via {self.lease.host(1)}",
            ]
            _batch(inside, name)
            if not replica.is_gateway:
                _run([*enter(self.run_id, replica), tool("iptables-restore")], capture_rules())

    def write_hosts(self, replica: Replica, text: str) -> None:
        """Replace the /etc/hosts of a running replica. In place: its bind mount follows the file, not the name."""
        (Path("/etc/netns") / namespace_name(self.run_id, replica) / "hosts").write_text(text, encoding="utf-8")

    def remove(self, replica: Replica) -> None:
        """Undo `add` for one replica whose processes have ended."""
        for command in teardown_replica(self.run_id, replica):
            subprocess.run(command, check=False, capture_output=True, timeout=COMMAND_SECONDS)


def teardown_replica(run_id: str, replica: Replica) -> list[list[str]]:
    """Commands that undo `Network.add`. The cable goes first: the kernel takes its time to end a namespace and what is in it."""
    name = namespace_name(run_id, replica)
    return [
        [tool("ip"), "link", "del", veth_name(run_id, replica)],
        [tool("ip"), "netns", "del", name],
        ["/bin/rm", "-rf", f"/etc/netns/{name}"],
    ]


def teardown(run_id: str, replicas: Iterable[Replica]) -> list[list[str]]:
    """Commands that remove every trace of a run."""
    commands = [command for replica in replicas for command in teardown_replica(run_id, replica)]
    return [*commands, [tool("ip"), "link", "del", bridge_name(run_id)]]


def routes() -> str:
    """The routing table of the host."""
    return _run([tool("ip"), "-4", "route", "show", "table", "all"], "")


def _batch(lines: Sequence[str], namespace: str | None = None) -> None:
    prefix = [tool("ip"), *(("-n", namespace) if namespace else ()), "-batch", "-"]
    _run(prefix, "\n".join(lines) + "\n")


def _run(command: Sequence[str], text: str) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise NetnsError(f"{' '.join(command)} did not end within {COMMAND_SECONDS:.0f} s") from error
    if done.returncode:
        raise NetnsError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
