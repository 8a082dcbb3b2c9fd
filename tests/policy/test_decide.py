"""The order of actions, and what rules become on a TCP connection."""

from typing import Any

import pytest

from extauthz.decide import Verdict, decide
from lateen.mesh.authorizationpolicy import AuthorizationPolicySpec
from lateen.policy.compile import AttachedPolicy, PolicyOrigin, PolicySet, compile_policies
from lateen.policy.explain import trace_policies
from lateen.policy.request import CheckInput

HTTP = CheckInput(http=True, method="GET", path="/a", host="h", destination_port=80)
TCP = CheckInput(http=False, destination_port=80)
ANY: list[dict[str, Any]] = [{}]
GET = [{"to": [{"operation": {"methods": ["GET"]}}]}]
POST = [{"to": [{"operation": {"methods": ["POST"]}}]}]
PORT_80 = [{"to": [{"operation": {"ports": ["80"]}}]}]
PORT_81_GET = [{"to": [{"operation": {"ports": ["81"], "methods": ["GET"]}}]}]
PORT_80_POST = [{"to": [{"operation": {"ports": ["80"], "methods": ["POST"]}}]}]


def compiled(*specs: dict[str, Any], dry_run: tuple[int, ...] = ()) -> PolicySet:
    return compile_policies(
        [
            AttachedPolicy(
                PolicyOrigin("ns", f"p{i}", "a.yaml", i + 1), AuthorizationPolicySpec.model_validate(s), i in dry_run
            )
            for i, s in enumerate(specs)
        ]
    )


ALLOW, DENY, AUDIT, CUSTOM = ({"action": a} for a in ("ALLOW", "DENY", "AUDIT", "CUSTOM"))


@pytest.mark.parametrize(
    ("specs", "request_", "expected"),
    [
        ([], HTTP, True),
        ([{}], HTTP, False),
        ([{"rules": ANY}], HTTP, True),
        ([DENY], HTTP, True),
        ([DENY | {"rules": ANY}], HTTP, False),
        ([DENY | {"rules": POST}], HTTP, True),
        ([{"rules": GET}, DENY | {"rules": GET}], HTTP, False),
        ([{"rules": POST}, {"rules": GET}], HTTP, True),
        ([{}, {"rules": GET}], HTTP, True),
        ([AUDIT | {"rules": ANY}], HTTP, True),
        ([AUDIT | {"rules": ANY}, {}], HTTP, False),
        ([CUSTOM | {"provider": {"name": "x"}, "rules": GET}, {"rules": ANY}], HTTP, False),
        ([CUSTOM | {"provider": {"name": "x"}, "rules": POST}, {"rules": ANY}], HTTP, True),
        # TCP: an ALLOW rule that needs HTTP allows nothing, a DENY rule denies without its HTTP part
        ([{"rules": GET}], TCP, False),
        ([{"rules": PORT_80}], TCP, True),
        ([{"rules": PORT_80_POST}], TCP, False),
        ([DENY | {"rules": GET}], TCP, False),
        ([DENY | {"rules": PORT_80_POST}], TCP, False),
        ([DENY | {"rules": PORT_81_GET}], TCP, True),
        ([CUSTOM | {"provider": {"name": "x"}, "rules": GET}], TCP, True),
    ],
)
def test_order_and_defaults(specs: list[dict[str, Any]], request_: CheckInput, expected: bool) -> None:
    assert (decide(compiled(*specs), request_).verdict is Verdict.ALLOW) is expected


def test_the_decision_names_the_rule_and_its_position() -> None:
    decision = decide(compiled({"rules": ANY}, DENY | {"rules": [*POST, *GET]}), HTTP)
    assert decision.rule is not None
    assert (str(decision.rule.origin), decision.rule.index, decision.rule.origin.position) == ("ns/p1", 1, "a.yaml:2")


def test_no_allow_rule_matched_names_the_policies_that_were_asked() -> None:
    decision = decide(compiled({}, {"rules": POST}), HTTP)
    assert decision.rule is None
    assert decision.reason == "no ALLOW rule matched, of the policies ns/p0, ns/p1"


def test_audit_and_dry_run_are_reported_and_decide_nothing() -> None:
    decision = decide(compiled(AUDIT | {"rules": GET}, DENY | {"rules": ANY}, {}, dry_run=(1, 2)), HTTP)
    assert decision.verdict is Verdict.ALLOW
    assert decision.audit is not None
    assert str(decision.audit.origin) == "ns/p0"
    assert decision.dry_run == "deny by ns/p1 rule 0"
    assert decide(compiled({}, dry_run=(0,)), HTTP).dry_run == "deny: no ALLOW rule matched"
    assert decide(compiled({"rules": GET}, dry_run=(0,)), HTTP).dry_run == "allow by ns/p0 rule 0"


def test_explain_names_the_failed_conditions_of_the_nearest_alternative() -> None:
    rule = {
        "from": [{"source": {"principals": ["a", "b"], "namespaces": ["n"]}}, {"source": {"ipBlocks": ["10.0.0.1"]}}],
        "to": [{"operation": {"methods": ["GET"], "notPaths": ["/a"]}}],
    }
    (trace,) = trace_policies(compiled({"rules": [rule]}), HTTP._replace(source_ip="10.0.0.2"))
    assert [(f.field, f.actual) for f in trace.failed] == [
        ("from[1].source.ipBlocks", "10.0.0.2"),
        ("to[0].operation.notPaths", "/a"),
    ]


def test_explain_says_when_a_rule_needs_http() -> None:
    (trace,) = trace_policies(compiled({"rules": GET}), TCP)
    assert trace.skipped == "the rule needs HTTP attributes and this is a TCP connection"
