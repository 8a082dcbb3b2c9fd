"""What plugins run, and what stays when something is wrong: real servers, real files, and each module tried in a real Envoy."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from lateen.clock import SystemClock
from lateen.controlplane.envoy_trial import TrialUnavailableError
from lateen.controlplane.plugin_findings import file_findings, plugin_findings, script_findings
from lateen.controlplane.plugin_keeper import KeeperTiming, PluginKeeper, PluginStanding
from lateen.controlplane.plugin_memory import RememberedTrial
from lateen.controlplane.plugin_metrics import PluginMetrics
from lateen.controlplane.plugin_trial import EnvoyTrial, Trial, TrialFailedError, Verdict
from lateen.controlplane.plugins import Awaited, LuaServing, Serving, WasmServing
from lateen.controlplane.wasm_fetch import Fetcher
from lateen.controlplane.wasm_store import ModuleStore
from lateen.fetching import http_client
from lateen.mesh.diagnostics import Diagnostic
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.loader import load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView
from tests.controlplane.modules import module
from tests.fakes.image_registry import Registry, Reply, WebServer, serving

KEY = ResourceKey("WasmPlugin", "default", "p")
LUA = ResourceKey("TrafficExtension", "default", "p")
SCHEMA = {"type": "object", "additionalProperties": False, "properties": {"message": {"type": "string"}}}
OURS = module("ours", {"one": SCHEMA | {"required": ["message"]}, "two": SCHEMA})
WASM = "application/vnd.module.wasm.content.layer.v1+wasm"
PATIENCE = 60.0
QUICK = KeeperTiming(refresh=0.05, retry_first=0.02, retry_ceiling=0.05, look=0.02, doubt=0.02)


class Rig:
    """A keeper and its mesh; `told` counts how often it said that something has changed."""

    def __init__(self, directory: Path, trial: Trial, timing: KeeperTiming = QUICK) -> None:
        self.directory = directory
        self.client = http_client()
        self.store = ModuleStore(directory / "modules")
        self.told = 0
        self.registry = CollectorRegistry()
        self.view = MeshView.build((), MeshConfig())
        self.keeper = PluginKeeper(
            self.store, Fetcher(self.client), trial, SystemClock(), self._changed,
            metrics=PluginMetrics(self.registry), timing=timing,
        )  # fmt: skip

    def _changed(self) -> None:
        self.told += 1

    def follow(self, text: str) -> None:
        path = self.directory / "p.yaml"
        path.write_text(text)
        loaded = load_text(text, str(path))
        assert not [d for d in loaded.diagnostics if d.invalid]
        self.view = MeshView.build(loaded.resources, MeshConfig())
        self.keeper.follow(self.view)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)

    async def settled(self, key: ResourceKey = KEY) -> tuple[PluginStanding, str]:
        await self.until(lambda: key in self.keeper.states and not self.keeper.pending)
        state = self.keeper.states[key]
        return state.standing, state.reason

    def findings(self) -> list[Diagnostic]:
        return list(plugin_findings(self.view, self.keeper.states.values()))

    def module(self) -> str:
        found = self.keeper.serving(KEY)
        return found.digest if isinstance(found, WasmServing) else ""


@contextlib.asynccontextmanager
async def rigged(directory: Path, trial: Trial | None = None) -> AsyncIterator[Rig]:
    rig = Rig(directory, trial or EnvoyTrial())
    await rig.keeper.restore()
    try:
        yield rig
    finally:
        await rig.keeper.close()
        await rig.client.aclose()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(tmp_path) as made:
        yield made


@pytest.fixture
def web() -> Iterator[WebServer]:
    with serving(WebServer) as server:
        yield server


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def plugin(url: str, *lines: str) -> str:
    spec = "".join(f"  {line}\n" for line in (f"url: {url}", *lines))
    return f"apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: p}}\nspec:\n{spec}"


def script(code: str) -> str:
    lines = "".join(f"      {line}\n" for line in code.splitlines())
    return (
        "apiVersion: extensions.istio.io/v1alpha1\nkind: TrafficExtension\nmetadata: {name: p}\n"
        f"spec:\n  lua:\n    inlineCode: |\n{lines}"
    )


async def test_a_file_beside_the_yaml_is_taken_and_followed(rig: Rig) -> None:
    path = rig.directory / "a.wasm"
    path.write_bytes(module("a"))
    rig.follow(plugin("file://a.wasm"))
    assert rig.keeper.states[KEY].standing is PluginStanding.PENDING
    assert rig.keeper.serving(KEY) is Awaited.AWAITED  # no stub: proxies wait
    assert await rig.settled() == (PluginStanding.READY, "")
    assert rig.module() == sha(module("a"))
    path.write_bytes(module("b"))
    await rig.until(lambda: rig.module() == sha(module("b")))
    path.write_bytes(b"half a mod")
    await rig.until(lambda: bool(rig.findings()))
    (finding,) = rig.findings()
    assert (finding.code, finding.line, finding.message) == ("LTN0402", 5, "it is not a WebAssembly module")
    assert "what it ran before stays" in finding.hint
    assert rig.module() == sha(module("b"))
    path.write_bytes(module("c"))
    await rig.until(lambda: rig.module() == sha(module("c")))
    assert rig.findings() == []


async def test_a_server_that_fails_and_comes_back(rig: Rig, web: WebServer) -> None:
    rig.follow(plugin(web.url("/a.wasm")))
    await rig.until(lambda: len(web.asked) > 2)
    assert rig.keeper.serving(KEY) is None
    (finding,) = rig.findings()
    assert (finding.code, finding.line) == ("LTN0401", 5)
    assert finding.message.endswith("/a.wasm: the server answers 404")
    web.pages["/a.wasm"] = Reply(module("a"))
    await rig.until(lambda: rig.module() == sha(module("a")))
    assert rig.findings() == []
    assert rig.registry.get_sample_value("lateen_module_fetches_total", {"outcome": "failed"})
    assert rig.registry.get_sample_value("lateen_plugins", {"state": "READY"}) == 1


async def test_a_module_that_is_always_asked_for_again_stays_when_its_server_fails(rig: Rig, web: WebServer) -> None:
    web.pages["/a.wasm"] = Reply(module("a"))
    rig.follow(plugin(web.url("/a.wasm"), "imagePullPolicy: Always"))
    await rig.settled()
    web.pages["/a.wasm"] = Reply(module("b"))
    await rig.until(lambda: rig.module() == sha(module("b")))
    del web.pages["/a.wasm"]
    await rig.until(lambda: "404" in rig.keeper.states[KEY].reason)
    assert rig.keeper.states[KEY].standing is PluginStanding.READY
    assert rig.module() == sha(module("b"))
    assert [d.severity.value for d in rig.findings()] == ["warning"]


async def test_a_module_is_asked_for_once_otherwise(rig: Rig, web: WebServer) -> None:
    web.pages["/a.wasm"] = Reply(module("a"))
    rig.follow(plugin(web.url("/a.wasm")))
    await rig.settled()
    await asyncio.sleep(0.2)
    assert len(web.asked) == 1


async def test_another_sha256_is_refused_and_what_ran_stays(rig: Rig) -> None:
    (rig.directory / "a.wasm").write_bytes(module("a"))
    rig.follow(plugin("file://a.wasm"))
    await rig.settled()
    rig.follow(plugin("file://a.wasm", f"sha256: {'0' * 64}"))
    standing, reason = await rig.settled()
    assert standing is PluginStanding.FAILED
    assert f"its sha256 is {sha(module('a'))}, not {'0' * 64}" in reason
    assert rig.module() == sha(module("a"))


@pytest.mark.parametrize(
    ("lines", "code", "line", "message"),
    [
        (["pluginName: one", "pluginConfig:", "  message: 5"], "LTN0403", 8, "message must be a string, got 5"),
        (
            ["pluginName: one", "pluginConfig:", "  mesage: a"],
            "LTN0403",
            8,
            "mesage is no field of the filter (did you mean message?)",
        ),
        (["pluginName: one", "pluginConfig: {}"], "LTN0403", 7, "message is required"),
        (["pluginName: three"], "LTN0403", 6, "the module has no filter three, only one, two"),
        (["priority: 1"], "LTN0403", 4, "pluginName must say which filter of the module is meant: one, two"),
        ([f"sha256: {'0' * 64}"], "LTN0401", 6, "its sha256 is"),
    ],
)
async def test_what_does_not_fit_is_told_with_its_line_and_the_last_good_stays(
    rig: Rig, lines: list[str], code: str, line: int, message: str
) -> None:
    (rig.directory / "a.wasm").write_bytes(OURS)
    rig.follow(plugin("file://a.wasm", "pluginName: two"))
    assert await rig.settled() == (PluginStanding.READY, "")
    good = rig.keeper.serving(KEY)
    assert isinstance(good, WasmServing)
    assert (good.name, good.configuration, good.ours) == ("two", "{}", True)
    rig.follow(plugin("file://a.wasm", *lines))
    await rig.settled()
    (finding,) = rig.findings()
    assert (finding.code, finding.line) == (code, line), finding
    assert message in finding.message
    assert rig.keeper.serving(KEY) == good
    (offline,) = file_findings(rig.view)
    assert (offline.code, offline.line, offline.message) == (code, line, finding.message.rpartition("wasm: ")[2])


async def test_the_module_of_a_traffic_extension(rig: Rig) -> None:
    (rig.directory / "a.wasm").write_bytes(OURS)
    head = "apiVersion: extensions.istio.io/v1alpha1\nkind: TrafficExtension\nmetadata: {name: p}\nspec:\n  wasm:\n"
    rig.follow(f"{head}    url: file://a.wasm\n    pluginName: one\n    pluginConfig:\n      message: 5\n")
    await rig.settled(LUA)
    (finding,) = rig.findings()
    assert (finding.code, finding.line, finding.path) == ("LTN0403", 9, "spec.wasm.pluginConfig.message")


async def test_a_network_filter(rig: Rig) -> None:
    (rig.directory / "a.wasm").write_bytes(module("a"))
    rig.follow(plugin("file://a.wasm", "type: NETWORK"))
    assert await rig.settled() == (PluginStanding.READY, "")
    served = rig.keeper.serving(KEY)
    assert isinstance(served, WasmServing)
    assert served.network


async def test_a_near_miss_has_no_finding(rig: Rig) -> None:
    (rig.directory / "a.wasm").write_bytes(OURS)
    rig.follow(plugin("file://a.wasm", "pluginName: one", "pluginConfig: {message: a, lateen: {onError: open}}"))
    assert await rig.settled() == (PluginStanding.READY, "")
    assert rig.findings() == list(file_findings(rig.view)) == []


async def test_a_module_that_envoy_does_not_take(rig: Rig) -> None:
    broken = module("a").replace(b"\x41\x80\x08", b"\x41\xff\xff")
    assert broken != module("a")
    (rig.directory / "a.wasm").write_bytes(broken)
    rig.follow(plugin("file://a.wasm"))
    standing, reason = await rig.settled()
    assert standing is PluginStanding.FAILED
    assert reason.startswith("envoy does not take the module: ")
    assert [d.code for d in rig.findings()] == ["LTN0402"]


async def test_a_script_is_tried_and_its_error_stands_on_its_line(rig: Rig) -> None:
    rig.follow(script("function envoy_on_request(handle)\nend"))
    assert await rig.settled(LUA) == (PluginStanding.READY, "")
    good = rig.keeper.serving(LUA)
    assert isinstance(good, LuaServing)
    rig.follow(script("function envoy_on_request(handle)\n  handle:foo(\nend"))
    await rig.settled(LUA)
    (finding,) = rig.findings()
    assert (finding.code, finding.line, finding.source_line) == ("LTN0404", 9, "      end")
    assert "unexpected symbol near 'end'" in finding.message
    assert rig.keeper.serving(LUA) == good


async def test_a_script_that_never_ends_is_refused_and_leaves_no_process(rig: Rig) -> None:
    endless = LuaServing("while true do end")
    with pytest.raises(TrialFailedError, match="it did not start within 1 s"):
        await EnvoyTrial(seconds=1.0)([endless])
    assert not [line for line in _command_lines() if "lateen-trial-" in line and b"validate" in line.encode()]


def _command_lines() -> Iterator[str]:
    """Of our own children."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                yield path.with_name("cmdline").read_text().replace("\0", " ")


@pytest.mark.parametrize(
    "code",
    [
        "os.execute('touch HERE')",
        "io.open('HERE', 'w')",
        "local ffi = require('ffi')\nffi.cdef[[int creat(const char *, int);]]\nffi.C.creat('HERE', 420)",
        "getfenv(0).os.execute('touch HERE')",
        "pcall(load, [=[os.execute('touch HERE')]=])",
        "local home = os.getenv('HOME')\nlocal length = #home",
    ],
)
async def test_a_script_can_do_nothing_to_the_control_plane(tmp_path: Path, code: str) -> None:
    here = tmp_path / "touched"
    assert await EnvoyTrial()([LuaServing(code.replace("HERE", str(here)))]) == ("", 1)
    assert not here.exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\n\nlocal y = nothing.of_it", "line 3: attempt to index global 'nothing' (a nil value)"),
        ("x = ']]' -- ]=]\ny = {1} z = y[1]", ""),
        ("assert(bit.band(math.floor(3.5), 1) == 1 and ('x'):rep(2) == 'xx')", ""),
        ("\x1bLJ\x02", "attempt to load chunk with wrong mode"),
        ("error('as it is written')", "line 1: as it is written"),
    ],
)
async def test_what_a_trial_says_of_scripts(code: str, said: str) -> None:
    assert (await EnvoyTrial()([LuaServing(code)])).reason == said


def test_scripts_in_files_are_tried_too(tmp_path: Path) -> None:
    codes = {"first": "x = 1", "second": "x = 1\ny = = 2", "third": "z = 1"}
    texts = [script(code).replace("name: p", f"name: {name}") for name, code in codes.items()]
    loaded = load_text("---\n".join(texts), str(tmp_path / "p.yaml"))
    view = MeshView.build(loaded.resources, MeshConfig())
    (finding,) = script_findings(view, EnvoyTrial())
    assert (finding.code, finding.resource, finding.line) == ("LTN0404", "TrafficExtension/default/second", 16)
    assert script_findings(MeshView.build((), MeshConfig()), NoEnvoy()) == ()


async def test_nothing_but_modules_is_put_where_proxies_read(rig: Rig) -> None:
    (rig.directory / "secret").write_bytes(b"of the control plane's host")
    rig.follow(plugin("file://secret"))
    await rig.settled()
    assert rig.findings()[0].message == "it is not a WebAssembly module"
    assert not list(rig.directory.glob("modules/*.wasm"))


async def test_a_module_that_somebody_deletes_is_put_back(rig: Rig) -> None:
    (rig.directory / "a.wasm").write_bytes(module("a"))
    rig.follow(plugin("file://a.wasm"))
    await rig.settled()
    kept = rig.store.path(rig.module())
    kept.unlink()
    await rig.until(kept.exists)


async def test_servers_that_never_answer_keep_nobody_else_waiting(rig: Rig, web: WebServer) -> None:
    """They hold all places for fetches: files have their own."""
    ended = threading.Event()

    def never() -> Reply:
        ended.wait(PATIENCE)
        return Reply()

    try:
        for number in range(6):
            web.pages[f"/{number}.wasm"] = never
        texts = [plugin(web.url(f"/{number}.wasm")).replace("name: p", f"name: s{number}") for number in range(6)]
        (rig.directory / "a.wasm").write_bytes(module("a"))
        rig.follow("---\n".join([*texts, plugin("file://a.wasm")]))
        await rig.until(lambda: rig.module() == sha(module("a")))
    finally:
        ended.set()


async def test_a_manifest_can_say_anything(rig: Rig) -> None:
    schemas: list[dict[str, Any]] = [{"properties": 5}, {"enum": 5}, {"type": [[]]}, {"required": [[]]}]
    for number, schema in enumerate(schemas):
        (rig.directory / f"{number}.wasm").write_bytes(module("odd", {"one": {"type": "object", **schema}}))
        rig.follow(plugin(f"file://{number}.wasm", "pluginConfig: {a: 1}"))
        standing, reason = await rig.settled()
        assert standing is PluginStanding.FAILED
        assert "manifest is damaged" in reason


async def test_what_json_cannot_say(rig: Rig) -> None:
    (rig.directory / "a.wasm").write_bytes(module("a"))
    rig.follow(plugin("file://a.wasm", "pluginConfig: {rate: 1e400}"))
    await rig.settled()
    (finding,) = rig.findings()
    assert (finding.code, finding.line) == ("LTN0403", 6)
    assert "infinity" in finding.message


async def test_a_restart_goes_on_with_what_was_served(tmp_path: Path, web: WebServer) -> None:
    text = plugin(
        web.url("/a.wasm"), "pluginName: two", "vmConfig: {env: [{name: A, value: b}, {name: H, valueFrom: HOST}]}"
    )
    web.pages["/a.wasm"] = Reply(OURS)
    async with rigged(tmp_path) as first:
        first.follow(text)
        await first.settled()
        served = first.keeper.serving(KEY)
    web.pages.clear()
    async with rigged(tmp_path) as second:
        assert second.keeper.serving(KEY) == served
        second.follow(text)
        assert await second.settled() == (PluginStanding.READY, "")
        assert second.keeper.serving(KEY) == served
        assert len(web.asked) == 1


async def test_a_plugin_that_goes_takes_what_it_ran_with_it(rig: Rig) -> None:
    (rig.directory / "a.wasm").write_bytes(module("a"))
    rig.follow(plugin("file://a.wasm"))
    await rig.settled()
    rig.follow("")
    assert rig.module() == ""
    assert not rig.keeper.states


@pytest.mark.parametrize("right", [True, False])
async def test_passwords_come_from_a_secret_of_the_namespace(rig: Rig, right: bool) -> None:
    with serving(Registry) as server:
        assert isinstance(server, Registry)
        server.password = "wonderland"
        server.push("org/filter:v1", [(WASM, module("a"))])
        auths = {"auths": {server.host: {"username": "user", "password": "wonderland" if right else "guess"}}}
        data = base64.b64encode(json.dumps(auths).encode()).decode()
        secret = (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: pull}\ntype: kubernetes.io/dockerconfigjson\n"
            f"data: {{.dockerconfigjson: {data}}}\n"
        )
        rig.follow(plugin(f"oci://{server.host}/org/filter:v1", "imagePullSecret: pull") + "---\n" + secret)
        standing, reason = await rig.settled()
    assert standing is (PluginStanding.READY if right else PluginStanding.FAILED), reason
    assert "wonderland" not in str(rig.keeper.states)
    assert data not in str(rig.findings())


async def test_a_secret_that_is_not_there(rig: Rig) -> None:
    rig.follow(plugin("oci://127.0.0.1:1/org/filter:v1", "imagePullSecret: pull"))
    await rig.settled()
    (finding,) = rig.findings()
    assert (finding.code, finding.line, finding.message) == ("LTN0401", 6, "there is no Secret default/pull")


class Refusing:
    """A `Trial` that says no to some, and notes what it is asked."""

    def __init__(self, *bad: str) -> None:
        self.bad = bad
        self.asked: list[list[str]] = []

    async def __call__(self, servings: Sequence[Serving]) -> Verdict:
        names = [s.name for s in servings if isinstance(s, WasmServing)]
        self.asked.append(names)
        return Verdict(next((f"no {name}" for name in names if name in self.bad), ""), len(names))


async def test_plugins_of_one_module_are_tried_together_and_apart_only_when_one_is_refused(tmp_path: Path) -> None:
    trial = Refusing("two")
    async with rigged(tmp_path, trial) as rig:
        (tmp_path / "a.wasm").write_bytes(module("a"))
        texts = [plugin("file://a.wasm", f"pluginName: {n}").replace("name: p", f"name: {n}") for n in ("one", "two")]
        rig.follow("---\n".join(texts))
        await rig.settled(ResourceKey("WasmPlugin", "default", "two"))
        standings = {key.name: state.standing for key, state in rig.keeper.states.items()}
        count = rig.registry.get_sample_value
        counted = [count("lateen_plugin_trials_total", {"outcome": outcome}) for outcome in ("ok", "refused")]
    assert standings == {"one": PluginStanding.READY, "two": PluginStanding.FAILED}
    assert trial.asked == [["one", "two"], ["one"], ["two"]]
    assert counted == [1, 1]


class Forgetful:
    """A `Trial` that comes to nothing at first, as when memory is short, and whenever it is to try several."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    async def __call__(self, servings: Sequence[Serving]) -> Verdict:
        if len(servings) > 1:
            raise TrialFailedError("it was killed")
        self.failures -= 1
        if self.failures >= 0:
            raise TrialFailedError("it was killed")
        return Verdict("", len(servings))


async def test_a_trial_that_came_to_nothing_is_made_again(tmp_path: Path) -> None:
    async with rigged(tmp_path, Forgetful(2)) as rig:
        (tmp_path / "a.wasm").write_bytes(module("a"))
        rig.follow(plugin("file://a.wasm"))
        await rig.until(lambda: "it was killed" in rig.keeper.states[KEY].reason)
        await rig.until(lambda: rig.keeper.states[KEY].standing is PluginStanding.READY)
        assert rig.registry.get_sample_value("lateen_plugin_trials_total", {"outcome": "failed"}) == 2
        texts = [plugin("file://a.wasm", f"pluginName: {n}").replace("name: p", f"name: {n}") for n in ("one", "two")]
        rig.follow("---\n".join(texts))
        await rig.until(lambda: {s.standing for s in rig.keeper.states.values()} == {PluginStanding.READY})


async def test_a_trial_that_is_remembered_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "a.wasm").write_bytes(module("a"))
    for tried in (1, None):
        async with rigged(tmp_path, RememberedTrial(EnvoyTrial(), tmp_path / "trials.json")) as rig:
            rig.follow(plugin("file://a.wasm"))
            assert await rig.settled() == (PluginStanding.READY, "")
            assert rig.registry.get_sample_value("lateen_plugin_trials_total", {"outcome": "ok"}) in {tried, tried or 0}


class NoEnvoy:
    """A `Trial` on a host without Envoy."""

    async def __call__(self, servings: Sequence[Serving]) -> Verdict:
        raise TrialUnavailableError("no envoy")


async def test_without_an_envoy_on_its_host_the_control_plane_goes_on(tmp_path: Path) -> None:
    async with rigged(tmp_path, NoEnvoy()) as rig:
        (tmp_path / "a.wasm").write_bytes(module("a"))
        rig.follow(plugin("file://a.wasm"))
        assert await rig.settled() == (PluginStanding.READY, "")
