"""Each descriptor and match of a RateLimitPolicy, applied to the running mesh by `lateen apply` and met by real traffic."""

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.client import Answer, call
from tests.e2e.running import ISSUER, RunningMesh, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

LEDGER = "http://ledger.legacy-system.svc.cluster.local:8080"
NAMES = (f"test-{number}" for number in itertools.count())
AUTHENTICATION: dict[str, Any] = {
    "apiVersion": "security.istio.io/v1",
    "kind": "RequestAuthentication",
    "metadata": {"name": "ledger", "namespace": "legacy-system"},
    "spec": {
        "selector": {"matchLabels": {"app": "ledger"}},
        "jwtRules": [{"issuer": ISSUER, "jwksUri": f"{ISSUER}/.well-known/jwks.json"}],
    },
}


def lateen(mesh: RunningMesh, *arguments: str, given: str | None = None) -> str:
    """Run the command against the mesh; its output."""
    command = [sys.executable, "-m", "lateen.cli.main", *arguments, "--control-plane", mesh.info.control_plane]
    result = subprocess.run(command, input=given, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@contextlib.contextmanager
def limited(mesh: RunningMesh, *limits: dict[str, Any], **spec: Any) -> Iterator[None]:  # noqa: ANN401  (YAML)
    """A policy on ledger while the block runs. Windows are a day, so that no test meets the end of one."""
    name = next(NAMES)
    probe = {"name": "probe", "match": {"paths": ["/probe"]}, "requests": 1000, "per": "day"}
    policy = {
        "apiVersion": "lateen.dev/v1alpha1",
        "kind": "RateLimitPolicy",
        "metadata": {"name": name, "namespace": "legacy-system"},
        "spec": {
            "selector": {"matchLabels": {"app": "ledger"}},
            "limits": [{"name": "tested", "per": "day", **limit} for limit in limits] + [probe],
            **spec,
        },
    }
    printed = lateen(mesh, "apply", "-f", "-", given=json.dumps(policy))
    assert printed == f"RateLimitPolicy/legacy-system/{name} created\n"
    try:
        until(lambda: "ratelimit-limit" in ask(mesh, path="/probe").headers, what="the policy is in force")
        yield
    finally:
        lateen(mesh, "delete", "RateLimitPolicy", name, "-n", "legacy-system")
        until(lambda: "ratelimit-limit" not in ask(mesh, path="/probe").headers, what="the policy is gone")


def ask(mesh: RunningMesh, method: str = "GET", path: str = "/", caller: str = "orders", **headers: str) -> Answer:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return call(method, LEDGER + path, given, proxy=mesh.proxy(caller))


def statuses(*answers: Answer) -> list[int]:
    return [answer.status for answer in answers]


def test_by_nothing_all_requests_share_one_bucket(mesh: RunningMesh) -> None:
    with limited(mesh, {"requests": 2, "match": {"paths": ["/one"]}}):
        answers = [ask(mesh, path="/one", caller=c) for c in ("orders", "payments-api-v1", "payments-api-v2")]
        assert statuses(*answers) == [200, 200, 429]
        assert answers[1].headers["ratelimit-remaining"] == "0"
        assert 0 < int(answers[2].headers["retry-after"]) <= 86400
        assert ask(mesh, path="/other").status == 200


def test_by_header_and_not_without_it(mesh: RunningMesh) -> None:
    with limited(mesh, {"requests": 1, "descriptors": [{"header": {"name": "X-Tenant"}}]}):
        assert statuses(ask(mesh, x_tenant="a"), ask(mesh, x_tenant="b"), ask(mesh, x_tenant="a")) == [200, 200, 429]
        assert statuses(ask(mesh), ask(mesh)) == [200, 200]


def test_by_path_without_its_query(mesh: RunningMesh) -> None:
    with limited(mesh, {"requests": 1, "match": {"paths": ["/p/*"]}, "descriptors": [{"path": {}}]}):
        answers = [ask(mesh, path=path) for path in ("/p/a?x=1", "/p/b", "/p/a?x=2")]
        assert statuses(*answers) == [200, 200, 429]


def test_by_the_verified_identity_of_the_caller(mesh: RunningMesh) -> None:
    with limited(mesh, {"requests": 1, "descriptors": [{"sourcePrincipal": {}}], "match": {"paths": ["/who"]}}):
        callers = ("orders", "payments-api-v1", "payments-api-v2", "orders")
        assert statuses(*(ask(mesh, path="/who", caller=c) for c in callers)) == [200, 200, 429, 429], (
            "v1 and v2 are one identity"
        )


def test_by_a_verified_claim_and_never_by_an_unverified_one(mesh: RunningMesh) -> None:
    lateen(mesh, "apply", "-f", "-", given=json.dumps(AUTHENTICATION))
    try:
        with limited(mesh, {"requests": 1, "descriptors": [{"claim": {"name": "realm.tenant"}}]}):

            def with_tenant(tenant: str, issuer: str = ISSUER) -> Answer:
                token = mesh.token({"realm": {"tenant": tenant}}, issuer=issuer)
                return ask(mesh, authorization=f"Bearer {token}")

            until(lambda: with_tenant("x", "https://other").status == 401, what="tokens are verified")
            answers = [with_tenant("a"), with_tenant("b"), with_tenant("a")]
            assert statuses(*answers) == [200, 200, 429]
            assert statuses(ask(mesh), ask(mesh)) == [200, 200], "no token, no claim"
    finally:
        lateen(mesh, "delete", "RequestAuthentication", "ledger", "-n", "legacy-system")


def test_by_the_address_of_the_client(mesh: RunningMesh) -> None:
    with limited(mesh, {"requests": 1, "descriptors": [{"remoteAddress": {}}], "match": {"paths": ["/from"]}}):
        callers = ("payments-api-v1", "payments-api-v2", "payments-api-v1")
        assert statuses(*(ask(mesh, path="/from", caller=c) for c in callers)) == [200, 200, 429]


def test_match_needs_path_method_and_headers_together(mesh: RunningMesh) -> None:
    match = {
        "paths": ["/v1/{*}/pay"],
        "methods": ["POST"],
        "headers": [{"name": "x-plan", "prefix": "fr"}, {"name": "x-internal", "present": False}],
    }
    with limited(mesh, {"requests": 0, "match": match}):
        assert ask(mesh, "POST", "/v1/a/pay?x=1", x_plan="free").status == 429
        near_misses = [
            ask(mesh, "POST", "/v1/a/b/pay", x_plan="free"),
            ask(mesh, "GET", "/v1/a/pay", x_plan="free"),
            ask(mesh, "POST", "/v1/a/pay", x_plan="gold"),
            ask(mesh, "POST", "/v1/a/pay"),
            ask(mesh, "POST", "/v1/a/pay", x_plan="free", x_internal="1"),
        ]
        assert statuses(*near_misses) == [200] * 5


def test_two_limits_hold_both_and_the_tighter_is_told(mesh: RunningMesh) -> None:
    with limited(
        mesh,
        {"name": "wide", "requests": 3, "match": {"paths": ["/two"]}},
        {
            "name": "narrow",
            "requests": 1,
            "match": {"paths": ["/two"]},
            "descriptors": [{"header": {"name": "x-user"}}],
        },
    ):
        first = ask(mesh, path="/two", x_user="a")
        assert first.headers["ratelimit-limit"] == "1"
        rest = [ask(mesh, path="/two", x_user=user) for user in ("a", "b", "c")]
        assert statuses(*rest) == [429, 200, 429]


def test_shadow_lets_everything_through_and_counts(mesh: RunningMesh) -> None:
    with limited(mesh, {"requests": 0, "shadow": True, "match": {"paths": ["/shadow"]}}):
        assert statuses(ask(mesh, path="/shadow"), ask(mesh, path="/shadow")) == [200, 200]
        metrics = call("GET", f"http://{mesh.info.addresses['lateen-ratelimit']}:8082/metrics").text
        (counted,) = [line for line in metrics.splitlines() if "decisions_total" in line and 'verdict="shadow"' in line]
        assert counted.endswith(" 2.0")
