"""What a filter costs in Envoy: none, Lua, Python; CPU a request, start-up, memory. Ratios to an Envoy without a filter, and to Lua."""

import http.client
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.load import Generator, LoadError, Target, find_generator
from benchmarks.processes import apart
from benchmarks.report import Section, Table, number, with_range
from benchmarks.statistics import Load, Spread, spread
from filters.toolchain.build import build
from filters.toolchain.local_envoy import RELEASE_BYTES, Placed, listener, wasm_filter
from lateen.envoy_binary import envoy_path

NONE = "no filter"
CLAIMS = json.dumps(
    {"sub": "alice", "role": "reader", "scopes": ["a", "b", "c"], "exp": 1893456000, "n": {"k": [1, 2, 3]}}
)
LUA: Mapping[str, str] = {
    "Lua, no-op": "function envoy_on_request(h) end",
    "Lua, 3 headers read, 1 written": """function envoy_on_request(h)
  local hs = h:headers()
  hs:replace("x-py", hs:get(":path") .. hs:get(":authority") .. (hs:get("user-agent") or ""))
end""",
}
PYTHON: Mapping[str, str] = {
    "Python, no-op": "no-op",
    "Python, 3 headers read, 1 written": "headers",
    "Python, JSON decision": "decision",
}
CALLBACKS = "Python, request, response and log"
CONNECTIONS = 8
ROUNDS, CHAIN_ROUNDS = 10, 5
REPEATED = 10
"""Filters in the chains of the second table."""
_START_SECONDS = 120.0
_SETTLE_SECONDS = 3.0
_LUA_TYPE = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"


class Sample(NamedTuple):
    """One load on one row; `cpu` in microseconds a request."""

    load: Load
    cpu: float


class Start(NamedTuple):
    """What it took until Envoy was ready, and what it holds then; seconds and MiB."""

    wall: float
    cpu: float
    memory: float


class OverNone(NamedTuple):
    """What a row costs more than requests without a filter: CPU in microseconds a request, and as a share of such a request."""

    microseconds: float
    share: float


class FilterEnvoy:
    """A running Envoy with a listener for each row, which answers every request itself."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self._admin = directory / "admin"
        self._log = directory / "log"
        self.ports: dict[str, int] = {}

    def wait(self) -> None:
        """Until it is ready."""
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise LoadError(f"envoy has ended: {self._log.read_text(errors='replace')[-500:]}")
            try:
                if b"LIVE" in self._ask("/ready"):
                    break
            except OSError:
                pass
            time.sleep(0.02)
        else:
            raise LoadError("envoy is not ready")
        found = json.loads(self._ask("/listeners?format=json"))
        for item in found["listener_statuses"]:
            self.ports[item["name"]] = item["local_address"]["socket_address"]["port_value"]

    def _ask(self, path: str) -> bytes:
        host, _, port = self._admin.read_text().rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request("GET", path)
        return connection.getresponse().read()

    def cpu(self) -> float:
        """Seconds of CPU so far, of all threads."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except FileNotFoundError:
                continue  # it has ended in between
        return total / 1e9

    def memory(self) -> float:
        """Resident MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        return int(found[1]) / 1024 if found else 0.0

    def target(self, row: str) -> Target:
        """Where a row answers."""
        headers = (("x-claims", CLAIMS), ("user-agent", "benchmark"))
        return Target("127.0.0.1", self.ports[row], "benchmark", "/api/v7/things?x=1", headers)


def configuration(rows: Mapping[str, Sequence[dict[str, object]]]) -> str:
    """JSON of a bootstrap with a listener for each row."""
    answer = {"status": 200, "body": {"inline_string": "ok\n"}}
    host: dict[str, object] = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": answer}],
    }
    return json.dumps(
        {
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "memory_allocator_manager": {"bytes_to_release": RELEASE_BYTES, "memory_release_interval": "0.5s"},
            "static_resources": {"listeners": [listener(name, 0, chain, host) for name, chain in rows.items()]},
        }
    )


@contextmanager
def running(rows: Mapping[str, Sequence[dict[str, object]]], workers: int = 1) -> Iterator[FilterEnvoy]:
    """An Envoy, ready, ended with the block."""
    with tempfile.TemporaryDirectory(prefix="lateen-filters-") as name:
        directory = Path(name)
        (directory / "envoy.json").write_text(configuration(rows))
        command = [str(envoy_path()), "-c", str(directory / "envoy.json"), "--concurrency", str(workers)]
        command += ["--disable-hot-restart", "-l", "error", "--admin-address-path", str(directory / "admin")]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            envoy = FilterEnvoy(process, directory)
            envoy.wait()
            yield envoy
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def rows_of(module: Path, callbacks: Path) -> dict[str, list[dict[str, object]]]:
    """Filter chains by row."""
    rows: dict[str, list[dict[str, object]]] = {NONE: []}
    for title, source in LUA.items():
        rows[title] = [
            {"name": "lua", "typed_config": {"@type": _LUA_TYPE, "default_source_code": {"inline_string": source}}}
        ]
    for title, name in PYTHON.items():
        rows[title] = [wasm_filter(module, Placed(name, {}))]
    rows[CALLBACKS] = [wasm_filter(callbacks, Placed("everything", {}))]
    return rows


def measure(*, quick: bool) -> Section:
    """Build the modules, then all rows in turns, backwards every second time; then start-ups."""
    generator = find_generator("python" if quick else "auto")
    rounds, chain_rounds, seconds = (1, 1, 0.3) if quick else (ROUNDS, CHAIN_ROUNDS, 1.0)
    with tempfile.TemporaryDirectory(prefix="lateen-modules-") as directory:
        modules = {}
        for name in ("filter_cases", "filter_callbacks"):
            modules[name] = Path(directory) / f"{name}.wasm"
            built = build(Path(__file__).with_name(f"{name}.py"), seed=1)
            modules[name].write_bytes(built.linked.module)
        rows = rows_of(modules["filter_cases"], modules["filter_callbacks"])
        samples = _samples(rows, generator, rounds, seconds)
        chains = _samples({row: _repeated(chain) for row, chain in rows.items()}, generator, chain_rounds, seconds)
        module = modules["filter_cases"]
        plain = {NONE: rows[NONE]}
        filtered = {title: rows[title] for title in PYTHON}
        starts = {
            (name, workers): _start(chosen, workers)
            for workers in (1, 2)
            for name, chosen in ((NONE, plain), ("Python", filtered))
        }
        size = module.stat().st_size
    return _section(samples, chains, starts, size, f"{rounds} rounds of {seconds} s with {generator.description}")


def _repeated(chain: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """REPEATED times the same filter one after the other: what another one costs, far above the noise of the rest."""
    return [{**placed, "name": f"{placed['name']}-{number}"} for number in range(REPEATED) for placed in chain]


def _samples(
    rows: Mapping[str, Sequence[dict[str, object]]], generator: Generator, rounds: int, seconds: float
) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {}
    with running(rows) as envoy, apart(envoy.process.pid):
        for row in rows:
            generator.run(envoy.target(row), CONNECTIONS, max(seconds, generator.shortest))
        for turn in range(rounds):
            for row in rows if turn % 2 == 0 else reversed(list(rows)):
                before = envoy.cpu()
                load = generator.run(envoy.target(row), CONNECTIONS, max(seconds, generator.shortest))
                samples.setdefault(row, []).append(Sample(load, (envoy.cpu() - before) * 1e6 / load.requests))
    return samples


def _over_none(found: Sequence[Sample], none: Sequence[Sample]) -> OverNone:
    """Medians over the rounds: what slows a whole round down is on both sides of its difference."""
    pairs = [(sample.cpu - base.cpu, base.cpu) for sample, base in zip(found, none, strict=True)]
    return OverNone(
        spread(difference for difference, _ in pairs).median,
        spread(difference / base for difference, base in pairs).median,
    )


def _start(rows: Mapping[str, Sequence[dict[str, object]]], workers: int) -> Start:
    began = time.monotonic()
    with running(rows, workers) as envoy:
        wall, cpu = time.monotonic() - began, envoy.cpu()
        for row in rows:
            connection = http.client.HTTPConnection("127.0.0.1", envoy.ports[row], timeout=30)
            for _ in range(20):
                connection.request("GET", "/", headers={"x-claims": CLAIMS})
                connection.getresponse().read()
            connection.close()
        time.sleep(_SETTLE_SECONDS)  # freed memory goes back
        return Start(wall, cpu, envoy.memory())


def _section(
    samples: Mapping[str, Sequence[Sample]],
    chains: Mapping[str, Sequence[Sample]],
    starts: Mapping[tuple[str, int], Start],
    size: int,
    how: str,
) -> Section:
    cpu = {row: spread(sample.cpu for sample in found) for row, found in samples.items()}
    rate = {row: spread(sample.load.rate for sample in found) for row, found in samples.items()}
    p99 = {row: spread(sample.load.p99 for sample in found) for row, found in samples.items()}
    over = {row: _over_none(found, samples[NONE]) for row, found in samples.items()}
    lua_noop = max(over["Lua, no-op"].microseconds, 0.01)
    table = Table(
        (
            f"{CONNECTIONS} connections",
            "CPU us a request",
            "over none",
            "to none",
            "to Lua's no-op",
            "requests/s",
            "p99 us",
        ),
        tuple(
            (
                row,
                with_range(cpu[row]),
                number(over[row].microseconds),
                number(over[row].share),
                number(over[row].microseconds / lua_noop),
                with_range(rate[row]),
                number(p99[row].median),
            )
            for row in samples
        ),
    )
    middle = {row: spread(sample.cpu for sample in found).median for row, found in chains.items()}
    marginal = {row: (found - middle[NONE]) / REPEATED for row, found in middle.items() if row != NONE}
    repeated = Table(
        (f"{REPEATED} of them in a chain, for each", "CPU us a request", "to Lua's no-op"),
        tuple(
            (row, number(found), number(found / max(marginal["Lua, no-op"], 0.01))) for row, found in marginal.items()
        ),
    )
    starting = Table(
        ("start-up", "wall s", "CPU s", "RSS MiB", "over none"),
        tuple(
            (
                f"{name}, {workers} worker{'s' if workers > 1 else ''}",
                number(start.wall),
                number(start.cpu),
                number(start.memory),
                number(start.memory - starts[NONE, workers].memory),
            )
            for (name, workers), start in starts.items()
        ),
    )
    notes = (
        f"{how}; CPU is that of the whole Envoy (1 worker), median (min..max)",
        "`over none` is the median of the differences to the row without a filter in the same round; `to none` likewise, in such requests",
        "Envoy has a CPU for itself if there is more than one",
        "the listeners answer themselves (direct_response): the filter is nearly all there is",
        f"module: {size / 1e6:.1f} MB; Envoy compiles it when it starts",
        f"load on the machine while measuring: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs",
    )
    return Section(
        "filters",
        "filters in Envoy: Lua and Python",
        (table, repeated, starting),
        notes,
        _data(cpu, marginal, starts, size),
    )


def _data(
    cpu: Mapping[str, Spread], marginal: Mapping[str, float], starts: Mapping[tuple[str, int], Start], size: int
) -> dict[str, object]:
    return {
        "in_a_chain_us": dict(marginal),
        "cpu_us": {row: found.as_dict() for row, found in cpu.items()},
        "starts": {f"{name}/{workers}": start._asdict() for (name, workers), start in starts.items()},
        "module_bytes": size,
    }
