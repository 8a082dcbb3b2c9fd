"""The command: which benchmarks to run, and where the results go."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.load import LoadError
from benchmarks.report import Section, render_section
from lateen.envoy_binary import envoy_path

# Small ones first: what they need of memory and files is gone when the mesh runs.
MODULES = {
    "decisions": "decisions",
    "checks": "checks",
    "counting": "counting",
    "snapshots": "snapshots",
    "wire": "wire",
    "filters": "filters",
    "path": "whole_path",
}


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure what Lateen costs, as ratios to a baseline in the same run. About 4 minutes.",
        epilog="decisions: authorization decision; checks: a whole Check of the authorization service; "
        "counting: rate limit counters in Redis; snapshots: configuration of a proxy; "
        "wire: a gRPC call on our server and on grpcio's; "
        "filters: filters in Envoy, none, Lua and Python; "
        "path: client, gateway, sidecar, application through real Envoys",
    )
    made.add_argument("--quick", action="store_true", help="short samples, for seeing that it works (under 30 s)")
    made.add_argument(
        "--only", nargs="+", choices=tuple(MODULES), default=list(MODULES), metavar="NAME", help="of: %(choices)s"
    )
    made.add_argument(
        "--generator", choices=("auto", "wrk", "python"), default="auto", help="load generator (auto: wrk if installed)"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write every figure and the conditions there")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 1 when a benchmark had to be given up."""
    options = parser().parse_args(arguments)
    sections: list[Section] = []
    failures = 0
    started = time.monotonic()
    host = describe_host()
    print(", ".join(f"{name} {value}" for name, value in host.items()), flush=True)
    for name in options.only:
        sys.stderr.write(f"measuring {name} ...\n")
        try:
            section = _measure(name, quick=options.quick, generator=options.generator)
        except Exception as error:  # noqa: BLE001 - one benchmark that fails must not hide the others
            failures += 1
            sys.stderr.write(f"{name}: given up: {type(error).__name__}: {error}\n")
            continue
        sections.append(section)
        print(f"\n{render_section(section)}", flush=True)
    print(f"\n{time.monotonic() - started:.0f} s")
    if options.json:
        found = {section.name: section.data for section in sections}
        result: dict[str, Any] = {"host": host, "quick": options.quick, "benchmarks": found}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if failures else 0


def _measure(name: str, *, quick: bool, generator: str) -> Section:
    measure: Callable[..., Section] = import_module(f"benchmarks.{MODULES[name]}").measure
    return measure(quick=quick, generator=generator) if name == "path" else measure(quick=quick)


def describe_host() -> dict[str, str]:
    """What the figures depend on."""
    try:
        answer = subprocess.run(
            [envoy_path(), "--version"], capture_output=True, text=True, check=False, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise LoadError(f"envoy cannot be run: {error}") from error
    envoy = next((part for part in answer.split("/") if part[:1].isdigit() and part.count(".") == 2), "unknown")
    return {
        "CPUs": str(os.cpu_count()),
        "CPython": platform.python_version(),
        "Envoy": envoy,
        "Linux": platform.release(),
        "load": f"{os.getloadavg()[0]:.2f}",
    }
