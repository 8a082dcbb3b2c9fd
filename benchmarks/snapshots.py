"""Configuration of proxies in a mesh of 100 and 1,000 services: time and bytes, against translating every proxy by itself."""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from benchmarks.report import Section, Table, number, with_range
from benchmarks.statistics import Spread, spread
from lateen.controlplane.proxy import Proxy, ProxyType
from lateen.controlplane.snapshot import Memo, Snapshot, snapshot_for
from lateen.mesh.loader import load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView

_P = ParamSpec("_P")
_T = TypeVar("_T")

SIZES = (100, 1000)
NAMESPACES = 10
REPLICAS = 2
SIDECARS = 8
SHARED, ALONE = "shared", "alone"
MESH = """\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 8080}}]
"""
ENTRY = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}-{replica}, namespace: {namespace}}}
spec: {{address: {address}, serviceAccount: {name}, labels: {{app: {name}, version: v{replica}}}}}
"""
ROUTES = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  host: {name}.{namespace}.svc.cluster.local
  subsets: [{{name: v0, labels: {{version: v0}}}}, {{name: v1, labels: {{version: v1}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  hosts: [{name}.{namespace}.svc.cluster.local]
  http:
    - match: [{{headers: {{x-cohort: {{exact: canary}}}}}}]
      route: [{{destination: {{host: {name}, subset: v1}}}}]
    - route:
        - {{destination: {{host: {name}, subset: v0}}, weight: 90}}
        - {{destination: {{host: {name}, subset: v1}}, weight: 10}}
"""


@dataclass(frozen=True, slots=True)
class _Service:
    name: str
    namespace: str
    addresses: tuple[str, ...]


def services(count: int) -> list[_Service]:
    """Names and addresses of a mesh: ten namespaces, two replicas each."""
    made = []
    for index in range(count):
        first = index * REPLICAS
        addresses = tuple(f"10.1.{(first + r) // 250}.{(first + r) % 250 + 1}" for r in range(REPLICAS))
        made.append(_Service(f"service-{index}", f"team-{index % NAMESPACES}", addresses))
    return made


def documents(mesh: list[_Service]) -> Iterator[str]:
    """Its YAML: every fifth service has a DestinationRule with subsets and a VirtualService."""
    for index, service in enumerate(mesh):
        names = {"name": service.name, "namespace": service.namespace}
        yield MESH.format(**names)
        for replica, address in enumerate(service.addresses):
            yield ENTRY.format(**names, replica=replica, address=address)
        if index % 5 == 0:
            yield ROUTES.format(**names)


def proxies(mesh: list[_Service]) -> list[Proxy]:
    """A sidecar for each replica."""
    return [
        Proxy(
            id=f"sidecar~{address}~{s.name}-{replica}.{s.namespace}~{s.namespace}.svc.cluster.local",
            type=ProxyType.SIDECAR,
            name=f"{s.name}-{replica}",
            namespace=s.namespace,
            address=address,
            app_address=address,
            labels={"app": s.name, "version": f"v{replica}"},
            service_account=s.name,
            workload_name=f"{s.name}-{replica}",
        )
        for s in mesh
        for replica, address in enumerate(s.addresses)
    ]


def measure(*, quick: bool) -> Section:
    """Load, index and translate; AssertionError when sharing changes a snapshot."""
    time_rows, size_rows = [], []
    data: dict[str, Any] = {}
    for count in SIZES[:1] if quick else SIZES:
        figures = _measure_size(count, rounds=2 if quick else 3)
        times: dict[str, Spread] = figures["times"]
        ratio = times[SHARED].median / times[ALONE].median
        shown = (with_range(times[name]) for name in ("load", "view", ALONE, SHARED))
        time_rows.append((f"{count} services", *shown, number(ratio)))
        sizes: dict[str, float] = figures["sizes"]
        size_rows.append(
            (f"{count} services", *(number(sizes[k]) for k in ("resources", "bytes", "per_proxy", "ratio")))
        )
        data[str(count)] = {"times_ms": {k: v.as_dict() for k, v in times.items()}, "ratio": ratio, "sizes": sizes}
    tables = (
        Table(("CPU ms", "load YAML", "index", "snapshot alone", "snapshot, shared", "ratio"), tuple(time_rows)),
        Table(("", "resources a proxy", "bytes a proxy", "bytes a proxy, shared", "ratio"), tuple(size_rows)),
    )
    notes = (
        f"{REPLICAS} replicas a service, {NAMESPACES} namespaces, every fifth with subsets and routes; a sidecar sees the whole mesh",
        "alone: the snapshot of one sidecar translated by itself; median (min..max)",
        "shared: a further sidecar of a control plane that has begun: what proxies have in common is translated and encoded once",
        f"bytes a proxy, shared: distinct bytes that the control plane holds for {SIDECARS} sidecars, divided by their number",
    )
    return Section("snapshots", "configuration of a sidecar, against translating each by itself", tables, notes, data)


def _measure_size(count: int, rounds: int) -> dict[str, Any]:
    mesh = services(count)
    text = "---\n".join(documents(mesh))
    some = proxies(mesh)[:: max(1, count * REPLICAS // SIDECARS)][:SIDECARS]
    times: dict[str, list[float]] = {"load": [], "view": [], ALONE: [], SHARED: []}
    sizes: dict[str, float] = {}
    for _ in range(rounds):
        spent, loaded = _timed(load_text, text, "benchmark.yaml")
        times["load"].append(spent)
        errors = [d for d in loaded.diagnostics if d.severity == "error"]
        assert not errors, errors[:3]
        spent, view = _timed(MeshView.build, loaded.resources, MeshConfig())
        times["view"].append(spent)
        memo = Memo()
        snapshot_for(view, some[0], memo)
        held: list[Snapshot] = [snapshot_for(view, some[0], memo)]
        for proxy in some[1:]:
            spent, shared = _timed(snapshot_for, view, proxy, memo)
            times[SHARED].append(spent)
            held.append(shared)
        spent, alone = _timed(snapshot_for, view, some[-1], None)
        times[ALONE].append(spent)
        assert alone.version == held[-1].version
        sizes = _sizes(held)
    return {"times": {name: spread(values) for name, values in times.items()}, "sizes": sizes}


def _timed(work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> tuple[float, _T]:
    gc.collect()
    start = time.process_time()
    result = work(*arguments, **named)
    return (time.process_time() - start) * 1e3, result


def _sizes(held: list[Snapshot]) -> dict[str, float]:
    everything = [blob for snapshot in held for named in snapshot.resources.values() for blob in named.values()]
    total = sum(len(blob.data) for blob in everything)
    distinct = sum(len(blob.data) for blob in {id(blob): blob for blob in everything}.values())
    return {
        "resources": len(everything) / len(held),
        "bytes": total / len(held),
        "per_proxy": distinct / len(held),
        "ratio": distinct / total,
    }
