"""AuthorizationPolicies evaluated straight from their models, on every request anew: what the compiled form is compared with.

Knows only what the benchmark's policies use (principals, namespaces, methods, paths, request headers) and refuses the rest.
"""

from collections.abc import Sequence

from lateen.mesh.authorizationpolicy import Action, AuthorizationPolicySpec, Condition, Operation, Rule, Source
from lateen.policy.request import SPIFFE, CheckInput

_SOURCE_FIELDS = {"principals", "namespaces"}
_OPERATION_FIELDS = {"methods", "paths"}


def allowed(policies: Sequence[AuthorizationPolicySpec], request: CheckInput) -> bool:
    """Istio's order: DENY, then ALLOW."""
    if any(_policy(p, request) for p in policies if p.action is Action.DENY):
        return False
    allowing = [p for p in policies if p.action is Action.ALLOW]
    return not allowing or any(_policy(p, request) for p in allowing)


def _policy(policy: AuthorizationPolicySpec, request: CheckInput) -> bool:
    return any(_rule(rule, request) for rule in policy.rules)


def _rule(rule: Rule, request: CheckInput) -> bool:
    return (
        (not rule.from_ or any(_source(entry.source, request) for entry in rule.from_))
        and (not rule.to or any(_operation(entry.operation, request) for entry in rule.to))
        and all(_condition(condition, request) for condition in rule.when)
    )


def _source(source: Source | None, request: CheckInput) -> bool:
    assert source is not None
    assert source.model_fields_set <= _SOURCE_FIELDS
    principal = request.principal.removeprefix(SPIFFE)
    return (not source.principals or any(_matches(v, principal) for v in source.principals)) and (
        not source.namespaces or any(f"/ns/{v}/" in request.principal for v in source.namespaces)
    )


def _operation(operation: Operation | None, request: CheckInput) -> bool:
    assert operation is not None
    assert operation.model_fields_set <= _OPERATION_FIELDS
    return (not operation.methods or any(_matches(v, request.method) for v in operation.methods)) and (
        not operation.paths or any(_matches(v, request.path) for v in operation.paths)
    )


def _condition(condition: Condition, request: CheckInput) -> bool:
    assert condition.key.startswith("request.headers[")
    value = request.headers.get(condition.key[len("request.headers[") : -1], "")
    return any(_matches(v, value) for v in condition.values)


def _matches(pattern: str, value: str) -> bool:
    if pattern == "*":
        return bool(value)
    if pattern.endswith("*"):
        return value.startswith(pattern[:-1])
    if pattern.startswith("*"):
        return value.endswith(pattern[1:])
    return value == pattern
