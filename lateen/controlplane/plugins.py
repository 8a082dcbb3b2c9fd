"""Plugins in Envoy's terms: filters that are discovered (ECDS), and what is discovered under their names. Pure.

A chain only names its plugins, so that a new module or configuration never touches a listener. When there is nothing that could
run, a stub stands in: one that answers 503 (FAIL_CLOSE), or one that does nothing (FAIL_OPEN). Envoy falls back to the same stub by
itself if it refuses the very first thing it is given. While the first thing is still under way, a listener that needs it is not in
effect: a proxy goes on with its listener of before, for at most `PATIENCE` seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from google.protobuf import wrappers_pb2
from google.protobuf.message import Message

from lateen.controlplane.protos import ads, packed
from lateen.envoyapi.envoy.config.core.v3 import base_pb2, config_source_pb2, extension_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2 as lc
from lateen.envoyapi.envoy.config.rbac.v3 import rbac_pb2 as rules
from lateen.envoyapi.envoy.extensions.filters.http.lua.v3 import lua_pb2
from lateen.envoyapi.envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac
from lateen.envoyapi.envoy.extensions.filters.http.wasm.v3 import wasm_pb2 as http_wasm
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.envoyapi.envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac
from lateen.envoyapi.envoy.extensions.filters.network.wasm.v3 import wasm_pb2 as network_wasm
from lateen.envoyapi.envoy.extensions.wasm.v3 import wasm_pb2
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.plugins import Phase, Plugin, Side

RUNTIME = "envoy.wasm.runtime.v8"
_PREFIX = "extensions.istio.io"
PATIENCE = 60
"""Seconds for which Envoy keeps a listener back that needs a plugin it has never been given; then the plugin's stub stands in."""
UNAVAILABLE_BODY = "a filter of this service is not available\n"
_HTTP_TYPES = (http_wasm.Wasm, lua_pb2.Lua, http_rbac.RBAC)
_NETWORK_TYPES = (network_wasm.Wasm, network_rbac.RBAC)


@dataclass(frozen=True, slots=True)
class LuaServing:
    """A script that is known to load."""

    code: str


@dataclass(frozen=True, slots=True)
class Native:
    """A module with machine code for one build of Envoy (`REVISION/VERSION`), where it lies on the control plane's host."""

    path: str
    build: str


@dataclass(frozen=True, slots=True)
class WasmServing:
    """A module that is known to run with this configuration.

    `path` is where it lies on the control plane's host; `ours` says that `lateen filter build` made it; `native` is the same module with
    machine code, for proxies it fits.
    """

    digest: str
    path: str
    name: str = ""
    configuration: str = ""
    env: tuple[tuple[str, str], ...] = ()
    host_env: tuple[str, ...] = ()
    ours: bool = False
    network: bool = False
    native: Native | None = None


class Awaited(Enum):
    """Nothing was ever good, but something is under way: a proxy waits for it rather than be given a stub."""

    AWAITED = "awaited"


Serving = LuaServing | WasmServing
ServingOf = Callable[[ResourceKey], Serving | Awaited | None]
"""What is served for a plugin; None when nothing can be."""


def nothing_served(_: ResourceKey) -> Serving | Awaited | None:
    """No module is known, as in translation without a control plane around it."""
    return None


# Chains


@dataclass(frozen=True, slots=True)
class Chain:
    """The plugins of one chain, in order."""

    plugins: tuple[Plugin, ...] = ()

    def http(self, phase: Phase) -> list[hcm.HttpFilter]:
        """The HTTP filters of a phase."""
        return [_http_filter(plugin) for plugin in self.plugins if plugin.phase is phase and not plugin.network]

    def network(self, *phases: Phase) -> list[lc.Filter]:
        """The network filters of some phases."""
        return [_network_filter(plugin) for plugin in self.plugins if plugin.phase in phases and plugin.network]


NO_PLUGINS = Chain()


@dataclass(frozen=True, slots=True)
class WorkloadPlugins:
    """The plugins of one workload, in the order of its chains."""

    plugins: tuple[Plugin, ...] = field(default=())

    def chain(self, side: Side, port: int | None) -> Chain:
        """Those of the chains of one side and port."""
        chosen = tuple(plugin for plugin in self.plugins if plugin.holds(side, port))
        return Chain(chosen) if chosen else NO_PLUGINS

    def chain_of_all_ports(self, side: Side) -> Chain:
        """Those of a chain that serves all ports at once: the routes of a port say which HTTP filters are off there (plugin_ports)."""
        return Chain(tuple(p for p in self.plugins if p.holds(side, None) or (not p.network and p.ports(side))))

    def choosy(self, side: Side) -> tuple[Plugin, ...]:
        """The HTTP plugins that hold on some ports of a side only."""
        return tuple(p for p in self.plugins if not p.network and p.ports(side) and not p.holds(side, None))


NONE = WorkloadPlugins()


def resource_name(plugin: Plugin) -> str:
    """The name of a plugin's filter and of its ECDS resource: `extensions.istio.io/wasmplugin/NAMESPACE.NAME`."""
    kind = plugin.key.kind.lower() + (".network" if plugin.network else "")
    return f"{_PREFIX}/{kind}/{plugin.key.namespace}.{plugin.key.name}"


def _discovery(plugin: Plugin, types: Sequence[type[Message]]) -> config_source_pb2.ExtensionConfigSource:
    source = config_source_pb2.ConfigSource()
    source.CopyFrom(ads())
    source.initial_fetch_timeout.seconds = PATIENCE
    return config_source_pb2.ExtensionConfigSource(
        config_source=source,
        default_config=packed(stub(plugin)),
        type_urls=[f"type.googleapis.com/{kind.DESCRIPTOR.full_name}" for kind in types],
    )


def _http_filter(plugin: Plugin) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=resource_name(plugin), config_discovery=_discovery(plugin, _HTTP_TYPES))


def _network_filter(plugin: Plugin) -> lc.Filter:
    return lc.Filter(name=resource_name(plugin), config_discovery=_discovery(plugin, _NETWORK_TYPES))


# What is discovered


def extension_config(
    plugin: Plugin, serving: Serving | None, code: bytes | None = None
) -> extension_pb2.TypedExtensionConfig:
    """The ECDS resource of a plugin. With `code`, the module itself is in it, for a proxy that cannot read the file."""
    return extension_pb2.TypedExtensionConfig(
        name=resource_name(plugin), typed_config=packed(filter_config(plugin, serving, code))
    )


def filter_config(plugin: Plugin, serving: Serving | None, code: bytes | None = None) -> Message:
    """The configuration of a plugin's filter, or of its stub."""
    match serving:
        case LuaServing():
            return lua_config(serving.code)
        case WasmServing() if serving.network is plugin.network:
            kind = network_wasm.Wasm if plugin.network else http_wasm.Wasm
            return kind(config=plugin_config(plugin, serving, code))
        case _:
            return stub(plugin)


def lua_config(code: str) -> lua_pb2.Lua:
    """Envoy's Lua filter with a script for all routes."""
    return lua_pb2.Lua(default_source_code=base_pb2.DataSource(inline_string=code))


def plugin_config(plugin: Plugin, serving: WasmServing, code: bytes | None = None) -> wasm_pb2.PluginConfig:
    """One plugin of a module. All plugins of one module and environment share a VM, by its `vm_id`.

    A VM that has failed is replaced, whatever the strategy: FAIL_CLOSE of Envoy would answer 503 until the next configuration.
    FAIL_OPEN cannot have both: Envoy then lets requests pass from the failure on. It stands in the deprecated `fail_open`, because with
    `failure_policy: FAIL_OPEN` the very request that the VM fails with is answered with 503 (Envoy 1.40, Context's CHECK_FAIL_HTTP).
    """
    variables = wasm_pb2.EnvironmentVariables(host_env_keys=serving.host_env, key_values=dict(serving.env))
    native = serving.native if code is None else None
    path = serving.path if native is None else native.path
    source = base_pb2.DataSource(inline_bytes=code) if code is not None else base_pb2.DataSource(filename=path)
    result = wasm_pb2.PluginConfig(
        name=f"{'' if plugin.key.kind == 'WasmPlugin' else f'{plugin.key.kind}.'}{plugin.key.namespace}.{plugin.key.name}",
        root_id=serving.name,
        failure_policy=wasm_pb2.UNSPECIFIED if plugin.fail_open else wasm_pb2.FAIL_RELOAD,
        fail_open=plugin.fail_open,
        vm_config=wasm_pb2.VmConfig(
            vm_id=vm_id(serving),
            runtime=RUNTIME,
            code=base_pb2.AsyncDataSource(local=source),
            allow_precompiled=native is not None,
            environment_variables=variables if serving.env or serving.host_env else None,
        ),
    )
    if serving.configuration:
        result.configuration.CopyFrom(packed(wrappers_pb2.StringValue(value=serving.configuration)))
    if serving.ours:  # a filter that waits for the body while it holds the headers would wait for ever without
        result.allow_on_headers_stop_iteration.value = True
    return result


def vm_id(serving: WasmServing) -> str:
    """The same for plugins that can share a VM: those of one module with one environment."""
    environment = (serving.env, serving.host_env)
    suffix = f".{hashlib.blake2b(repr(environment).encode(), digest_size=6).hexdigest()}" if any(environment) else ""
    return f"{serving.digest[:16]}{suffix}"


def stub(plugin: Plugin) -> Message:
    """What stands in for a filter that cannot run: it lets everything pass (FAIL_OPEN) or nothing."""
    if plugin.network:
        config = network_rbac.RBAC(stat_prefix="plugin_unavailable.")
        if not plugin.fail_open:
            config.rules.action = rules.RBAC.ALLOW
        return config
    return http_rbac.RBAC() if plugin.fail_open else lua_config(_unavailable(plugin))


def _unavailable(plugin: Plugin) -> str:
    """A script that answers 503. Not RBAC's 403: nobody has judged the request, and it may be sent again."""
    # The key is made of DNS names: nothing in it needs quoting.
    return f"""function envoy_on_request(handle)
  handle:streamInfo():dynamicMetadata():set("lateen", "unavailable", "{plugin.key}")
  handle:respond({{[":status"] = "503", ["content-type"] = "text/plain"}}, "{UNAVAILABLE_BODY[:-1]}\\n")
end
"""
