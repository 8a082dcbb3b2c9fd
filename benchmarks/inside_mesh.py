"""Runs inside `lateen up benchmarks/mesh --exec`: measures every variant of the path against an Envoy of its own, in turns.

`python -m benchmarks.inside_mesh PLAN.json` reads what to do and writes `samples` beside it. Any answer but 200, to any request of any
sample, ends it with a message.
"""

import http.client
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.load import Generator, LoadError, Target, find_generator
from benchmarks.plain_envoy import PlainEnvoy, application_bootstrap, proxy_bootstrap
from benchmarks.processes import Found, Meter, Process, ProcessGoneError, identify, option, processes_with
from benchmarks.statistics import Load, Sample, interleaved
from benchmarks.variants import AUDIENCE, ENVOY_ALONE, ISSUER, TWO_ENVOYS, VARIANTS, Variant
from lateen.clock import SystemClock
from lateen.local.issuer import MintRequest, mint_token
from lateen.local.rundir import RunInfo, live_runs

READY_SECONDS = 15.0
POLL_SECONDS = 0.05
_DENIAL = "x-lateen-denial"
"""The header that ext_authz gives a denial, and Envoy itself does not."""
OK, UNAUTHORIZED, FORBIDDEN, TOO_MANY = 200, 401, 403, 429


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure what."""

    generator: str
    rounds: int
    seconds: float
    warm_up: float
    connections: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to an application: the requests to send, and the processes that work for it."""

    name: str
    target: Target
    processes: tuple[Process, ...]


def main(arguments: Sequence[str]) -> int:
    """Measure; 0 when every sample is good."""
    plan_file = Path(arguments[0])
    raw = json.loads(plan_file.read_text(encoding="utf-8"))
    plan = Plan(**{**raw, "connections": tuple(raw["connections"])})
    try:
        result = measure(plan, current_run())
    except (LoadError, ProcessGoneError) as error:
        sys.stderr.write(f"benchmark aborted: {error}\n")
        return 1
    plan_file.with_name("result.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


def current_run() -> RunInfo:
    """The mesh that started us."""
    control_plane = os.environ["LATEEN_CONTROL_PLANE"]
    for run in live_runs():
        if run.control_plane == control_plane:
            return run
    raise LoadError(f"no running mesh has the control plane {control_plane}")


def measure(plan: Plan, run: RunInfo) -> dict[str, Any]:
    """All samples, in the order they were taken, and under which conditions."""
    generator = find_generator(plan.generator)
    found = processes_with("LATEEN_RUN_ID", run.id, f"{Path(run.logs).parent}/")
    processes = identified(found, run)
    concurrency = gateway_concurrency(found, processes)
    front = urlsplit(run.gateway_url)
    gateway = (str(front.hostname), front.port or 80)
    token = mint_token(Path(run.issuer_keys), MintRequest(ISSUER, "alice", AUDIENCE), SystemClock().now())
    with ExitStack() as stack:
        ways = [
            *plain_ways(stack, gateway[0], concurrency),
            *(mesh_way(v, gateway, token, processes) for v in VARIANTS),
        ]
        for way in ways:
            wait_for_answer(way.target)
        for variant, way in zip(VARIANTS, ways[2:], strict=True):
            check_enforcement(variant, way.target)
        samples = take_samples(plan, generator, ways)
    return {
        "generator": generator.description,
        "concurrency": concurrency,
        "rounds": plan.rounds,
        "seconds": max(plan.seconds, generator.shortest),
        "samples": [sample.as_dict() for sample in samples],
    }


def identified(found: Sequence[Found], run: RunInfo) -> list[Process]:
    """The processes of the run, each with its kind."""
    kinds = {"router": "gateway", "sidecar": "sidecar"}
    envoys = {r.address.rpartition(".")[2]: (kinds.get(r.kind, "other"), r.name) for r in run.replicas}
    return [identify(process, envoys) for process in found if process.pid != os.getpid()]


def gateway_concurrency(found: Sequence[Found], processes: Sequence[Process]) -> int:
    """Worker threads of the gateway's Envoy: the Envoy that it is compared with gets as many."""
    by_pid = {f.pid: f for f in found}
    for process in processes:
        if process.kind == "gateway":
            return int(option(by_pid[process.pid].arguments, "--concurrency", str(os.cpu_count() or 1)))
    raise LoadError("the gateway's Envoy was not found among the processes of the mesh")


def plain_ways(stack: ExitStack, address: str, concurrency: int) -> list[Way]:
    """Envoy in front of an application, without any mesh; and two of them in a row."""
    ports = (18080, 18081, 18082)
    app = stack.enter_context(PlainEnvoy(application_bootstrap(address, ports[0]), "plain-app", 1))
    alone = stack.enter_context(
        PlainEnvoy(proxy_bootstrap(address, ports[1], (address, ports[0])), "alone", concurrency)
    )
    front = stack.enter_context(
        PlainEnvoy(proxy_bootstrap(address, ports[2], (address, ports[1])), "front", concurrency)
    )
    behind = Process(app.pid, "app")
    return [
        Way(ENVOY_ALONE, Target(address, ports[1], "plain.bench.test"), (Process(alone.pid, "gateway"), behind)),
        Way(
            TWO_ENVOYS,
            Target(address, ports[2], "plain.bench.test"),
            (Process(front.pid, "gateway"), Process(alone.pid, "sidecar"), behind),
        ),
    ]


def mesh_way(variant: Variant, gateway: tuple[str, int], token: str, processes: Sequence[Process]) -> Way:
    """The path of a variant through the mesh, with the processes of other variants left out."""
    headers = [("x-tenant", "acme")] if variant.limited else []
    if variant.token:
        headers.append(("authorization", f"Bearer {token}"))
    own = f"{variant.workload}-"
    concerned = tuple(
        p for p in processes if p.kind != "other" and (p.kind not in ("sidecar", "app") or p.name.startswith(own))
    )
    kinds = {p.kind for p in concerned}
    absent = {"gateway", "sidecar", "app", "ext_authz", "rate limit"} - kinds
    if absent:
        raise LoadError(f"not found among the processes of the mesh: {', '.join(sorted(absent))} ({variant.workload})")
    return Way(variant.title, Target(*gateway, variant.host, headers=tuple(headers)), concerned)


def wait_for_answer(target: Target) -> None:
    """Ask until the answer is 200; LoadError with the last answer when time is up."""
    deadline = time.monotonic() + READY_SECONDS
    said = ""
    while time.monotonic() < deadline:
        try:
            status, said = ask(target, target.path, dict(target.headers))
        except (OSError, http.client.HTTPException) as error:
            status, said = 0, f"{type(error).__name__}: {error}"
        if status == OK:
            return
        time.sleep(POLL_SECONDS)
    raise LoadError(f"{target.host} at {target.address}:{target.port} does not answer 200 but: {said}")


def ask(target: Target, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
    """One request: the status, and it all in words."""
    connection = http.client.HTTPConnection(target.address, target.port, timeout=5)
    try:
        connection.request("GET", path, headers={"host": target.host, **headers})
        answer = connection.getresponse()
        body = answer.read(300).decode(errors="replace").strip()
        return answer.status, f"{answer.status} {body} {dict(answer.getheaders())}"
    finally:
        connection.close()


def check_enforcement(variant: Variant, target: Target) -> None:
    """See that a variant does what it is measured for: what must be refused is refused."""
    headers = dict(target.headers)
    cases: list[tuple[str, dict[str, str], int]] = []
    if variant.authorized:
        cases.append(("/probe/forbidden", headers, FORBIDDEN))
    if variant.token:
        cases.append((target.path, {k: v for k, v in headers.items() if k != "authorization"}, FORBIDDEN))
        cases.append(
            (target.path, {**headers, "authorization": headers["authorization"][:-8] + "AAAAAAAA"}, UNAUTHORIZED)
        )
    if variant.limited:
        cases.append(("/probe/limit", headers, OK))
        cases.append(("/probe/limit", headers, TOO_MANY))
    for path, sent, expected in cases:
        status, said = ask(target, path, sent)
        if status != expected:
            raise LoadError(f"{target.host}{path} should have answered {expected}, not {said}")
        if expected == FORBIDDEN and (_DENIAL in said.lower()) is variant.native:
            raise LoadError(f"{target.host} is enforced by another engine than measured: {said}")


def take_samples(plan: Plan, generator: Generator, ways: Sequence[Way]) -> list[Sample]:
    """Every way under every load, the baseline between any two; every second round backwards, against drift."""
    by_name = {way.name: way for way in ways}
    warm = find_generator("python")
    for way in ways:
        for connections in plan.connections:
            _load(warm, way, connections, plan.warm_up)
    order = interleaved([way.name for way in ways if way.name != ENVOY_ALONE], ENVOY_ALONE)
    samples = []
    for number in range(plan.rounds):
        for connections in plan.connections:
            for name in order if number % 2 == 0 else reversed(order):
                way = by_name[name]
                meter = Meter(way.processes)
                meter.start()
                load = _load(generator, way, connections, plan.seconds)
                samples.append(Sample(name, connections, load, meter.stop()))
        sys.stderr.write(f"  round {number + 1} of {plan.rounds}\n")
    return samples


def _load(generator: Generator, way: Way, connections: int, seconds: float) -> Load:
    try:
        return generator.run(way.target, connections, seconds)
    except LoadError as error:
        raise LoadError(f"{way.name.strip()} ({way.target.host}, {connections} connections): {error}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
