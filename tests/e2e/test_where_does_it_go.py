"""What `explain route` says is what a real Envoy does: every matcher is asked of both."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lateen.controlplane import names
from lateen.controlplane.proxy import Mode, Proxy, ProxyType
from lateen.controlplane.simulate import Request, take_route
from lateen.controlplane.snapshot import snapshot_for
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.mesh.loader import load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView
from lateen.policy.paths import normalized_path
from tests.e2e.client import Client
from tests.e2e.running import RunningMesh, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]
HOST = "ledger.legacy-system.svc.cluster.local:8080"
PATHS = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/ab",
    "/A/b",
    "/a?x=1",
    "/a?x=",
    "/a?x",
    "/a?y=1&x=2&x=1",
    "/a?x=%31",
    "/a%2Fb",
    "/a//b",
    "/a/./b",
]
HEADERS: list[dict[str, str]] = [{}, {"x-h": "v1"}, {"x-h": "v12"}, {"x-h": ""}, {"x-h": "V1"}, {"x-g": "v1"}]
MATCHES: list[dict[str, Any]] = [
    {"uri": {"exact": "/a"}},
    {"uri": {"exact": "/a"}, "ignoreUriCase": True},
    {"uri": {"prefix": "/a"}},
    {"uri": {"prefix": "/A/"}, "ignoreUriCase": True},
    {"uri": {"regex": "/a(/.*)?"}},
    {"uri": {"regex": "/[a-z]b?"}},
    {"queryParams": {"x": {"exact": "1"}}},
    {"queryParams": {"x": {"regex": "[0-9]+"}}},
    {"queryParams": {"x": {"prefix": "1"}}},
    {"queryParams": {"x": {}}},
    {"headers": {"x-h": {"exact": "v1"}}},
    {"headers": {"x-h": {"prefix": "v1"}}},
    {"headers": {"x-h": {"regex": "v[0-9]"}}},
    {"headers": {"x-h": {}}},
    {"withoutHeaders": {"x-h": {"exact": "v1"}}},
    {"withoutHeaders": {"x-h": {"regex": "v.*"}}},
    {"withoutHeaders": {"x-h": {}}},
    {"headers": {"x-h": {"exact": "v1"}}, "uri": {"prefix": "/a/"}},
    {"method": {"exact": "POST"}},
    {"method": {"regex": "GET|PUT"}},
    {"authority": {"prefix": "ledger."}},
    {"authority": {"exact": "other"}},
    {"scheme": {"exact": "http"}},
    {"scheme": {"exact": "https"}},
]
FIRST = 210


def _rules() -> Iterator[dict[str, Any]]:
    """Each match is asked alone: only of requests that carry its number."""
    for number, match in enumerate(MATCHES):
        headers = {"x-case": {"exact": str(number)}, **match.get("headers", {})}
        yield {"match": [{**match, "headers": headers}], "directResponse": {"status": FIRST + number}}
    yield {"directResponse": {"status": 299}}


def _documents() -> str:
    virtual_service = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "matchers", "namespace": "legacy-system"},
        "spec": {"hosts": ["ledger"], "http": list(_rules())},
    }
    return json.dumps(virtual_service)


def _configuration(mesh: RunningMesh) -> route_pb2.RouteConfiguration:
    text = (mesh.directory / "workloads.yaml").read_text() + "\n---\n" + _documents()
    view = MeshView.build(load_text(text, "x.yaml").resources, MeshConfig())
    proxy = Proxy("x", ProxyType.SIDECAR, "orders-0", "orders", "127.0.0.1", mode=Mode.NONE)
    blob = snapshot_for(view, proxy).resources[names.RDS][names.HTTP_PROXY_ROUTES]
    return route_pb2.RouteConfiguration.FromString(blob.data)


def _foretold(configuration: route_pb2.RouteConfiguration, method: str, path: str, headers: dict[str, str]) -> int:
    normalized = normalized_path(path, "DEFAULT")
    assert normalized is not None
    bare, question, query = path.partition("?")
    route = take_route(configuration, Request(method, HOST, normalized + question + query, headers)).route
    assert route is not None, bare
    return route.direct_response.status


def test_every_matcher_means_the_same_to_envoy(mesh: RunningMesh) -> None:
    file = mesh.directory / "matchers.json"
    file.write_text(_documents())
    client, proxy = Client(mesh.proxy("orders")), mesh.proxy("orders")
    differences, asked = [], 0
    try:
        until(lambda: Client(proxy).call("GET", f"http://{HOST}/").status == 299)
        configuration = _configuration(mesh)
        for number in range(len(MATCHES)):
            for method, path, more in _questions():
                headers = {"x-case": str(number), **more}
                asked += 1
                status = client.call(method, f"http://{HOST}{path}", headers).status
                foretold = _foretold(configuration, method, path, headers)
                if status != foretold:
                    differences.append((MATCHES[number], method, path, more, status, foretold))
    finally:
        file.unlink()
    assert not differences
    assert asked == len(MATCHES) * (len(PATHS) + len(HEADERS) + 1)
    until(lambda: Client(proxy).call("GET", f"http://{HOST}/").status == 200)


def _questions() -> Iterator[tuple[str, str, dict[str, str]]]:
    yield from (("GET", path, {"x-h": "v1"}) for path in PATHS)
    yield from (("GET", "/a/b?x=1", headers) for headers in HEADERS)
    yield "POST", "/a", {}


def test_the_running_mesh_is_explained_to_its_endpoints(mesh: RunningMesh) -> None:
    url = "http://payments-api.payments:8080/v1/charge"
    line = [sys.executable, "-m", "lateen.cli.main", "explain", "route", "GET", url, "--from", "orders"]
    line += ["-H", "x-test-cohort=canary", "-o", "json", "--control-plane", mesh.info.control_plane]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    (target,) = found["destinations"]
    assert set(target["endpoints"]) == {f"{mesh.replica(f'payments-api-v2-{i}').address}:8080" for i in (0, 1)}
    assert found["rules"][0]["position"].startswith(str(mesh.directory / "traffic-canary-payments.yaml:"))
