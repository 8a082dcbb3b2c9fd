"""What is served under a plugin's name: modules by path and whole, scripts, stubs; each variant accepted by the real Envoy."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from lateen.controlplane import names
from lateen.controlplane.blobs import Blobs
from lateen.controlplane.extensions import Extensions
from lateen.controlplane.plugin_trial import environment_of, reason, trial_bootstrap
from lateen.controlplane.plugins import (
    Awaited,
    Chain,
    LuaServing,
    Native,
    Serving,
    WasmServing,
    extension_config,
    plugin_config,
    stub,
    vm_id,
)
from lateen.controlplane.proxy import Proxy, ProxyType
from lateen.envoyapi.envoy.config.core.v3 import extension_pb2
from lateen.envoyapi.envoy.config.core.v3.base_pb2 import Node
from lateen.envoyapi.envoy.extensions.filters.http.wasm.v3 import wasm_pb2 as http_wasm
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.envoyapi.envoy.extensions.filters.network.wasm.v3 import wasm_pb2 as network_wasm
from lateen.envoyapi.envoy.extensions.wasm.v3 import wasm_pb2
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.plugins import Match, Phase, Plugin, Side
from tests.controlplane.modules import module

KEY = ResourceKey("WasmPlugin", "default", "p")
PLUGIN = Plugin(KEY, Phase.LAST, network=False, fail_open=False, match=())
OPEN = dataclasses.replace(PLUGIN, fail_open=True)
NETWORK = dataclasses.replace(PLUGIN, network=True)
SERVING = WasmServing("d" * 64, "/modules/d.wasm", "one", '{"a": 1}')


def test_a_python_filter() -> None:
    found = plugin_config(PLUGIN, dataclasses.replace(SERVING, ours=True))
    assert json_format.MessageToDict(found, preserving_proto_field_name=True) == {
        "name": "default.p",
        "root_id": "one",
        "failure_policy": "FAIL_RELOAD",
        "allow_on_headers_stop_iteration": True,
        "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": '{"a": 1}'},
        "vm_config": {
            "vm_id": "d" * 16,
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": "/modules/d.wasm"}},
        },
    }


def test_what_another_toolchain_made_and_its_environment() -> None:
    found = plugin_config(OPEN, dataclasses.replace(SERVING, env=(("A", "b"),), host_env=("HOME",)))
    assert (found.failure_policy, found.fail_open) == (wasm_pb2.UNSPECIFIED, True)
    assert not found.HasField("allow_on_headers_stop_iteration")
    assert dict(found.vm_config.environment_variables.key_values) == {"A": "b"}
    assert list(found.vm_config.environment_variables.host_env_keys) == ["HOME"]


def test_plugins_share_a_machine_when_module_and_environment_are_the_same() -> None:
    other = dataclasses.replace(SERVING, name="two", configuration="")
    assert vm_id(SERVING) == vm_id(other)
    assert vm_id(SERVING) != vm_id(dataclasses.replace(SERVING, env=(("A", "b"),)))
    assert vm_id(SERVING) != vm_id(dataclasses.replace(SERVING, digest="e" * 64))


def test_a_module_is_never_served_as_the_other_type() -> None:
    assert extension_config(NETWORK, SERVING).typed_config.TypeName() == "envoy.extensions.filters.network.rbac.v3.RBAC"


@pytest.mark.parametrize(
    ("side", "port", "match", "holds"),
    [
        (Side.SERVER, 1, (), True),
        (Side.SERVER, 1, (Match(frozenset({Side.CLIENT}), frozenset()),), False),
        (Side.SERVER, 1, (Match(frozenset(Side), frozenset({1, 2})),), True),
        (Side.SERVER, 3, (Match(frozenset(Side), frozenset({1, 2})),), False),
        (Side.CLIENT, None, (Match(frozenset(Side), frozenset({1})),), False),
        (Side.CLIENT, None, (Match(frozenset(Side), frozenset({1})), Match(frozenset(Side), frozenset())), True),
    ],
)
def test_match(side: Side, port: int | None, match: tuple[Match, ...], holds: bool) -> None:
    assert dataclasses.replace(PLUGIN, match=match).holds(side, port) is holds


def _bootstrap(serving: Serving, plugin: Plugin, config: Message) -> str:
    """As in a trial, with `config` in place of what is tried."""
    message = trial_bootstrap([serving])
    (chain,) = message.static_resources.listeners[0].filter_chains
    if plugin.network:
        chain.filters[0].typed_config.Pack(config)
        return json_format.MessageToJson(message)
    manager = hcm.HttpConnectionManager()
    chain.filters[0].typed_config.Unpack(manager)
    manager.http_filters[0].typed_config.Pack(config)
    chain.filters[0].typed_config.Pack(manager)
    return json_format.MessageToJson(message)


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_envoy_takes_modules(tmp_path: Path, network: bool, whole: bool, validate_envoy: Callable[[str], None]) -> None:
    path = tmp_path / "a.wasm"
    path.write_bytes(module("a"))
    plugin = NETWORK if network else PLUGIN
    serving = WasmServing("a" * 64, "/nowhere" if whole else str(path), env=(("A", "b"),), network=network)
    found = extension_config(plugin, serving, module("a") if whole else None)
    validate_envoy(_bootstrap(serving, plugin, _unpacked(found)))


@pytest.mark.parametrize("plugin", [PLUGIN, OPEN, NETWORK, dataclasses.replace(NETWORK, fail_open=True)])
def test_envoy_takes_stubs_and_names_to_discover(plugin: Plugin, validate_envoy: Callable[[str], None]) -> None:
    serving = WasmServing("a" * 64, "/nowhere", network=plugin.network)
    validate_envoy(_bootstrap(serving, plugin, stub(plugin)))
    chain = Chain((plugin,))
    found = chain.network(Phase.LAST) if plugin.network else chain.http(Phase.LAST)
    assert [part.name for part in found] == [extension_config(plugin, None).name]


def _unpacked(config: extension_pb2.TypedExtensionConfig) -> Message:
    for kind in (http_wasm.Wasm, network_wasm.Wasm):
        message = kind()
        if config.typed_config.Unpack(message):
            return message
    raise AssertionError(config.typed_config.type_url)


# Blobs


def _proxy(modules_dir: str) -> Proxy:
    return Proxy("id", ProxyType.SIDECAR, "a-0", "default", "127.0.0.1", modules_dir=modules_dir)


def test_a_proxy_of_this_host_gets_the_path_and_any_other_the_module(tmp_path: Path) -> None:
    path = tmp_path / "a.wasm"
    path.write_bytes(module("a"))
    serving = WasmServing("a" * 64, str(path))
    extensions = Extensions(Blobs(), lambda _: serving)
    (here,) = extensions.blobs([PLUGIN], _proxy(str(tmp_path)))
    (there,) = extensions.blobs([PLUGIN], _proxy(""))
    assert str(path).encode() in here.data
    assert module("a") in there.data
    assert here.type_url == there.type_url == names.ECDS
    assert here.origins == (KEY,)
    assert next(extensions.blobs([PLUGIN], _proxy(str(tmp_path)))) is here


def test_machine_code_is_for_proxies_of_this_host_with_the_envoy_it_was_made_for(tmp_path: Path) -> None:
    path, native = tmp_path / "a.wasm", tmp_path / "a.native"
    path.write_bytes(module("a"))
    serving = WasmServing("a" * 64, str(path), native=Native(str(native), "abc/1.40.0"))
    extensions = Extensions(Blobs(), lambda _: serving)
    (fits,) = extensions.blobs([PLUGIN], dataclasses.replace(_proxy(str(tmp_path)), build="abc/1.40.0"))
    (other,) = extensions.blobs([PLUGIN], dataclasses.replace(_proxy(str(tmp_path)), build="abd/1.40.0"))
    (there,) = extensions.blobs([PLUGIN], dataclasses.replace(_proxy(""), build="abc/1.40.0"))
    assert [str(native).encode() in blob.data for blob in (fits, other, there)] == [True, False, False]
    configs = [_unpacked(extension_pb2.TypedExtensionConfig.FromString(blob.data)) for blob in (fits, other, there)]
    allowed = [c.config.vm_config.allow_precompiled for c in configs if isinstance(c, http_wasm.Wasm)]
    assert allowed == [True, False, False]
    assert module("a") in there.data


def test_what_is_on_its_way_is_awaited_unless_requests_may_pass_meanwhile() -> None:
    extensions = Extensions(Blobs(), lambda _: Awaited.AWAITED)
    (closed,) = extensions.blobs([PLUGIN], _proxy(""))
    (open_,) = extensions.blobs([dataclasses.replace(PLUGIN, fail_open=True)], _proxy(""))
    assert (closed.awaited, open_.awaited) == (True, False)
    (stub_,) = Extensions(Blobs(), lambda _: None).blobs([PLUGIN], _proxy(""))
    assert not stub_.awaited
    assert stub_.hash != closed.hash


def test_a_module_that_is_not_where_it_should_be_costs_nobody_else_anything(tmp_path: Path) -> None:
    serving = WasmServing("a" * 64, str(tmp_path / "a.wasm"))
    extensions = Extensions(Blobs(), lambda _: serving)
    (lost,) = extensions.blobs([PLUGIN], _proxy(""))
    assert lost.awaited is True
    (tmp_path / "a.wasm").write_bytes(module("a"))
    (found,) = extensions.blobs([PLUGIN], _proxy(""))
    assert (found.awaited, module("a") in found.data) == (False, True)


def test_what_an_envoy_says_of_its_build() -> None:
    node = Node(id="sidecar~127.0.0.1~a.b~c")
    node.user_agent_build_version.version.major_number = 1
    node.user_agent_build_version.version.minor_number = 40
    node.user_agent_build_version.metadata.update({"revision.sha": "9e55"})
    assert Proxy.from_node(node).build == "9e55/1.40.0"
    assert Proxy.from_node(Node(id="sidecar~127.0.0.1~a.b~c")).build == ""


def test_what_nobody_has_any_more_is_forgotten(tmp_path: Path) -> None:
    interner = Blobs()
    extensions = Extensions(interner, lambda _: LuaServing("-- nothing"))
    blobs = list(extensions.blobs([PLUGIN], _proxy("")))
    assert len(interner) == 1
    del blobs
    assert len(interner) == 0


# Trials


def test_a_trial_has_the_names_of_its_hosts_variables_only() -> None:
    serving = WasmServing("d", "/d.wasm", host_env=("HOME", "TOKEN", "PATH", "A=B"))
    assert environment_of([serving, LuaServing("")]) == {"HOME": "", "TOKEN": "", "PATH": os.defpath}


# Envoy's words


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            "[x][error][wasm] [c.cc:1] wasm log stamp d: invalid configuration: stamp: expected a string, got 5\n[x][error][wasm] [w.cc:104] Wasm VM failed Failed to configure base Wasm plugin\n",
            "invalid configuration: stamp: expected a string, got 5",
        ),
        (
            "[x][error][wasm] [w.cc:104] Wasm VM failed Failed to parse corrupted Wasm module\n[x][error][wasm] [w.cc:104] Wasm VM failed Failed to load Wasm code\n",
            "Failed to parse corrupted Wasm module",
        ),
        (
            "error initializing configuration '/e.json': script load error: [string \"x...\"]:3: unexpected symbol\n",
            "line 3: unexpected symbol",
        ),
        (
            "error initializing configuration '/e.json': Unable to create Wasm plugin x\n",
            "Unable to create Wasm plugin x",
        ),
        ("", ""),
    ],
)
def test_reasons(output: str, said: str) -> None:
    assert reason(output) == said
