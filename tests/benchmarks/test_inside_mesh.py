"""A variant is measured only when it does what it is measured for, and only its own processes are counted."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks import inside_mesh
from benchmarks.inside_mesh import check_enforcement, gateway_concurrency, mesh_way, wait_for_answer
from benchmarks.load import LoadError, Target
from benchmarks.plain_envoy import application_bootstrap, command, proxy_bootstrap
from benchmarks.processes import Found, Process
from benchmarks.variants import VARIANTS, Variant
from benchmarks.whole_path import MESH
from lateen.envoyapi.envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from lateen.mesh.kubernetes import Deployment
from lateen.mesh.loader import load_paths

BY_NAME = {variant.workload: variant for variant in VARIANTS}
TOKEN = "header.payload.signature"


class Enforcing(BaseHTTPRequestHandler):
    """Refuses as the mesh does; `lax` names what it forgets to refuse."""

    lax = ""
    probes = 0

    def do_GET(self) -> None:
        token = self.headers.get("authorization")
        status = 200
        if (self.path == "/probe/forbidden" and self.lax != "path") or (token is None and self.lax != "no token"):
            status = 403
        elif token not in (None, f"Bearer {TOKEN}") and self.lax != "bad token":
            status = 401
        elif self.path == "/probe/limit" and self.lax != "limit":
            type(self).probes += 1
            status = 200 if self.probes == 1 else 429
        self.send_response(status)
        if status == 403 and self.lax != "engine":
            self.send_header("x-lateen-denial", "0" * 16)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def gateway(lax: str) -> Iterator[Target]:
    handler = type("Handler", (Enforcing,), {"lax": lax, "probes": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            headers = (("x-tenant", "acme"), ("authorization", f"Bearer {TOKEN}"))
            yield Target("127.0.0.1", server.server_port, "all.bench.test", headers=headers)
        finally:
            server.shutdown()
            thread.join()


def test_a_variant_that_refuses_what_it_must_is_measured() -> None:
    with gateway(lax="") as target:
        wait_for_answer(target)
        check_enforcement(BY_NAME["all"], target)


@pytest.mark.parametrize(
    ("lax", "expected"), [("path", 403), ("no token", 403), ("bad token", 401), ("limit", 429)], ids=str
)
def test_a_policy_that_is_not_in_force_aborts(lax: str, expected: int) -> None:
    with gateway(lax) as target, pytest.raises(LoadError, match=f"should have answered {expected}, not 200"):
        check_enforcement(BY_NAME["all"], target)


@pytest.mark.parametrize(("lax", "name"), [("engine", "all"), ("", "jwtnative")])
def test_a_variant_that_another_engine_decides_about_aborts(lax: str, name: str) -> None:
    with gateway(lax) as target, pytest.raises(LoadError, match="enforced by another engine"):
        check_enforcement(BY_NAME[name], target)


def test_a_variant_that_its_own_engine_decides_about_is_measured() -> None:
    with gateway(lax="engine") as target:
        check_enforcement(BY_NAME["jwtnative"], target)


def test_a_variant_that_never_answers_200_aborts_with_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside_mesh, "READY_SECONDS", 0.1)
    with gateway(lax="") as target, pytest.raises(LoadError, match="does not answer 200 but: 403"):
        wait_for_answer(Target(target.address, target.port, target.host))


SERVICES = [
    Process(1, "gateway", "edge-istio-0"),
    Process(2, "ext_authz"),
    Process(3, "rate limit"),
    Process(4, "redis"),
]
REPLICAS = [
    Process(5, "sidecar", "jwt-0"),
    Process(6, "app", "jwt-0"),
    Process(7, "sidecar", "all-0"),
    Process(8, "app", "all-0"),
]


def test_only_the_processes_of_a_variant_are_counted() -> None:
    way = mesh_way(BY_NAME["jwt"], ("127.0.0.1", 80), TOKEN, [*SERVICES, *REPLICAS, Process(9, "other")])
    assert {p.pid for p in way.processes} == {1, 2, 3, 4, 5, 6}
    assert dict(way.target.headers) == {"authorization": f"Bearer {TOKEN}"}


def test_a_process_that_is_not_found_aborts() -> None:
    with pytest.raises(LoadError, match=r"sidecar \(mtls\)"):
        mesh_way(BY_NAME["mtls"], ("127.0.0.1", 80), TOKEN, [*SERVICES, Process(6, "app", "mtls-0")])


def test_the_baseline_gets_as_many_workers_as_the_gateway() -> None:
    found = [Found(1, ("envoy", "--config-path", "220.json", "--concurrency", "3"), {})]
    assert gateway_concurrency(found, SERVICES) == 3
    with pytest.raises(LoadError, match="was not found"):
        gateway_concurrency(found, REPLICAS)


def _names(which: Callable[[Variant], bool]) -> set[str]:
    return {variant.workload for variant in VARIANTS if which(variant)}


def test_every_variant_is_a_workload_of_the_mesh() -> None:
    loaded = load_paths([MESH / "workloads.yaml", MESH / "policies.yaml"])
    assert not loaded.diagnostics
    deployments = [item.resource for item in loaded.resources if isinstance(item.resource, Deployment)]
    assert {d.name for d in deployments} == set(BY_NAME)
    kinds = {(item.resource.kind, item.resource.name) for item in loaded.resources}
    assert {name for kind, name in kinds if kind == "AuthorizationPolicy"} == _names(lambda v: v.authorized)
    assert {name for kind, name in kinds if kind == "RequestAuthentication"} == _names(lambda v: v.token)
    assert {name for kind, name in kinds if kind == "RateLimitPolicy"} == _names(lambda v: v.limited)


@pytest.mark.parametrize(
    "bootstrap", [application_bootstrap("127.0.0.1", 0), proxy_bootstrap("127.0.0.1", 0, ("127.0.0.1", 1))]
)
def test_envoy_accepts_the_plain_configurations(bootstrap: Bootstrap, validate_envoy: Callable[[str], None]) -> None:
    arguments = command(bootstrap, "test", 1)
    config = arguments[arguments.index("--config-yaml") + 1]
    assert json.loads(config)["node"] == {"id": "benchmark", "cluster": "benchmark"}
    validate_envoy(config)
