"""Machine code made ahead of time: made with the real Envoy, and the portable module whenever anything does not fit."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from lateen.clock import SystemClock
from lateen.controlplane.native_modules import DamagedError, NativeModules, machine_key
from lateen.controlplane.plugin_keeper import PluginKeeper, PluginStanding
from lateen.controlplane.plugin_metrics import PluginMetrics
from lateen.controlplane.plugin_trial import EnvoyTrial
from lateen.controlplane.plugins import Awaited, Native, WasmServing
from lateen.controlplane.wasm_ahead import MAKER, AheadOfTime, AheadOfTimeError, Machine, this_machine
from lateen.controlplane.wasm_fetch import Fetcher
from lateen.controlplane.wasm_store import ModuleStore
from lateen.fetching import http_client
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.loader import load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView
from tests.controlplane.modules import module

PLAIN = module("ahead")
DIGEST = hashlib.sha256(PLAIN).hexdigest()
NO_MAKER = ("/nonexistent/maker",)
MIB = 1 << 20
CPU = "processor\t: 0\nvendor_id\t: A\nmodel name\t: One 2.4GHz\nflags\t\t: avx sse2\ncpu MHz\t\t: 2400.1\n\nprocessor\t: 1\n"


class Rig:
    """One control plane's machine code, and the module it is made of."""

    def __init__(
        self,
        directory: Path,
        machine: Machine,
        maker: Sequence[str] = MAKER,
        *,
        data: bytes = PLAIN,
        seconds: float = 120.0,
    ) -> None:
        self.registry = CollectorRegistry()
        self.modules = NativeModules(directory / "native")
        self.lent = directory / "modules"
        self.lent.mkdir(exist_ok=True)
        metrics = PluginMetrics(self.registry)
        self.ahead = AheadOfTime(
            self.modules, self.lent, SystemClock(), metrics, machine=lambda: machine, maker=maker, seconds=seconds
        )
        self.digest = hashlib.sha256(data).hexdigest()
        path = self.lent / f"{self.digest}.wasm"
        path.write_bytes(data)
        self.serving = WasmServing(self.digest, str(path))

    async def native(self) -> Native | None:
        await self.ahead.prepare([self.serving])
        assert self.ahead.decided(self.digest)
        return self.ahead.native(self.digest)

    def counted(self) -> dict[str, float]:
        samples = next(m for m in self.registry.collect() if m.name == "lateen_modules_ahead_of_time").samples
        return {s.labels["outcome"]: s.value for s in samples if s.name.endswith("_total") and s.value}

    def files(self) -> list[Path]:
        return sorted(self.modules.directory.glob("*.native"))


async def taken(serving: WasmServing, path: Path) -> str:
    """Why the real Envoy refuses a file with machine code, if it does."""
    return (await EnvoyTrial()([replace(serving, native=Native(str(path), ""))])).reason


@pytest.fixture(scope="module")
def here() -> Machine:
    return asyncio.run(this_machine())


@pytest.fixture(scope="module")
def made(here: Machine, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The module with its machine code, made with the real Envoy."""
    rig = Rig(tmp_path_factory.mktemp("ahead"), here)
    native = asyncio.run(rig.native())
    assert native is not None
    assert rig.counted() == {"made": 1}
    (path,) = rig.files()
    assert native == Native(str(rig.lent / path.name), here.build)
    assert (rig.lent / path.name).stat().st_mode & 0o777 == 0o644
    return path.read_bytes()


@pytest.fixture
def kept(tmp_path: Path, here: Machine, made: bytes) -> Path:
    """Where that lies in the directory of this test's Rig."""
    return NativeModules(tmp_path / "native").put(DIGEST, here.key, made)


async def test_envoy_takes_what_was_made_and_the_next_start_finds_it(
    tmp_path: Path, here: Machine, made: bytes, kept: Path
) -> None:
    assert made.startswith(PLAIN)
    assert b"precompiled_wee8_v" in made[len(PLAIN) :]
    rig = Rig(tmp_path, here, NO_MAKER)
    assert await taken(rig.serving, kept) == ""
    await rig.ahead.restore([DIGEST])
    assert rig.ahead.native(DIGEST) == Native(str(rig.lent / kept.name), here.build)
    assert rig.counted() == {"cached": 1}


async def test_another_envoy_or_processor_has_its_own(tmp_path: Path, here: Machine, kept: Path) -> None:
    rig = Rig(tmp_path, replace(here, key="0" * 24), NO_MAKER)
    await rig.ahead.restore([DIGEST])
    assert not rig.ahead.decided(DIGEST)
    assert await rig.native() is None
    assert rig.files() == [kept]
    assert rig.counted() == {"failed": 1}


def test_what_a_machine_is_told_from() -> None:
    key = machine_key("e", CPU)
    assert machine_key("e", CPU.replace("2400.1", "1800.0")) == key, (
        "how fast it runs at the moment is nothing of its kind"
    )
    assert machine_key("e", CPU.replace("avx sse2", "sse2 avx")) == key
    others = [
        machine_key("f", CPU),
        machine_key("e", CPU.replace("avx ", "")),
        machine_key("e", CPU.replace("One", "Two")),
    ]
    assert len({key, *others}) == 4
    with pytest.raises(ValueError, match="says nothing"):
        machine_key("e", "Hardware: none\n")


async def test_an_unknown_machine_has_none(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("nothing")
    with pytest.raises(AheadOfTimeError, match="cannot be told from others"):
        await this_machine(cpuinfo=tmp_path / "cpuinfo")
    with pytest.raises(AheadOfTimeError, match="does not tell its version"):
        await this_machine(envoy=lambda: Path("/bin/true"))
    with pytest.raises(AheadOfTimeError, match="No such file"):
        await this_machine(envoy=lambda: tmp_path / "envoy")


def damaged(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data[:-9] + b"\xff" + data[-8:], lambda _: b""],
    ids=["cut off", "one byte", "empty"],
)
async def test_a_damaged_file_is_never_used(
    tmp_path: Path, here: Machine, kept: Path, made: bytes, damage: Callable[[bytes], bytes]
) -> None:
    damaged(kept, damage(made))
    rig = Rig(tmp_path, here, NO_MAKER)
    await rig.ahead.restore([DIGEST])
    assert not rig.ahead.decided(DIGEST)
    assert rig.files() == []
    assert await rig.native() is None
    assert rig.counted() == {"damaged": 1, "failed": 1}


async def test_what_was_damaged_is_made_again(tmp_path: Path, here: Machine, kept: Path) -> None:
    damaged(kept, b"")
    rig = Rig(tmp_path, here)
    assert await rig.native() is not None
    assert await taken(rig.serving, rig.files()[0]) == ""
    assert rig.counted() == {"damaged": 1, "made": 1}


async def test_envoy_refuses_the_machine_code_of_another_processor(
    tmp_path: Path, here: Machine, kept: Path, made: bytes
) -> None:
    """V8's own last line of defence, should the key be wrong: the head says for which processor and flags it is."""
    data = bytearray(made)
    # title, length, the module; then V8's head: magic, version, processor, flags
    data[made.index(PLAIN, len(PLAIN)) + len(PLAIN) + 8] ^= 0x40
    other = tmp_path / "other.wasm"
    other.write_bytes(data)
    rig = Rig(tmp_path, here, NO_MAKER)
    said = await taken(rig.serving, other)
    assert said != ""
    await rig.ahead.restore([DIGEST])
    assert await rig.ahead.refused(DIGEST, said)
    assert rig.files() == []
    assert rig.ahead.decided(DIGEST)
    assert rig.ahead.native(DIGEST) is None
    assert rig.counted() == {"cached": 1, "refused": 1}
    assert not await rig.ahead.refused(DIGEST, "again")


async def test_another_version_of_v8_compiles_the_module_itself(tmp_path: Path, here: Machine, made: bytes) -> None:
    place = made.index(b"precompiled_wee8_v") + len("precompiled_wee8_v")
    other = tmp_path / "other.wasm"
    other.write_bytes(made[:place] + b"9" + made[place + 1 :])
    assert await taken(Rig(tmp_path, here).serving, other) == ""


def command(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import os, signal, sys, time\n{code}")


@pytest.mark.parametrize(
    ("maker", "outcome"),
    [
        (command("os.kill(os.getpid(), signal.SIGSEGV)"), "failed"),
        (command("raise MemoryError"), "failed"),
        (command("print('{}')"), "failed"),
        (command("print('[1]'); sys.exit(1)"), "failed"),
        (command('print(\'{"error": "none"}\'); sys.exit(1)'), "failed"),
        (command("time.sleep(600)"), "too slow"),
        (NO_MAKER, "failed"),
        (command('print(\'{"seconds_before": 1, "seconds_after": 1}\')'), "failed"),
    ],
    ids=["crash", "exception", "no figures", "no reason", "refused", "hangs", "not there", "nothing made"],
)
async def test_a_maker_that_fails_leaves_the_portable_module(
    tmp_path: Path, here: Machine, maker: tuple[str, ...], outcome: str
) -> None:
    rig = Rig(tmp_path, here, maker, seconds=2.0 if outcome == "too slow" else 60.0)
    assert await rig.native() is None
    assert (rig.counted(), rig.files()) == ({outcome: 1}, [])


async def test_a_maker_that_dies_takes_its_envoy_with_it(tmp_path: Path, here: Machine) -> None:
    pid = tmp_path / "pid"
    code = f"""
import subprocess
child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
open({str(pid)!r}, "w").write(str(child.pid))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert await Rig(tmp_path, here, command(code)).native() is None
    async with asyncio.timeout(30):
        while _alive(int(pid.read_text())):  # noqa: ASYNC110 - another process's child: there is no event
            await asyncio.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """As on a full disk: writing fails in the middle of a file, for us and our children."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def test_no_room_to_make_it(tmp_path: Path, here: Machine) -> None:
    rig = Rig(tmp_path, here, data=module("x" * 2 * MIB))
    with no_file_beyond(MIB):
        assert await rig.native() is None
    assert (rig.counted(), rig.files()) == ({"no room": 1}, [])


async def test_no_room_to_keep_it(tmp_path: Path, here: Machine) -> None:
    write = f"open(sys.argv[-1] + '/made.wasm', 'wb').truncate({2 * MIB})"
    figures = 'print(\'{"seconds_before": 1, "seconds_after": 0}\')'
    unlimited = ("/bin/sh", "-c", 'ulimit -f unlimited && exec "$@"', "sh")
    rig = Rig(tmp_path, here, (*unlimited, *command(f"{write}; {figures}")))
    with no_file_beyond(MIB):
        assert await rig.native() is None
    left = list(rig.modules.directory.glob(".new-*"))
    assert (rig.counted(), rig.files(), left) == ({"no room": 1}, [], [])


async def test_several_at_once_make_one(tmp_path: Path, here: Machine) -> None:
    log = tmp_path / "log"
    maker = ("/bin/sh", "-c", f'echo made >> {log}; exec "$@"', "sh", *MAKER)
    rigs = [Rig(tmp_path, here, maker) for _ in range(3)]
    found = await asyncio.gather(*(rig.native() for rig in rigs))
    assert found[0] is not None
    assert found == [found[0]] * 3
    assert log.read_text() == "made\n"
    assert sorted(str(rig.counted()) for rig in rigs) == ["{'cached': 1.0}", "{'cached': 1.0}", "{'made': 1.0}"]


async def test_a_damaged_module_is_no_source(tmp_path: Path, here: Machine) -> None:
    rig = Rig(tmp_path, here)
    Path.write_bytes(rig.lent / f"{DIGEST}.wasm", module("another"))
    assert await rig.native() is None
    assert rig.counted() == {"failed": 1}


KEY = ResourceKey("WasmPlugin", "default", "p")


@contextlib.asynccontextmanager
async def keeping(rig: Rig) -> AsyncIterator[PluginKeeper]:
    """The control plane's keeper of plugins, as after a start."""
    keeper = PluginKeeper(
        ModuleStore(rig.lent), Fetcher(http_client()), EnvoyTrial(), SystemClock(), lambda: None,
        metrics=PluginMetrics(CollectorRegistry()), ahead=rig.ahead,
    )  # fmt: skip
    await keeper.restore()
    try:
        yield keeper
    finally:
        await keeper.close()


def wanting(rig: Rig) -> MeshView:
    """A mesh with one plugin."""
    head = "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: p}\n"
    loaded = load_text(f"{head}spec: {{url: 'file://{rig.serving.path}'}}\n", "p.yaml")
    return MeshView.build(loaded.resources, MeshConfig())


async def test_what_runs_stays_until_the_machine_code_is_there_or_will_never_be(tmp_path: Path, here: Machine) -> None:
    gate = tmp_path / "gate"
    rig = Rig(tmp_path, here, ("/bin/sh", "-c", f"while ! [ -e {gate} ]; do sleep 0.05; done; exit 1"))
    async with keeping(rig) as keeper:
        keeper.follow(wanting(rig))
        await until(lambda: keeper.states[KEY].reason == "its machine code is being made")
        assert (keeper.states[KEY].standing, keeper.serving(KEY)) == (PluginStanding.PENDING, Awaited.AWAITED)
        gate.touch()
        await until(lambda: keeper.states[KEY].standing is PluginStanding.READY)
        assert keeper.serving(KEY) == rig.serving
        await keeper.refused(KEY, "there is no machine code to be blamed")
        assert rig.counted() == {"failed": 1}


async def test_after_a_restart_proxies_get_it_at_once_and_the_module_itself_when_one_refuses_it(
    tmp_path: Path, here: Machine, kept: Path
) -> None:
    rig = Rig(tmp_path, here, NO_MAKER)
    native = Native(str(rig.lent / kept.name), here.build)
    async with keeping(rig) as keeper:
        keeper.follow(wanting(rig))
        await until(lambda: keeper.states[KEY].standing is PluginStanding.READY)
        assert keeper.serving(KEY) == replace(rig.serving, native=native)
    again = Rig(tmp_path, here, NO_MAKER)
    async with keeping(again) as keeper:
        assert keeper.serving(KEY) == replace(rig.serving, native=native)
        keeper.follow(wanting(again))
        await until(lambda: keeper.states[KEY].standing is PluginStanding.READY)
        assert keeper.states[KEY].to_dict()["ahead_of_time"] is True
        await keeper.refused(KEY, "Failed to load Wasm bytecode")
        assert keeper.serving(KEY) == rig.serving
        assert keeper.states[KEY].to_dict()["ahead_of_time"] is False
    third = Rig(tmp_path, here, NO_MAKER)
    assert (third.files(), list(third.lent.glob("*.native"))) == ([], [])
    async with keeping(third) as keeper:
        assert keeper.serving(KEY) == rig.serving


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def test_what_was_lent_of_modules_that_are_gone_goes(tmp_path: Path) -> None:
    modules, lent = NativeModules(tmp_path / "kept"), tmp_path / "lent"
    lent.mkdir()
    paths = [modules.put(digest, "m", digest.encode()) for digest in ("a", "b")]
    (lent / "a.wasm").touch()
    first, second = (modules.lend(path, lent) for path in paths)
    assert (first.read_bytes(), second.read_bytes()) == (b"a", b"b")
    modules.lend(paths[0], lent)
    assert [path.exists() for path in (first, second, *paths)] == [True, False, True, True]


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    modules = NativeModules(tmp_path, max_bytes=250)
    paths = [modules.put(str(number), "m", bytes([number]) * 100) for number in range(2)]
    for age, path in enumerate(paths):
        os.utime(path, (age, age))
    last = modules.put("2", "m", bytes(100))
    assert [path.exists() for path in (*paths, last)] == [False, True, True]
    assert modules.get("0", "m") is None
    last.write_bytes(b"")
    with pytest.raises(DamagedError):
        modules.get("2", "m")
