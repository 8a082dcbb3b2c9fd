"""`lateen filter` as one types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from filters.toolchain.build import Built

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(600)]
LATEEN = [sys.executable, "-m", "lateen.cli.main", "filter"]


def lateen(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LATEEN, *arguments], capture_output=True, text=True, check=False, timeout=120, cwd=cwd)


def test_inspect_tells_filters_configuration_and_modules(module: Path) -> None:
    found = json.loads(lateen("inspect", str(module), "-o", "json").stdout)
    filters = {item["name"]: item for item in found["manifest"]["filters"]}
    assert filters.keys() >= {"cases", "maintenance", "requests", "ticker"}
    assert filters["maintenance"]["config"]["required"] == ["message"]
    assert found["manifest"]["seed"] == 7
    assert "hashlib" in found["manifest"]["modules"]
    assert "env.proxy_log" in found["imports"]
    assert "proxy_on_request_headers" in found["exports"]
    assert "proxy_on_tick" in found["exports"]


def test_inspect_tells_what_python_modules_take(module: Path) -> None:
    found = json.loads(lateen("inspect", str(module), "-o", "json").stdout)
    sizes = found["modules"]
    assert sizes.keys() <= set(found["manifest"]["modules"])
    assert sizes["typing"] > 100_000
    assert sizes["filters.sdk.dispatch"] > 10_000
    assert sum(sizes.values()) < found["sections"]["data"]
    page = lateen("inspect", str(module)).stdout
    assert "PYTHON MODULE (part of data)" in page
    assert " others " in page


def test_inspect_refuses_what_is_no_module(tmp_path: Path) -> None:
    (tmp_path / "x.wasm").write_text("no")
    result = lateen("inspect", str(tmp_path / "x.wasm"))
    assert (result.returncode, "not a WebAssembly module" in result.stderr) == (3, True)


def test_build_says_what_cannot_be_built(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("from lateen_filter import HttpFilter\ndef (\n")
    result = lateen("build", str(tmp_path / "broken.py"))
    assert (result.returncode, "broken.py:2:5: invalid syntax" in result.stderr) == (3, True)


def test_the_module_is_small(built: Built) -> None:
    assert len(built.linked.module) < 13_000_000
    assert built.linked.functions_dropped > 1000
