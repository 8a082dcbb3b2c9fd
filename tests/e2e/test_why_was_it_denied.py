"""A request is denied: the commands say why, and what they say beforehand is what happens."""

import json
import subprocess
import sys

import pytest

from tests.e2e.client import call
from tests.e2e.running import CHARGE, RunningMesh

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]


def lateen(mesh: RunningMesh, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "lateen.cli.main", *arguments, "--control-plane", mesh.info.control_plane]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_denial_is_explained_by_its_id(mesh: RunningMesh) -> None:
    answer = call("POST", CHARGE, {"x-tenant": "initech"}, proxy=mesh.proxy("orders"))
    assert answer.status == 403
    told = lateen(mesh, "explain", "denial", answer.headers["x-lateen-denial"])
    assert told.returncode == 0, told.stderr
    assert "DENIED (403)  POST /v1/charge to payments/payments-api-v" in told.stdout
    assert 'request.headers[x-tenant] must be acme | globex, it is "initech"' in told.stdout
    lines = (mesh.directory / "authz-payments-strict.yaml").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "allow-orders-to-charge" in line)
    rule = next(i for i, line in enumerate(lines[start:], start + 1) if "rules:" in line) + 1
    assert f"authz-payments-strict.yaml:{rule})" in told.stdout, "the line of the rule, not of the policy"
    unknown = lateen(mesh, "explain", "denial", "0" * 16)
    assert (unknown.returncode, unknown.stdout) == (1, "")


@pytest.mark.usefixtures("fresh_window")
@pytest.mark.parametrize(
    ("method", "tenant", "scope"),
    [
        ("POST", "acme", None),
        ("POST", "initech", None),
        ("GET", "acme", None),
        ("GET", "", "payments:read"),
        ("GET", "", "payments:write"),
        ("GET", "", "broken"),
    ],
)
def test_what_explain_says_is_what_happens(mesh: RunningMesh, method: str, tenant: str, scope: str | None) -> None:
    token = mesh.token({"scope": scope}) if scope else None
    if scope == "broken" and token is not None:
        token = token[:-8] + "AAAAAAAA"
    headers = {**({"x-tenant": tenant} if tenant else {}), **(mesh.bearer(token) if token else {})}
    answer = call(method, CHARGE, headers, proxy=mesh.proxy("orders"))
    arguments = ["--from", "orders", "--to", "payments-api", method, "/v1/charge", "-o", "json"]
    arguments += ["-H", f"x-tenant={tenant}"] if tenant else []
    arguments += ["--token", token] if token else []
    told = lateen(mesh, "explain", "authz", *arguments)
    assert told.returncode in {0, 1}, told.stderr
    value = json.loads(told.stdout)
    assert {"allow": 200, "deny": 403, "unauthenticated": 401}[value["verdict"]] == answer.status
    assert (told.returncode == 0) == (answer.status == 200)
    assert value["notes"] == [], "the mesh's keys were at hand"


def test_keys_and_policies_are_listed(mesh: RunningMesh) -> None:
    keys = lateen(mesh, "authz", "keys", "-o", "json")
    assert keys.returncode == 0, keys.stderr
    (source,) = json.loads(keys.stdout)["sources"]
    assert (source["uri"], source["failures"]) == ("https://auth.corp.com/.well-known/jwks.json", 0)
    assert source["keys"] > 0
    listed = lateen(mesh, "authz", "check", "payments-api", "-o", "json")
    actions = [entry["action"] for entry in json.loads(listed.stdout)["policies"]]
    assert actions == ["TOKENS", "ALLOW", "ALLOW", "ALLOW"]
