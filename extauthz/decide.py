"""The decision itself: Istio's order of actions over a compiled PolicySet. Pure, and the whole of it fits on a screen."""

from enum import StrEnum
from typing import Final, NamedTuple

from lateen.policy.compile import PolicySet
from lateen.policy.request import CheckInput
from lateen.policy.rules import CompiledRule


class Verdict(StrEnum):
    """What becomes of the request."""

    ALLOW = "allow"
    DENY = "deny"
    UNAUTHENTICATED = "unauthenticated"


class Decision(NamedTuple):
    """A verdict, the rule that decided (None: none matched) and why; AUDIT and dry-run rules are reported and decide nothing."""

    verdict: Verdict
    rule: CompiledRule | None = None
    reason: str = ""
    audit: CompiledRule | None = None
    dry_run: str = ""


_ALLOWED_BY_DEFAULT: Final = Decision(Verdict.ALLOW, reason="no ALLOW policy applies")


def decide(policies: PolicySet, request: CheckInput) -> Decision:
    """CUSTOM, then DENY, then ALLOW; with no ALLOW policy the request is allowed, with one it must match."""
    decision = _enforced(policies, request)
    if policies.audit.rules and (audited := policies.audit.first(request)) is not None:
        decision = decision._replace(audit=audited)
    if policies.dry_run_deny.rules or policies.dry_run_allow_policies:
        decision = decision._replace(dry_run=_dry_run(policies, request))
    return decision


def _enforced(policies: PolicySet, request: CheckInput) -> Decision:
    if (rule := policies.custom.first(request)) is not None:
        return Decision(
            Verdict.DENY, rule, f'extension provider "{rule.provider}" cannot be asked by this enforcement point'
        )
    if (rule := policies.deny.first(request)) is not None:
        return Decision(Verdict.DENY, rule, "a DENY rule matched")
    if not policies.allow_policies:
        return _ALLOWED_BY_DEFAULT
    if (rule := policies.allow.first(request)) is not None:
        return Decision(Verdict.ALLOW, rule, "an ALLOW rule matched")
    names = ", ".join(map(str, policies.allow_policies[:10]))
    return Decision(Verdict.DENY, None, f"no ALLOW rule matched, of the policies {names}")


def _dry_run(policies: PolicySet, request: CheckInput) -> str:
    """What the dry-run policies would have said, as Istio reports it: the policies in force have no part in it."""
    if (rule := policies.dry_run_deny.first(request)) is not None:
        return f"deny by {rule.origin} rule {rule.index}"
    if policies.dry_run_allow_policies:
        rule = policies.dry_run_allow.first(request)
        return f"allow by {rule.origin} rule {rule.index}" if rule is not None else "deny: no ALLOW rule matched"
    return "allow"
