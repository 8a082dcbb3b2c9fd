"""The rows of the filter benchmark: what Envoy is given, and what is made of the samples."""

import json
import subprocess
from pathlib import Path

from benchmarks.filters import CALLBACKS, LUA, NONE, PYTHON, Sample, Start, _section, configuration, rows_of
from benchmarks.report import render_section
from benchmarks.statistics import Load
from lateen.envoy_binary import envoy_path


def test_each_row_has_a_listener_and_its_filter() -> None:
    rows = rows_of(Path("cases.wasm"), Path("callbacks.wasm"))
    assert list(rows) == [NONE, *LUA, *PYTHON, CALLBACKS]
    found = json.loads(configuration(rows))["static_resources"]["listeners"]
    assert [item["name"] for item in found] == list(rows)
    assert rows[NONE] == []
    assert {json.dumps(rows[row]).count("cases.wasm") for row in PYTHON} == {1}


def test_envoy_takes_the_rows_without_a_module(tmp_path: Path) -> None:
    rows = rows_of(Path("cases.wasm"), Path("callbacks.wasm"))
    config = tmp_path / "envoy.json"
    config.write_text(configuration({row: rows[row] for row in (NONE, *LUA)}))
    result = subprocess.run(
        [str(envoy_path()), "--mode", "validate", "-c", str(config)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_ratios_are_to_lua_s_no_op_in_differences_of_the_same_round() -> None:
    rows = (NONE, *LUA, *PYTHON)
    cpu = dict(zip(rows, (20.0, 24.0, 28.0, 26.0, 32.0, 50.0), strict=True))
    samples = {
        row: [Sample(Load(100, 1.0, 10.0, 20.0), cost + extra) for extra in (0.0, 30.0)] for row, cost in cpu.items()
    }
    chains = {row: [Sample(Load(100, 1.0, 10.0, 20.0), 20.0 + (cost - 20.0) * 10)] for row, cost in cpu.items()}
    starts = {(name, 1): Start(1.0, 2.0, memory) for name, memory in ((NONE, 64.0), ("Python", 165.0))}
    text = render_section(_section(samples, chains, starts, 9_300_000, "2 rounds"))
    line = next(line for line in text.splitlines() if line.startswith("Python, 3 headers"))
    assert line.split()[-6:-3] == ["12.0", "0.420", "3.00"], line
    chained = next(line for line in text.splitlines()[10:] if line.startswith("Python, 3 headers"))
    assert chained.split()[-2:] == ["12.0", "3.00"], chained
    assert "101" in next(line for line in text.splitlines() if line.startswith("Python, 1 worker"))
    assert "9.3 MB" in text
