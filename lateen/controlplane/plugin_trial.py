"""Does Envoy take it? Modules and scripts are loaded once in an `envoy --mode validate` of their own, before any proxy sees them.

A module is in V8's sandbox there, as in a proxy. Envoy's Lua is in none: a script could open files and run commands, here with the
rights of the control plane. So a trial's script is loaded by another one, script_trial.lua, that gives it nothing to do so with.
"""

from __future__ import annotations

import functools
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from lateen.controlplane.envoy_trial import ENVIRONMENT, trial_listener, validate
from lateen.controlplane.plugin_process import ProcessTooSlowError
from lateen.controlplane.plugins import LuaServing, Serving, WasmServing, filter_config
from lateen.controlplane.protos import packed
from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2 as lc
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.plugins import Phase, Plugin

_SECONDS: Final = 180.0
_SCRIPT_SECONDS: Final = 60.0
_CPU_SECONDS: Final = 120
_SCRIPT_CPU_SECONDS: Final = 10
_SANDBOX: Final = Path(__file__).with_name("script_trial.lua")
_MAX_REASONS: Final = 20
_LOGGED: Final = re.compile(r"\[(?:error|critical)\]\[wasm\].*? wasm log [^:]*: (.*)")
_FAILED: Final = re.compile(r"Wasm VM failed (.*)")
_REFUSED: Final = re.compile(r"error initializing configuration '[^']*': (.*)", re.DOTALL)
_LUA: Final = re.compile(r"script load error: \[string .*?\]:(\d+): (.*)", re.DOTALL)
_OBVIOUS: Final = frozenset({"Failed to configure base Wasm plugin", "Failed to load Wasm code"})


class TrialFailedError(Exception):
    """The trial itself came to nothing, for want of time or memory: another one may do better."""


class Verdict(NamedTuple):
    """Why Envoy refuses one of those tried, empty when it takes all; and how many of them an Envoy was really asked about."""

    reason: str
    tried: int


class Trial(Protocol):
    """Tries what is to be served."""

    async def __call__(self, servings: Sequence[Serving]) -> Verdict:
        """The verdict; TrialUnavailableError when there can be none, TrialFailedError when there is none this time."""
        ...


class EnvoyTrial:
    """The real one: a process that is bounded in time and CPU."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        """`seconds` bound one trial."""
        self._seconds = seconds

    async def __call__(self, servings: Sequence[Serving]) -> Verdict:
        """See `Trial`."""
        return Verdict(await self._reason(servings), len(servings))

    async def _reason(self, servings: Sequence[Serving]) -> str:
        seconds, cpu_seconds = self._seconds, _CPU_SECONDS
        if all(isinstance(serving, LuaServing) for serving in servings):
            seconds, cpu_seconds = min(seconds, _SCRIPT_SECONDS), _SCRIPT_CPU_SECONDS
        bootstrap, env = trial_bootstrap(servings), environment_of(servings)
        try:
            status, output = await validate(bootstrap, seconds, cpu_seconds=cpu_seconds, env=env)
        except ProcessTooSlowError:
            raise TrialFailedError(f"it did not start within {seconds:g} s") from None
        if status == 0:
            return ""
        if status == -signal.SIGXCPU:
            return f"it did not start within {cpu_seconds} s of CPU"
        if status == -signal.SIGKILL:
            raise TrialFailedError("it was killed: is there enough memory for it?")
        return reason(output) or f"envoy ended with status {status}"


def reason(output: str) -> str:
    """Envoy's words about a module or script, the module's own first; of a Lua script: `line N: ...`."""
    refused = _REFUSED.search(output)
    text = refused[1].strip() if refused else ""
    script = _LUA.search(text)
    if script:
        return f"line {script[1]}: {script[2].strip()}"
    text = text.removeprefix("script load error: ")
    said = list(dict.fromkeys(line.strip() for line in _LOGGED.findall(output)))[:_MAX_REASONS]
    failed = [line.strip() for line in _FAILED.findall(output) if line.strip() not in _OBVIOUS]
    return "; ".join(said) or "; ".join(dict.fromkeys(failed)) or text


def environment_of(servings: Sequence[Serving]) -> dict[str, str]:
    """The environment of a trial. Nothing of ours is a module's business: variables of a proxy's host are there, but empty."""
    asked = {name for serving in servings if isinstance(serving, WasmServing) for name in serving.host_env}
    return {name: "" for name in sorted(asked) if not set(name) & set("=\0")} | dict(ENVIRONMENT)


def sandboxed(code: str) -> str:
    """A script that loads another one where it can do nothing, and fails as that one does."""
    level = next(level for level in map("=".__mul__, range(len(code) + 1)) if f"]{level}]" not in code)
    return _sandbox().replace("CODE,", f"[{level}[\n{code} ]{level}],")


@functools.cache
def _sandbox() -> str:
    return _SANDBOX.read_text(encoding="utf-8")


def trial_bootstrap(servings: Sequence[Serving]) -> bootstrap_pb2.Bootstrap:
    """A bootstrap with all of them in one chain: plugins that share a VM are compiled once."""
    chain = lc.FilterChain()
    manager = hcm.HttpConnectionManager(stat_prefix="trial", route_config=route_pb2.RouteConfiguration(name="trial"))
    for index, serving in enumerate(servings):
        network = not isinstance(serving, LuaServing) and serving.network
        plugin = Plugin(ResourceKey("WasmPlugin", "trial", str(index)), Phase.LAST, network, False, ())  # noqa: FBT003
        tried = LuaServing(sandboxed(serving.code)) if isinstance(serving, LuaServing) else serving
        config = packed(filter_config(plugin, tried))
        if network:
            chain.filters.add(name=str(index), typed_config=config)
        else:
            manager.http_filters.add(name=str(index), typed_config=config)
    return trial_listener(manager, chain)
