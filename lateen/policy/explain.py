"""Why a request was decided as it was: for each rule, the conditions that failed and what the request had instead.

Slow and thorough where `decide` is fast; both read the same compiled rules.
"""

from dataclasses import dataclass

from lateen.policy.compile import PolicySet
from lateen.policy.request import CheckInput
from lateen.policy.rules import CompiledRule, Condition, condition_test, rule_on_tcp
from lateen.policy.table import RuleTable


@dataclass(frozen=True, slots=True)
class FailedCondition:
    """A condition that did not hold, with what the request had (None: nothing)."""

    field: str
    attribute: str
    expected: tuple[str, ...]
    negated: bool
    actual: str | None


@dataclass(frozen=True, slots=True)
class RuleTrace:
    """How one rule fared: it matched when nothing failed and it was not skipped."""

    policy: str
    position: str
    action: str
    rule: int
    matched: bool
    skipped: str
    failed: tuple[FailedCondition, ...]
    """Of the alternative that came nearest, first failure first."""


def trace_policies(policies: PolicySet, request: CheckInput) -> tuple[RuleTrace, ...]:
    """Every rule in evaluation order."""
    tables: tuple[RuleTable, ...] = (policies.custom, policies.deny, policies.allow, policies.audit)
    return tuple(_trace(rule, policies, request) for table in tables for rule in table.rules)


def rule_matches(rule: CompiledRule, policies: PolicySet, request: CheckInput) -> bool:
    """Whether one rule matches by itself, whatever other rules decide."""
    return _trace(rule, policies, request).matched


def _trace(rule: CompiledRule, policies: PolicySet, request: CheckInput) -> RuleTrace:
    applied = rule if request.http else rule_on_tcp(rule)
    if applied is None:
        return _result(rule, matched=False, skipped="the rule needs HTTP attributes and this is a TCP connection")
    failed: list[FailedCondition] = []
    for group in applied.groups:
        if group:
            alternatives = [[c for c in alternative if not _holds(c, policies, request)] for alternative in group]
            failed.extend(_failure(c, request) for c in min(alternatives, key=len))
    return _result(rule, matched=not failed, failed=tuple(failed))


def _result(
    rule: CompiledRule, *, matched: bool, skipped: str = "", failed: tuple[FailedCondition, ...] = ()
) -> RuleTrace:
    position = rule.origin.position_of(rule.index)
    return RuleTrace(str(rule.origin), position, str(rule.action), rule.index, matched, skipped, failed)


def _holds(condition: Condition, policies: PolicySet, request: CheckInput) -> bool:
    return condition_test(condition, policies.constants)(request)


def _failure(condition: Condition, request: CheckInput) -> FailedCondition:
    actual = condition.attribute.actual(request)
    return FailedCondition(condition.field, condition.attribute.name, condition.values, condition.negated, actual)
