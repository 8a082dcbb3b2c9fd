"""Every filter of the library in the payments mesh, at the gateway and in a sidecar: one module, ten plugins at each."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from filters.library import catalog
from filters.library.ab_testing import Variant, hash_of, variant_of
from filters.library.http_signatures import SignatureInput, Target, signed_headers
from filters.library.request_id import RequestId
from filters.library.trace_headers import parse_parent
from filters.testing.building import module_of
from lateen_filter.testing.plugin import CACHE
from tests.e2e.client import Answer, call
from tests.e2e.running import RunningMesh, replace_file, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]
PATIENCE = 180.0  # the module is built, tried and compiled in seconds, and in many of them on a busy machine
LEDGER = "http://ledger.legacy-system.svc.cluster.local:8080"
SECRET = b"0123456789abcdef0123456789abcdef"
PLACES = ("gateway", "sidecar")
# In the order in which requests meet them.
CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "access-log": {"entries": {"where": "{header:x-where}", "status": "{status}", "what": "{method} {path}", "auth": "{header:authorization}"}},
    "request-id": {"header": "x-correlation-id", "keep": "never"},
    "trace-context": {"stateKey": "lateen", "stateValue": "e2e"},
    "waf": {"exclusions": [{"paths": ["/v1/free"]}]},
    "maintenance-mode": {"paths": ["/v1/closed"], "message": "Back soon"},
    "api-key": {"keys": [{"consumer": "shop", "sha256": hashlib.sha256(b"a-key").hexdigest()}], "allowMissing": True},
    "hmac-signature": {
        "keys": [{"id": "till", "secret": base64.b64encode(SECRET).decode()}],
        "covers": ["@method", "@path", "@query"],
        "consumerHeader": "x-signer",
        "exceptPaths": ["/v1/charge", "/v1/old", "/v1/closed", "/v1/free"],
    },
    "rewrite": {"rules": [{"rewritePrefix": {"prefix": "/v1/old", "replacement": "/v1/charge"}, "response": [{"action": "set", "name": "x-was", "value": "{path}"}]}]},
    "ab-testing": {"experiment": "e2e", "variants": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}], "keys": [{"kind": "header", "name": "x-user"}]},
    "pii-redaction": {"fieldsToMask": ["authorization"], "mask": "#"},
}  # fmt: skip
TARGETS: Mapping[str, Mapping[str, Any]] = {
    "gateway": {"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "payments-gateway"}]},
    "sidecar": {"selector": {"matchLabels": {"app": "ledger"}}, "match": [{"mode": "SERVER"}]},
}
NAMESPACES = {"gateway": "payments", "sidecar": "legacy-system"}


def _plugin(name: str, place: str, priority: int) -> dict[str, Any]:
    return {
        "apiVersion": "extensions.istio.io/v1alpha1",
        "kind": "WasmPlugin",
        "metadata": {"name": f"{name}-{place}", "namespace": NAMESPACES[place]},
        "spec": {
            **TARGETS[place],
            "url": "file://library/library.wasm",
            "pluginName": name,
            "phase": "AUTHN",  # before authorization, which answers for itself
            "priority": priority,
            "pluginConfig": CONFIGURATIONS[name],
        },
    }


@pytest.fixture(scope="module")
def filtered(mesh: RunningMesh, pytestconfig: pytest.Config) -> Iterator[RunningMesh]:
    """The mesh with all filters at both places."""
    directory: Path = mesh.directory / "library"
    directory.mkdir()
    module = module_of(RequestId, "library:all", pytestconfig.cache.mkdir(CACHE))
    (directory / "library.wasm").write_bytes(module.read_bytes())
    plugins = [
        _plugin(name, place, len(CONFIGURATIONS) - number)
        for place in PLACES
        for number, name in enumerate(CONFIGURATIONS)
    ]
    file = mesh.directory / "library.yaml"
    replace_file(file, yaml.safe_dump_all(plugins, sort_keys=False))
    until(lambda: _ready(mesh, {plugin["metadata"]["name"] for plugin in plugins}), PATIENCE, "all plugins are ready")
    # Envoy says that it has taken a plugin a moment before its workers have it.
    until(lambda: not any("is not available" in answer.text for answer in _answers(mesh)), PATIENCE, "and in effect")
    yield mesh
    file.unlink()
    until(lambda: not _states(mesh) and mesh.settled(), PATIENCE, "the mesh is without plugins again")


def _answers(mesh: RunningMesh) -> tuple[Answer, Answer]:
    return call("GET", f"{mesh.gateway}/v1/charge"), call("GET", f"{LEDGER}/v1/charge", proxy=mesh.proxy("orders"))


def _states(mesh: RunningMesh) -> dict[str, str]:
    return {entry["name"]: entry["state"] for entry in mesh.api("/v1/plugins")["plugins"]}


def _ready(mesh: RunningMesh, names: set[str]) -> bool:
    states = _states(mesh)
    assert "FAILED" not in states.values(), mesh.output
    return names <= {name for name, state in states.items() if state == "READY"} and mesh.settled()


Send = Callable[..., Answer]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    """Where the filters are."""
    return str(request.param)


@pytest.fixture
def send(filtered: RunningMesh, place: str) -> Send:
    """Sends a GET through the filters to an application that says what it got."""

    def at_gateway(path: str = "/v1/charge", headers: Mapping[str, str] | None = None) -> Answer:
        return call("GET", filtered.gateway + path, {**filtered.bearer(), **(headers or {})})

    def at_sidecar(path: str = "/v1/charge", headers: Mapping[str, str] | None = None) -> Answer:
        return call("GET", LEDGER + path, headers, proxy=filtered.proxy("orders"))

    return at_gateway if place == "gateway" else at_sidecar


def test_all_of_the_library_is_here() -> None:
    assert CONFIGURATIONS.keys() == catalog().keys()


def test_ten_filters_of_one_module_are_one_machine(filtered: RunningMesh) -> None:
    """One for each worker, besides the main thread's and the one that they are cloned from; two more are the agent's own (wasm_noop)."""
    for address in (filtered.replica("ledger-0").address, filtered.replica("payments-gateway-istio-0").address):
        until(partial(_is_one_machine, address), 60, "one machine")


def _is_one_machine(address: str) -> bool:
    text = call("GET", f"http://{address}:15000/stats?filter=wasm.envoy.wasm.runtime.v8.active").text
    return 3 <= int(text.rpartition(": ")[2]) <= 5


def test_access_log(filtered: RunningMesh, place: str, send: Send) -> None:
    assert send(headers={"x-where": f"at the {place}"}).status == 200
    replica = "payments-gateway-istio-0" if place == "gateway" else "ledger-0"
    found = until(
        lambda: re.findall(rf'\{{[^{{}}]*"where": "at the {place}"[^{{}}]*\}}', filtered.log(f"{replica}.envoy")), 20
    )
    line = json.loads(found[0])
    assert (line["status"], line["what"]) == (200, "GET /v1/charge")
    assert line["auth"] == ("[redacted]" if place == "gateway" else None)


def test_request_id(send: Send) -> None:
    answer = send(headers={"x-correlation-id": "mine"})
    given = answer.headers["x-correlation-id"]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", given)
    if answer.json["workload"] == "ledger":
        assert answer.json["headers"]["x-correlation-id"] == given


def test_trace_context(send: Send) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    kept = send(headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01", "tracestate": "a=1"}).json["headers"]
    assert kept["traceparent"].split("-")[1] == trace
    assert kept["tracestate"] == "lateen=e2e,a=1"
    begun = parse_parent(
        [send(headers={"traceparent": f"00-{trace}-0000000000000000-01"}).json["headers"]["traceparent"]]
    )
    assert begun is not None
    assert begun.trace_id != trace


def test_waf(send: Send) -> None:
    refused = send("/v1/charge?q=%3Cscript%3E")
    assert (refused.status, refused.json) == (403, {"error": "the request was refused"})
    assert send("/v1/free?q=%3Cscript%3E").status == 200
    assert send("/v1/charge?q=script").status == 200


def test_maintenance_mode(send: Send) -> None:
    answer = send("/v1/closed/now")
    assert (answer.status, answer.json, answer.headers["retry-after"]) == (503, {"error": "Back soon"}, "300")
    assert "Back soon" in send("/v1/closed", {"accept": "text/html"}).text


def test_api_key(send: Send) -> None:
    seen = send(headers={"x-api-key": "a-key", "x-consumer": "root"}).json["headers"]
    assert seen["x-consumer"] == "shop"
    assert "x-api-key" not in seen
    assert send(headers={"x-api-key": "another"}).status == 401
    assert "x-consumer" not in send(headers={"x-consumer": "root"}).json["headers"]


def test_hmac_signature(send: Send) -> None:
    assert send("/v1/signed").json == {"error": "a signature is needed"}
    parts = urlsplit("/v1/signed?a=1")
    signed = SignatureInput(
        ("@method", "@path", "@query"), {"created": int(time.time()), "keyid": "till", "nonce": str(time.time_ns())}
    )
    headers = signed_headers(SECRET, Target("GET", "http", "", parts.geturl()), {}, signed)
    assert send("/v1/signed?a=2", headers).json == {"error": "the signature is wrong"}
    answer = send("/v1/signed?a=1", headers)
    assert (answer.status, answer.json["headers"]["x-signer"]) == (200, "till")
    assert send("/v1/signed?a=1", headers).json == {"error": "the request was sent before"}


def test_rewrite(send: Send) -> None:
    answer = send("/v1/old/1?a=1")
    assert (answer.status, answer.json["path"], answer.headers["x-was"]) == (200, "/v1/charge/1?a=1", "/v1/old/1")


def test_ab_testing(send: Send) -> None:
    variants = [Variant(name="a", weight=1), Variant(name="b", weight=1)]
    expected = {user: variant_of(hash_of("e2e", user), variants) for user in ("u1", "u2", "u3", "u4", "u5", "u6")}
    assert set(expected.values()) == {"a", "b"}
    assert {
        user: send(headers={"x-user": user, "x-variant": "z"}).json["headers"]["x-variant"] for user in expected
    } == expected


def test_pii_redaction(send: Send) -> None:
    answer = send(
        headers={
            "x-mail": "to bob@example.com",
            "x-card": "4111 1111 1111 1111",
            "x-near": "4111 1111 1111 1112",
            "accept-encoding": "gzip",
        }
    )
    seen = answer.json["headers"]
    assert (seen["x-mail"], seen["x-card"], seen["x-near"]) == ("to #", "#", "4111 1111 1111 1112")
    assert seen.get("authorization", "#") == "#"
    assert "accept-encoding" not in seen
