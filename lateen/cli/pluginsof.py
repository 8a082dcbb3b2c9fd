"""The plugins of a workload as its chains have them, and how it stands with each: for `describe` and `explain route`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lateen.controlplane.plugin_findings import file_findings
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.plugins import Plugin, Side, plugins_of, wasm_of
from lateen.mesh.trafficextension import TrafficExtension
from lateen.mesh.view import MeshView
from lateen.mesh.wasmplugin import TrafficSelector, WasmPlugin
from lateen.mesh.workloads import Workload

SHORT: Final = 12
"""Digits of a sha256 that are shown."""
UNKNOWN: Final = "UNKNOWN"
States = Mapping[str, Mapping[str, Any]]
"""How it stands with plugins, by resource: entries of GET /v1/plugins."""
NO_STATES: Final[States] = {}


@dataclass(frozen=True, slots=True)
class Applied:
    """One plugin of a workload. `order` counts from 1 in the order of the chain; `position` is where it is written.

    `state` is READY, PENDING or FAILED, or UNKNOWN when no mesh runs; `reason` says why it does not run as it is written and
    `reason_position` is the line that is to blame.
    """

    order: int
    resource: str
    position: str
    type: str
    phase: str
    priority: int | None
    fail_strategy: str
    match: tuple[str, ...]
    filter: str = ""
    module: str = ""
    state: str = UNKNOWN
    serving: bool = False
    reason: str = ""
    reason_position: str = ""


def states_of(page: Mapping[str, Any]) -> States:
    """GET /v1/plugins by resource."""
    return {entry["resource"]: entry for entry in page["plugins"]}


def states_of_files(view: MeshView) -> States:
    """What files alone tell: a plugin that cannot work has FAILED."""
    return {
        found.resource: {"state": "FAILED", "reason": found.message, "position": f"{found.file}:{found.line}"}
        for found in file_findings(view)
    }


def applied(view: MeshView, workload: Workload, states: States) -> tuple[Applied, ...]:
    """Every plugin of a workload, in the order of its chains."""
    return tuple(_applied(view, plugin, order, states) for order, plugin in enumerate(plugins_of(view, workload), 1))


def passed(view: MeshView, workload: Workload, side: Side, port: int, states: States) -> tuple[Applied, ...]:
    """Those that an HTTP request passes at a workload's proxy on one side and port; network plugins stand before the others."""
    plugins = [plugin for plugin in plugins_of(view, workload) if plugin.holds(side, port)]
    ordered = sorted(plugins, key=lambda plugin: not plugin.network)
    return tuple(_applied(view, plugin, order, states) for order, plugin in enumerate(ordered, 1))


def _applied(view: MeshView, plugin: Plugin, order: int, states: States) -> Applied:
    key = plugin.key
    resource = view.resource(key)
    if not isinstance(resource, (WasmPlugin, TrafficExtension)):
        raise TypeError(f"{key} is no plugin")
    wasm, _ = wasm_of(resource)
    state = states.get(str(key), {})
    strategy = "" if wasm is None else str(wasm.fail_strategy or "FAIL_CLOSE")
    return Applied(
        order=order,
        resource=str(key),
        position=_position(view, key),
        type="LUA" if wasm is None else "NETWORK" if plugin.network else "HTTP",
        phase=plugin.phase.name if plugin.phase.name != "LAST" else "UNSPECIFIED_PHASE",
        priority=resource.spec.priority,
        fail_strategy=strategy,
        match=tuple(map(_match, resource.spec.match)),
        filter=str(state.get("filter") or (wasm.plugin_name if wasm is not None else "") or ""),
        module=str(state.get("module", "")),
        state=str(state.get("state", UNKNOWN)),
        serving=bool(state.get("serving", False)),
        reason=str(state.get("reason", "")),
        reason_position=str(state.get("position", "")),
    )


def _position(view: MeshView, key: ResourceKey) -> str:
    source = view.source(key)
    return f"{source.file}:{source.position(()).line}" if source is not None and source.file else ""


def _match(entry: TrafficSelector) -> str:
    ports = ",".join(str(port.number) for port in entry.ports)
    mode = str(entry.mode or "CLIENT_AND_SERVER").replace("UNDEFINED", "CLIENT_AND_SERVER")
    return f"{mode}:{ports}" if ports else mode


def lines(plugins: Sequence[Applied], indent: str = "  ") -> Iterable[str]:
    """For people: one line a plugin, and one more for what keeps it from running as it is written."""
    for plugin in plugins:
        place = f" ({plugin.position})" if plugin.position else ""
        priority = "" if plugin.priority is None else f" priority {plugin.priority}"
        runs = plugin.filter + (f"@{plugin.module[:SHORT]}" if plugin.module else "")
        kind = {"LUA": "script", "NETWORK": f"network {runs}".rstrip()}.get(plugin.type, runs)
        details = [plugin.state, kind, plugin.fail_strategy, " or ".join(plugin.match) or "all traffic"]
        yield f"{indent}{plugin.order}  {plugin.phase}{priority}  {plugin.resource}{place}"
        yield f"{indent}     {'  '.join(part for part in details if part)}"
        if plugin.reason:
            blame = f" ({plugin.reason_position})" if plugin.reason_position else ""
            yield f"{indent}     {plugin.reason}{blame}{_effect(plugin)}"


def _effect(plugin: Applied) -> str:
    if plugin.state != "FAILED":
        return ""
    if plugin.serving:
        return ": what it ran before stays in effect"
    if plugin.fail_strategy == "FAIL_OPEN":
        return ": requests pass it by"
    return ": connections are closed" if plugin.type == "NETWORK" else ": requests get 503"
