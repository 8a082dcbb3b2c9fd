"""WasmPlugin and TrafficExtension seen alike: which filters stand in a workload's chains, where, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from lateen.mesh.kinds import ResourceKey
from lateen.mesh.trafficextension import TrafficExtension
from lateen.mesh.view import MeshView
from lateen.mesh.wasmplugin import FailStrategy, PluginType, TrafficSelector, WasmConfig, WasmPlugin, WorkloadMode
from lateen.mesh.workloads import Workload
from lateen.mesh.yaml_source import Path

_UNSET_PRIORITY = -(2**31)


class Phase(IntEnum):
    """Where in a chain a plugin stands, in the order of the chain (docs/wasm-plugins.md)."""

    AUTHN = 0
    AUTHZ = 1
    STATS = 2
    LAST = 3


class Side(IntEnum):
    """Which side of a request a chain is on. Gateways count as clients."""

    CLIENT = 0
    SERVER = 1


@dataclass(frozen=True, slots=True)
class Match:
    """One entry of `match`: sides, and ports (none: all)."""

    sides: frozenset[Side]
    ports: frozenset[int]

    def holds(self, side: Side, port: int | None) -> bool:
        """`port` is None where a chain serves many ports at once: then only an entry without ports holds."""
        return side in self.sides and (not self.ports or port in self.ports)


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin as a chain sees it: what it is, not which module."""

    key: ResourceKey
    phase: Phase
    network: bool
    fail_open: bool
    match: tuple[Match, ...]

    def holds(self, side: Side, port: int | None) -> bool:
        """Whether it stands in a chain of that side and port; without `match` it stands in all."""
        return not self.match or any(entry.holds(side, port) for entry in self.match)

    def ports(self, side: Side) -> frozenset[int]:
        """The ports it names for a side; what it says of all ports is not among them."""
        return frozenset(port for entry in self.match if side in entry.sides for port in entry.ports)


def wasm_of(resource: WasmPlugin | TrafficExtension) -> tuple[WasmConfig | None, Path]:
    """The Wasm part of a plugin and where it stands in the document; None for a Lua script."""
    if isinstance(resource, WasmPlugin):
        return resource.spec, ("spec",)
    return resource.spec.wasm, ("spec", "wasm")


def plugins_of(view: MeshView, workload: Workload | None) -> tuple[Plugin, ...]:
    """The plugins of a workload in the order of its chains.

    By phase, then the higher priority first; no priority comes last, as in Istio's code. Ties keep the order of age, name and namespace.
    """
    found = () if workload is None else view.plugins_of(workload)
    return tuple(plugin for plugin, _ in sorted(map(_read, found), key=lambda item: (item[0].phase, -item[1])))


def _read(resource: WasmPlugin | TrafficExtension) -> tuple[Plugin, int]:
    spec = resource.spec
    wasm, _ = wasm_of(resource)
    phase = Phase.__members__.get(spec.phase.value, Phase.LAST) if spec.phase is not None else Phase.LAST
    plugin = Plugin(
        resource.key,
        phase,
        wasm is not None and wasm.type is PluginType.NETWORK,
        wasm is not None and wasm.fail_strategy is FailStrategy.FAIL_OPEN,
        tuple(_matches(spec.match)),
    )
    return plugin, _UNSET_PRIORITY if spec.priority is None else spec.priority


def _matches(entries: Iterable[TrafficSelector]) -> Iterable[Match]:
    for entry in entries:
        match entry.mode:
            case WorkloadMode.CLIENT:
                sides = frozenset({Side.CLIENT})
            case WorkloadMode.SERVER:
                sides = frozenset({Side.SERVER})
            case _:
                sides = frozenset(Side)
        yield Match(sides, frozenset(port.number for port in entry.ports))
