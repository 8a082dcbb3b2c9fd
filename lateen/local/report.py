"""What `lateen up` says to people. Pure: text from values."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lateen.local.appstate import AppState
from lateen.local.commands import NETNS
from lateen.local.rundir import ReplicaInfo, RunInfo, proxy_variable
from lateen.local.status import ProxyStatus, render_table
from lateen.mesh.localconfig import TryIt

SERVES = AppState.RUNNING
_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def lateen_command() -> str:
    """How a user can call `lateen` from any shell: by name if the PATH has it, else by its full path."""
    beside = Path(sys.executable).parent / "lateen"
    on_path = shutil.which("lateen")
    if on_path and Path(on_path).resolve() == beside.resolve():
        return "lateen"
    return str(beside) if beside.exists() else f"{sys.executable} -m lateen.cli.main"


def variables(info: RunInfo) -> dict[str, str]:
    """The environment of `--exec`, and what the `tryIt` commands of lateen.yaml may use."""
    found = {
        "LATEEN_GATEWAY_URL": info.gateway_url,
        "LATEEN_GATEWAY_HTTPS_URL": info.gateway_https_url,
        "LATEEN_GATEWAY_CA": info.gateway_ca,
        "LATEEN_CONTROL_PLANE": info.control_plane,
        "LATEEN_LOGS": info.logs,
    }
    for replica in reversed(info.replicas):  # the first replica of a workload comes last and stays
        for name in (replica.workload, f"{replica.workload}_{replica.namespace}"):
            found[proxy_variable("LATEEN_ADDRESS", name)] = replica.address
            if replica.proxy_url:
                found[proxy_variable("LATEEN_PROXY", name)] = replica.proxy_url
            if replica.netns:
                found[proxy_variable("LATEEN_NETNS", name)] = replica.netns
    return {name: value for name, value in found.items() if value}


def fill_in(command: str, values: Mapping[str, str]) -> str:
    """The command with `$NAME` replaced; longer names first, since one may begin with another."""
    for name in sorted(values, key=len, reverse=True):
        command = command.replace(f"${name}", values[name])
    return command


def render_workloads(info: RunInfo, proxies: Mapping[str, ProxyStatus]) -> str:
    """The table of replicas: address, identity, sync state, how the application stands."""
    rows = [("WORKLOAD", "ADDRESS", "IDENTITY", "SYNC", "APP")]
    for replica in info.replicas:
        status = proxies.get(f"{replica.namespace}/{replica.name}")
        name = f"{replica.namespace}/{replica.name}"
        rows.append((name, replica.address, identity(info, replica), _sync(status), replica.app or "-"))
    return render_table(rows)


def identity(info: RunInfo, replica: ReplicaInfo) -> str:
    """The SPIFFE ID of a replica."""
    return f"spiffe://{info.trust_domain}/ns/{replica.namespace}/sa/{replica.service_account}"


def _sync(status: ProxyStatus | None) -> str:
    return "NOT CONNECTED" if status is None else status.summary


def render_started(
    info: RunInfo,
    proxies: Mapping[str, ProxyStatus],
    tries: Sequence[TryIt],
    seconds: float,
    *,
    alone: bool,
    colour: bool,
) -> str:
    """The first screen of an interactive mesh. `alone`: no other mesh runs, so that `lateen` needs not be told which one is meant."""
    bold, dim, reset = (_BOLD, _DIM, _RESET) if colour else ("", "", "")
    command = lateen_command() if alone else f"env LATEEN_CONTROL_PLANE={info.control_plane} {lateen_command()}"
    values = {**variables(info), "LATEEN": command}
    lines = [render_workloads(info, proxies), ""]
    if info.gateway_url:
        lines.append(f"gateway        {bold}{info.gateway_url}{reset}")
    if info.gateway_https_url:
        lines.append(f"               {info.gateway_https_url} (curl --cacert {info.gateway_ca})")
    lines += [f"control plane  {info.control_plane}", f"logs           {info.logs}", ""]
    if tries:
        lines.append("try, in another terminal:")
    for attempt in tries:
        command = attempt.netns if info.mode == NETNS and attempt.netns else attempt.command
        lines += ["", f"  {dim}# {attempt.shows}{reset}", f"  {fill_in(command, values)}"]
    ready = f"ready in {seconds:.1f} s" if all(status.synced for status in proxies.values()) else "not in sync yet"
    down = [f"{r.namespace}/{r.name} ({r.app})" for r in info.replicas if r.app not in {"", SERVES}]
    if down:
        ready += f", but without {', '.join(down)}"
    lines += ["", f"{ready}. edit the YAML in {info.directory}: the mesh follows. ctrl-c ends it"]
    return "\n".join(lines)
