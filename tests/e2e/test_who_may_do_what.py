"""Every rule of the example's policies, with its near misses."""

import base64
import json
from datetime import timedelta

import pytest

from tests.e2e.client import Answer, call
from tests.e2e.running import CHARGE, RunningMesh, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]
BASE = CHARGE.removesuffix("/v1/charge")


def _is_denied(answer: Answer) -> None:
    assert answer.status == 403
    assert answer.text == "RBAC: access denied"
    assert len(answer.headers["x-lateen-denial"]) >= 8
    assert "policy" not in json.dumps(dict(answer.headers)), "which policy denied is not the client's business"


@pytest.mark.usefixtures("fresh_window")
@pytest.mark.parametrize(
    ("caller", "request_line", "headers", "allowed"),
    [
        pytest.param("orders", "POST /v1/charge", {"x-tenant": "acme"}, True, id="the rule"),
        pytest.param("orders", "POST /v1/charge", {"x-tenant": "globex"}, True, id="the other tenant"),
        pytest.param("orders", "POST /v1/charge?x=1", {"x-tenant": "acme"}, True, id="a query is not part of the path"),
        pytest.param("orders", "POST /v1/charge", {}, False, id="no tenant"),
        pytest.param("orders", "POST /v1/charge", {"x-tenant": "initech"}, False, id="unknown tenant"),
        pytest.param("orders", "POST /v1/charge", {"x-tenant": "ACME"}, False, id="values are case-sensitive"),
        pytest.param("orders", "POST /v1/refund", {"x-tenant": "acme"}, False, id="other path"),
        pytest.param("orders", "POST /v1/charge/", {"x-tenant": "acme"}, False, id="a slash more"),
        pytest.param("orders", "PUT /v1/charge", {"x-tenant": "acme"}, False, id="other method"),
        pytest.param("orders", "GET /v1/charge", {"x-tenant": "acme"}, False, id="reading needs a token"),
        pytest.param("ledger", "POST /v1/charge", {"x-tenant": "acme"}, False, id="other service account"),
        pytest.param("payments-api-v1", "POST /v1/charge", {"x-tenant": "acme"}, False, id="the service itself"),
    ],
)
def test_only_orders_may_charge(
    mesh: RunningMesh, caller: str, request_line: str, headers: dict[str, str], allowed: bool
) -> None:
    method, _, path = request_line.partition(" ")
    answer = call(method, f"{BASE}{path}", headers, proxy=mesh.proxy(caller))
    if allowed:
        assert answer.status == 200
    else:
        _is_denied(answer)


def test_a_valid_token_may_read(mesh: RunningMesh) -> None:
    assert call("GET", f"{mesh.gateway}/v1/charge", mesh.bearer()).status == 200


def test_a_valid_token_may_not_write(mesh: RunningMesh) -> None:
    _is_denied(call("POST", f"{mesh.gateway}/v1/charge", {**mesh.bearer(), "x-tenant": "acme"}))


def test_without_a_token_nothing_is_read(mesh: RunningMesh) -> None:
    _is_denied(call("GET", f"{mesh.gateway}/v1/charge"))


@pytest.mark.parametrize(
    "claims", [{}, {"scope": "payments:write"}, {"scope": "payments:read:all"}, {"scp": "payments:read"}], ids=str
)
def test_the_scope_must_be_right(mesh: RunningMesh, claims: dict[str, str]) -> None:
    _is_denied(call("GET", f"{mesh.gateway}/v1/charge", mesh.bearer(mesh.token(claims))))


def test_a_space_separated_scope_counts_as_several(mesh: RunningMesh) -> None:
    token = mesh.token({"scope": "openid payments:read"})
    assert call("GET", f"{mesh.gateway}/v1/charge", mesh.bearer(token)).status == 200


def test_invalid_tokens_are_401(mesh: RunningMesh) -> None:
    good = mesh.token()
    header, payload, signature = good.split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).rstrip(b"=").decode()
    other = payload[:-2] + ("AA" if payload[-2:] != "AA" else "BB")
    bad = {
        "expired": mesh.token(ttl=timedelta(seconds=-300)),
        "wrong audience": mesh.token(audience="ledger"),
        "unknown issuer": mesh.token(issuer="https://evil.corp.com"),
        "tampered payload": f"{header}.{other}.{signature}",
        "tampered signature": f"{header}.{payload}.{'A' * len(signature)}",
        "alg none": f"{none}.{payload}.",
        "not a token": "abc",
    }
    statuses = {
        name: call("GET", f"{mesh.gateway}/v1/charge", mesh.bearer(token)).status for name, token in bad.items()
    }
    assert statuses == dict.fromkeys(bad, 401)


def test_an_invalid_token_is_refused_even_where_none_is_needed(mesh: RunningMesh) -> None:
    headers = {"x-tenant": "acme", "authorization": "Bearer abc"}
    assert call("POST", CHARGE, headers, proxy=mesh.proxy("orders")).status == 401


def test_the_denial_is_explained_in_the_log_of_the_proxy(mesh: RunningMesh) -> None:
    denial = call("GET", f"{mesh.gateway}/v1/charge").headers["x-lateen-denial"]
    logs = [f"payments-api-v{version}-{index}.envoy" for version in (1, 2) for index in (0, 1)]
    until(lambda: any(denial in mesh.log(name) for name in logs), what="the access log is flushed")


def test_a_new_policy_takes_effect(mesh: RunningMesh) -> None:
    url = f"{mesh.gateway}/v1/charge"
    assert call("GET", url, mesh.bearer()).status == 200
    with mesh.edited("authz-payments-strict.yaml", ("methods: [GET]", "methods: [HEAD]")):
        until(lambda: call("GET", url, mesh.bearer()).status == 403)
        assert call("HEAD", url, mesh.bearer()).status == 200
    until(lambda: call("GET", url, mesh.bearer()).status == 200)


def test_a_workload_without_policies_is_open_to_the_mesh(mesh: RunningMesh) -> None:
    url = "http://ledger.legacy-system.svc.cluster.local:8080/entries"
    assert call("GET", url, proxy=mesh.proxy("payments-api-v1")).status == 200
