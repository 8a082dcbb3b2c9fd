"""The whole path against Envoy alone: starts the mesh in `mesh/`, has it measured from inside, and makes tables of the samples."""

import json
import os
import shlex
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.load import find_generator
from benchmarks.processes import ELSEWHERE
from benchmarks.report import Section, Table, number, with_range
from benchmarks.statistics import Sample, Spread, paired, spread
from benchmarks.variants import ENVOY_ALONE, TWO_ENVOYS, VARIANTS
from lateen.local.up import run

MESH = Path(__file__).with_name("mesh")
CONNECTIONS = (1, 16)
START_SECONDS = 60.0
KINDS = ("gateway", "sidecar", "app", "ext_authz", "rate limit", "redis")
NAMES = (ENVOY_ALONE, TWO_ENVOYS, *(variant.title for variant in VARIANTS))


class MeshFailedError(Exception):
    """The mesh did not start, or a sample was bad; the reason has been printed."""


def measure(*, quick: bool, generator: str) -> Section:
    """Start, measure, stop. About 100 s (`quick`: 15 s)."""
    if quick and generator == "auto":
        generator = "python"  # wrk cannot run for less than a second
    find_generator(generator)
    plan = {
        "generator": generator,
        "rounds": 1 if quick else 4,
        "seconds": 0.3 if quick else 1.0,
        "warm_up": 0.15 if quick else 0.3,
        "connections": CONNECTIONS,
    }
    with tempfile.TemporaryDirectory(prefix="lateen-bench-") as folder:
        plan_file = Path(folder, "plan.json")
        plan_file.write_text(json.dumps(plan), encoding="utf-8")
        command = shlex.join([sys.executable, "-m", "benchmarks.inside_mesh", str(plan_file)])
        root = shlex.quote(str(MESH.parent.parent))
        status = run(MESH, exec_command=f"cd {root} && exec {command}", mode="loopback", timeout=START_SECONDS)
        if status:
            raise MeshFailedError(f"`lateen up {MESH} --exec ...` ended with status {status}")
        result = json.loads(plan_file.with_name("result.json").read_text(encoding="utf-8"))
    return section(result)


def section(result: Mapping[str, Any]) -> Section:
    """Tables of what `inside_mesh` brought back."""
    samples = [Sample.from_dict(raw) for raw in result["samples"]]
    tables, data = [], {}
    for connections in CONNECTIONS:
        own = [s for s in samples if s.connections == connections]
        rows = summaries(own)
        data[f"{connections} connections"] = rows
        tables.append(latency_table(rows) if connections == 1 else throughput_table(connections, rows))
        tables.append(cpu_table(connections, rows))
    elsewhere = spread(s.cpu.get(ELSEWHERE, 0.0) / s.load.seconds / (os.cpu_count() or 1) for s in samples)
    notes = (
        f"load: {result['generator']}; {result['rounds']} rounds of {result['seconds']} s a sample, median (min..max)",
        f"{ENVOY_ALONE}: one Envoy with only the router, plaintext, before the same kind of application",
        "it is measured before and after every other sample: ratios are to the mean of these two",
        f"every Envoy of the path runs --concurrency {result['concurrency']}; load and all processes share {os.cpu_count()} CPUs:",
        "so requests/s say what all of them cost together, not what one gateway could do on a machine of its own",
        "CPU: us a request, from /proc/PID/stat; every hop to the Python services is mutual TLS",
        f"everything else on this machine used {elsewhere.median:.0%} of its CPUs meanwhile ({elsewhere.low:.0%}..{elsewhere.high:.0%})",
    )
    title = "whole path: client, gateway, sidecar, application; against Envoy alone"
    return Section("whole path", title, tuple(tables), notes, {**result, "summary": data})


def summaries(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """For each variant the spreads of everything measured, and the medians of CPU."""
    pairs = paired(samples, ENVOY_ALONE)
    found: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        own = [s for s in samples if s.variant == name]
        around = [p for p in pairs if p.sample.variant == name]
        figures = {
            "rate": spread(s.load.rate for s in own),
            "p50_us": spread(s.load.p50 for s in own),
            "p99_us": spread(s.load.p99 for s in own),
        }
        if around:
            figures |= {
                "rate_ratio": spread(p.rate_ratio for p in around),
                "p50_ratio": spread(p.p50_ratio for p in around),
                "p99_ratio": spread(p.p99_ratio for p in around),
                "added_p50_us": spread(p.added_p50 for p in around),
                "added_p99_us": spread(p.added_p99 for p in around),
            }
        cpu = {kind: statistics.median(s.cpu_per_request(kind) for s in own) for kind in KINDS}
        found[name] = {**{k: v.as_dict() for k, v in figures.items()}, "cpu_us_per_request": cpu}
    return found


def latency_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """One connection: what the path adds."""
    columns = ("1 connection", "p50 us", "added p50 us", "ratio", "p99 us", "added p99 us", "ratio")
    keys = ("p50_us", "added_p50_us", "p50_ratio", "p99_us", "added_p99_us", "p99_ratio")
    return Table(columns, tuple((name, *(_cell(row, key) for key in keys)) for name, row in rows.items()))


def throughput_table(connections: int, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Many connections: what is left of the throughput."""
    columns = (f"{connections} connections", "requests/s", "ratio to Envoy alone", "p50 us", "p99 us")
    keys = ("rate", "rate_ratio", "p50_us", "p99_us")
    return Table(columns, tuple((name, *(_cell(row, key) for key in keys)) for name, row in rows.items()))


def cpu_table(connections: int, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """CPU a request of each kind of process."""
    columns = (f"CPU us a request, {connections} conn.", *KINDS, "sum", "ratio")
    alone = sum(rows[ENVOY_ALONE]["cpu_us_per_request"].values())
    lines = []
    for name, row in rows.items():
        cpu = row["cpu_us_per_request"]
        total = sum(cpu.values())
        shown = (number(cpu[kind]) if cpu[kind] else "-" for kind in KINDS)
        lines.append((name, *shown, number(total), number(total / alone) if alone else "-"))
    return Table(columns, tuple(lines))


def _cell(row: Mapping[str, Any], key: str) -> str:
    from_json = row.get(key)
    if from_json is None:
        return "1" if key.endswith("ratio") else "-"
    if key in ("p50_us", "p99_us"):
        return number(from_json["median"])
    return with_range(Spread(from_json["median"], from_json["min"], from_json["max"]))
