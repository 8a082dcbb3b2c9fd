"""`lateen proxy-status`: whether each proxy is in sync, and if not, why; for a mesh of this host also how the applications stand."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lateen.cli.apiclient import ControlPlane, find_control_plane
from lateen.cli.exits import CommandError, Exit
from lateen.cli.output import Format, emit, render_data, render_table
from lateen.cli.suggestions import meant
from lateen.local.appstate import AppState
from lateen.local.rundir import live_runs

ORDER = ("CDS", "EDS", "LDS", "RDS", "SDS", "ECDS")
WATCH_SECONDS = 0.5


def proxy_status(name: str | None, *, fmt: Format, watch: bool, control_plane: str | None) -> None:
    """Print the table once, or again at each change; exit code 1 when any proxy has refused something."""
    url = find_control_plane(control_plane)
    with ControlPlane(url) as api:
        connected = api.get("/v1/proxies")["proxies"]
        proxies = _select(connected, name)
        if name and not proxies:
            hint = meant(name, map(_name, connected), there_are="connected are")
            raise CommandError(Exit.FINDINGS, f"no proxy or workload named {name} is connected", hint)
        shown = render_status(proxies, fmt, _apps(url))
        emit(shown)
        while watch:
            time.sleep(WATCH_SECONDS)
            proxies = _select(api.get("/v1/proxies")["proxies"], name)
            now = render_status(proxies, fmt, _apps(url))
            if now != shown:
                emit("\n" + now)
            shown = now
    raise SystemExit(Exit.FINDINGS if any(_errors(proxy) for proxy in proxies) else Exit.OK)


def _apps(url: str) -> dict[str, str]:
    """How the applications of the mesh stand, by name.namespace, if `lateen up` runs it on this host."""
    runs = [run for run in live_runs() if run.control_plane == url]
    return {f"{replica.name}.{replica.namespace}": replica.app for run in runs for replica in run.replicas}


def render_status(proxies: Sequence[dict[str, Any]], fmt: Format, apps: Mapping[str, str]) -> str:
    """The proxies in one of the formats; in a table, the reasons of every NACK follow below it.

    `apps`: how the applications stand, by name.namespace, where somebody knows; the table has them when one does not run, or if wide.
    """
    if fmt in {Format.JSON, Format.YAML}:
        known = [proxy | ({"app": apps[_name(proxy)]} if apps.get(_name(proxy)) else {}) for proxy in proxies]
        return render_data({"proxies": known}, fmt)
    if fmt is Format.NAME:
        return "\n".join(_name(proxy) for proxy in proxies)
    if not proxies:
        return "no proxy is connected"
    used = {type_name for proxy in proxies for type_name in proxy["types"]}
    columns = [*(t for t in ORDER if t in used), *sorted(used.difference(ORDER))]
    with_apps = fmt is Format.WIDE or bool({apps.get(_name(proxy)) for proxy in proxies} - {None, "", AppState.RUNNING})
    header = ["NAME", "TYPE", *columns, *(["APP"] if with_apps else []), "IDENTITY"]
    if fmt is Format.WIDE:
        header += ["ADDRESS", "CONNECTED"]
    rows = []
    for proxy in sorted(proxies, key=_name):
        row = [
            _name(proxy),
            proxy["type"],
            *(_cell(proxy["types"].get(column)) for column in columns),
            *([apps.get(_name(proxy)) or "-"] if with_apps else []),
            proxy["identity"],
        ]
        if fmt is Format.WIDE:
            row += [proxy["address"], str(proxy["connected_at"])]
        rows.append(row)
    plugins = [line for proxy in proxies for line in _plugins(proxy, wide=fmt is Format.WIDE)]
    return "\n".join([render_table(header, rows), *plugins, *(line for proxy in proxies for line in _errors(proxy))])


def _plugins(proxy: dict[str, Any], *, wide: bool) -> list[str]:
    """The plugins of a proxy that do not run as they are written; if wide, all of them."""
    shown = [plugin for plugin in proxy.get("plugins", ()) if wide or plugin["state"] != "READY"]
    lines = [
        f"  {plugin['resource']}: {plugin['state']}{': ' if plugin['reason'] else ''}{plugin['reason']}"
        for plugin in shown
    ]
    return ["", f"{_name(proxy)}: plugins", *lines] if lines else []


def _cell(state: dict[str, Any] | None) -> str:
    if state is None:
        return "-"
    status = str(state["status"])
    return f"STALE {state['since']:.0f}s" if status == "STALE" else status.replace("_", " ")


def _errors(proxy: dict[str, Any]) -> list[str]:
    """One block of lines for a failure of the control plane and for each refusal: where, what, and which YAML line it came from."""
    lines = []
    if proxy.get("error"):
        lines += [
            "",
            f"{_name(proxy)}: no configuration can be made for it, it keeps what it has",
            f"  {proxy['error']}",
        ]
    for type_name, state in proxy["types"].items():
        error = state.get("error")
        if error:
            holds = "everything to it is denied" if type_name == "POLICY" else "last good state stays"
            lines += ["", f"{_name(proxy)}: {type_name} {error.get('resource') or ''} refused, {holds}"]
            lines.append(f"  {'it' if proxy['type'] == 'service' else 'envoy'} says: {error['message']}")
            if (
                error.get("origin") and type_name != "POLICY"
            ):  # made of all policies of a workload: the message names the one
                lines.append(f"  comes from: {error['origin']} ({error.get('file')}:{error.get('line')})")
    return lines


def _name(proxy: dict[str, Any]) -> str:
    return f"{proxy['name']}.{proxy['namespace']}"


def _select(proxies: list[dict[str, Any]], name: str | None) -> list[dict[str, Any]]:
    if not name:
        return proxies
    wanted, _, namespace = name.partition(".")
    return [
        p for p in proxies if wanted in {p["name"], p["workload"]} and (not namespace or p["namespace"] == namespace)
    ]
