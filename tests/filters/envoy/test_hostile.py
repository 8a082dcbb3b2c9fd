"""Filters that mean harm: their request fails as configured, the worker goes on, and nothing grows."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from filters.toolchain.build import build
from filters.toolchain.local_envoy import Chain, Placed
from tests.filters.envoy.application import application
from tests.filters.envoy.envoys import START_SECONDS, STOP_SECONDS, FilterEnvoy

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(600)]

CAUGHT = {
    "/deep/dumps": "RecursionError",
    "/deep/repr": "RecursionError",
    "/deep/copy": "RecursionError",
    "/deep/pickle": "RecursionError",
    "/deep/equal": "RecursionError",
    "/deep/isinstance": "RecursionError",
    "/deep/pattern": "RecursionError",
    "/deep/limit": "RecursionError",
    "/big/text": "MemoryError",
    "/big/format": "MemoryError",
    "/big/shift": "MemoryError",
    "/big/power": "CpuLimitExceeded",
    "/big/number": "ValueError: Exceeds the limit (4300 digits)",
    "/big/replace": "MemoryError",
    "/await/number": "RuntimeError: generator ignored GeneratorExit",
    "/world/file": "FileNotFoundError",
    "/world/thread": "RuntimeError: can't start new thread",
    "/world/log": "CpuLimitExceeded",
    "/envoy/shared": "RuntimeError: shared data is full",
    "/envoy/headers": "CpuLimitExceeded",
    "/envoy/header": "ValueError: the value of header 'x' holds a control character",
    "/envoy/limit": "HostError",
    "/envoy/continue": "HostError",
    "/envoy/context": "HostError",
    "/raise/exits": "Exits: (its __str__ failed)",
    "/raise/exit": "KeyboardInterrupt",
}
HARMLESS = (
    "/deep/release",
    "/deep/generators",
    "/deep/json",
    "/big/division",
    "/await/never",
    "/release/loops",
    "/release/cycles",
)
ENDS = ("/big/loop", "/big/search", "/release/stubborn", "/world/exit", "/world/lock")
MEASURED = 5
SPARE_MIB = 40


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "hostile.wasm"
    path.write_bytes(build(Path(__file__).with_name("behaviour") / "hostile.py", seed=7).linked.module)
    return path


@pytest.fixture(scope="module")
def envoy(module: Path) -> Iterator[FilterEnvoy]:
    chains = [Chain([Placed("hostile", {})], name="closed"), Chain([Placed("late", {})], name="late")]
    chains.append(Chain([Placed("hostile", {"lateen": {"onError": "open"}})], name="open"))
    with application() as upstream:
        running = FilterEnvoy(module, chains, upstream=upstream)
        yield running
        running.stop()


def resident(envoy: FilterEnvoy) -> int:
    """MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{envoy.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


@pytest.mark.parametrize(("path", "reason"), CAUGHT.items(), ids=[path.strip("/") for path in CAUGHT])
def test_the_request_fails_and_the_vm_lives(envoy: FilterEnvoy, path: str, reason: str) -> None:
    assert envoy.until_ok("/nothing").status_code == 200
    before = len(envoy.log())
    assert envoy.request(path).status_code == 500
    assert reason in envoy.wait_log(reason, before)
    assert envoy.request("/nothing").status_code == 200
    assert "wasm_vm.cc" not in envoy.log()[before:]


def test_fail_open(envoy: FilterEnvoy) -> None:
    for path in ("/deep/dumps", "/raise/exits"):
        answer = envoy.request(path, listener="open")
        assert (answer.status_code, answer.text.split()[1]) == (200, path)


@pytest.mark.parametrize("path", HARMLESS)
def test_what_does_no_harm(envoy: FilterEnvoy, path: str) -> None:
    before = len(envoy.log())
    assert envoy.request(path).status_code == 200
    assert envoy.request("/nothing").status_code == 200
    assert "wasm_vm.cc" not in envoy.log()[before:]


@pytest.mark.parametrize("path", ENDS)
def test_what_ends_the_vm_costs_one_request(envoy: FilterEnvoy, path: str) -> None:
    assert envoy.until_ok("/nothing").status_code == 200
    assert envoy.request(path).status_code == 503
    assert envoy.until_ok("/nothing").status_code == 200


def test_after_the_request(envoy: FilterEnvoy) -> None:
    for path in ("/exit", "/deep"):
        assert envoy.request(path, listener="late").status_code == 500
        assert envoy.request(f"/log{path}", listener="late").status_code == 200
    assert "on_log has failed" in envoy.wait_log("on_log has failed")
    assert envoy.until_ok("/nothing").status_code == 200
    envoy.request("/log/stubborn", listener="late")  # answered before the log is written
    assert envoy.until_ok("/nothing").status_code == 200


def test_metrics_are_bounded(envoy: FilterEnvoy) -> None:
    assert envoy.until_ok("/envoy/metric").status_code == 200
    assert envoy.request("/envoy/metrics").status_code == 500
    assert envoy.until_ok("/envoy/metric").status_code == 200  # one that is there already
    found = httpx.get(f"http://{envoy.admin}/stats?filter=wasmcustom.hostile_", timeout=30).text.splitlines()
    assert len(found) <= 1000


@pytest.mark.parametrize("path", ["/big/memory", "/release/cycles", "/release/stubborn"])
def test_memory_does_not_grow(envoy: FilterEnvoy, path: str) -> None:
    """Neither of a VM, nor of an Envoy whose VMs die; what the first few took may stay."""

    def repeat(times: int) -> int:
        for _ in range(times):
            assert envoy.until_ok("/nothing").status_code == 200
            envoy.request(path)
        assert envoy.until_ok("/nothing").status_code == 200
        return resident(envoy)

    before = repeat(3)
    assert repeat(MEASURED) - before < SPARE_MIB


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + START_SECONDS
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_tick_that_never_ends_does_not_keep_envoy_from_ending(module: Path) -> None:
    running = FilterEnvoy(module, [Chain([Placed("late", {"tick": "/stubborn"})])])
    try:
        until(lambda: "proxy_on_tick failed" in running.log())
        running.process.terminate()
        assert running.process.wait(STOP_SECONDS) == 0
    finally:
        running.stop()


def test_a_start_that_never_ends_is_a_refused_configuration(module: Path) -> None:
    running = FilterEnvoy(module, [Chain([Placed("late", {"start": "/stubborn"})])], wait=False)
    try:
        assert running.process.wait(START_SECONDS) != 0
        assert "proxy_on_configure failed" in running.log()
    finally:
        running.stop()
