"""Which decisions are logged, how many, and that no secret is ever among them."""

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from extauthz.check import Checker
from extauthz.decide import Decision, Verdict
from extauthz.decisionlog import DecisionLog, LogMode
from extauthz.metrics import Metrics
from lateen.envoyapi.lateen.v1alpha1 import workload_pb2
from lateen.fetching import http_client
from lateen.policy.request import CheckInput
from tests.extauthz.service import PROXY, TARGET, Service, http, workload
from tests.extauthz.tokens import JWKS, token

ALLOWED, DENIED = Decision(Verdict.ALLOW), Decision(Verdict.DENY, reason="a DENY rule matched")
SECRETS = ("topsecret", "sessionid")


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with http_client() as client:
        made = Service(client)
        yield made
        await made.keeper.close()


def values(metrics: Metrics) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (s.name, *(s.labels[name] for name in sorted(s.labels))): s.value for family in families for s in family.samples
    }


@pytest.mark.parametrize(
    ("mode", "chance", "allowed"),
    [
        (LogMode.DENIED, 0.0, False),
        (LogMode.ALL, 0.999, True),
        (LogMode.SAMPLED, 0.24, True),
        (LogMode.SAMPLED, 0.25, False),
    ],
)
def test_what_is_logged_of_the_allowed(mode: LogMode, chance: float, *, allowed: bool) -> None:
    log = DecisionLog(Metrics(), mode, rate=0.25, chance=lambda: chance)
    assert log.wants(ALLOWED) is allowed
    assert log.wants(DENIED)
    assert log.wants(ALLOWED._replace(dry_run="allow")) is allowed, "dry-run policies that nothing matched say nothing"
    assert log.wants(ALLOWED._replace(dry_run="allow by ns/p rule 0"))
    assert log.wants(ALLOWED._replace(dry_run="deny: no ALLOW rule matched"))
    assert log.wants(Decision(Verdict.UNAUTHENTICATED))


def test_a_flood_is_cut_and_counted() -> None:
    times = itertools.chain([1.0] * 5, [2.5] * 2)
    metrics = Metrics()
    log = DecisionLog(metrics, limit=3, monotonic=lambda: next(times))
    with structlog.testing.capture_logs() as lines:
        for _ in range(7):
            log.write("ns/app", CheckInput(http=True), DENIED, {})
    assert len(lines) == 5
    assert values(metrics)["lateen_authz_decision_log_dropped_total",] == 2


async def test_no_secret_is_logged_whatever_the_policies_look_at(service: Service) -> None:
    names = ["authorization", "cookie", "x-session", "x-tenant"]
    rule = {"when": [{"key": f"request.headers[{name}]", "values": ["*"]} for name in names]}
    look = {"rules": [rule, {"to": [{"operation": {"methods": ["GET"]}}]}]}
    service.policies.take(
        {TARGET: workload(look, authentication={"jwtRules": [{"issuer": "https://auth.corp.com", "jwks": JWKS, "forwardOriginalToken": True}]})},
        [],
    )  # fmt: skip
    good = token(scope="topsecret")
    log = DecisionLog(service.metrics, LogMode.ALL)
    checker = Checker(
        service.policies, service.keeper, service.metrics, service.denials, log=log, redact_headers={"x-session"}
    )
    answers = []
    with structlog.testing.capture_logs() as lines:
        for method in ("GET", "POST"):
            for bearer in (good, good + "x"):
                request = http(method, "/pay?session=topsecret", cookie="id=sessionid", x_tenant="acme",
                               x_session="topsecret", authorization=f"Bearer {bearer}")  # fmt: skip
                answer = checker.check(TARGET, PROXY, request.SerializeToString())
                answers.append(answer if isinstance(answer, bytes) else await answer)
    assert len(answers) == len(lines) == 4
    text = json.dumps(lines, default=str)
    assert not [secret for secret in (*SECRETS, *good.split(".")) if secret in text]
    allowed = lines[0]
    assert allowed["verdict"] == "allow"
    assert allowed["request_principal"] == "https://auth.corp.com/alice"
    assert allowed["headers"] == {
        "authorization": "[redacted]", "cookie": "[redacted]", "x-session": "[redacted]", "x-tenant": "acme",
    }  # fmt: skip
    assert {line["verdict"] for line in lines} == {"allow", "unauthenticated"}


async def test_audit_and_dry_run_are_logged_and_counted_and_decide_nothing(service: Service) -> None:
    message: dict[str, Any] = {"action": "AUDIT", "rules": [{}]}
    tried = workload(
        {"rules": [{}]}, message, {"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["PUT"]}}]}]}
    )
    parsed = workload_pb2.WorkloadPolicy.FromString(tried)
    parsed.authorization_policies[2].annotations["istio.io/dry-run"] = "true"
    service.policies.take({TARGET: parsed.SerializeToString()}, [])
    with structlog.testing.capture_logs() as lines:
        assert await service.status(http("PUT")) == 200
        assert await service.status(http("GET")) == 200
    assert [(line["audit"], line["dry_run"]) for line in lines] == [
        ("ns/p1 rule 0", "deny by ns/p2 rule 0"),
        ("ns/p1 rule 0", "allow"),
    ]
    found = values(service.metrics)
    assert found["lateen_authz_audit_matches_total", "ns/p1"] == 2
    assert found["lateen_authz_dry_run_decisions_total", "ns/p2", "deny"] == 1
    assert found["lateen_authz_dry_run_decisions_total", "none", "allow"] == 1
    assert found["lateen_authz_decisions_total", "ns/p0", "allow"] == 2
