"""Compiled policies as Envoy's rbac filters (`enforcement: native`): the order of actions is the order of the filters. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lateen.controlplane.findings import TranslationError
from lateen.controlplane.native_matchers import (
    Meaning,
    Permission,
    Principal,
    all_permissions,
    all_principals,
    any_permission,
    any_principal,
    matcher,
)
from lateen.envoyapi.envoy.config.rbac.v3 import rbac_pb2
from lateen.policy.compile import PolicySet
from lateen.policy.rules import CompiledRule, Condition, rule_on_tcp

ALLOW: Final = rbac_pb2.RBAC.ALLOW
DENY: Final = rbac_pb2.RBAC.DENY
DRY_RUN_DENY: Final = "istio_dry_run_deny_"
DRY_RUN_ALLOW: Final = "istio_dry_run_allow_"
AUDIT: Final = "lateen_audit_"
REPORTS: Final = frozenset({DRY_RUN_DENY, DRY_RUN_ALLOW, AUDIT})
REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class Step:
    """One rbac filter: what it enforces, what it only reports, and under which prefix."""

    name: str
    rules: rbac_pb2.RBAC | None = None
    shadow: rbac_pb2.RBAC | None = None
    prefix: str = ""


def steps(policies: PolicySet, trust_domains: Sequence[str], *, http: bool) -> tuple[Step, ...]:
    """DENY, ALLOW, AUDIT, for HTTP or for TCP connections; TranslationError names what rbac cannot express."""
    domains = tuple(trust_domains)

    def made(action: rbac_pb2.RBAC.Action, some: Iterable[CompiledRule]) -> rbac_pb2.RBAC:
        return rules_of(action, some, domains, http=http)

    deny = made(DENY, policies.deny.rules) if policies.deny.rules else None
    dry_deny = made(DENY, policies.dry_run_deny.rules) if policies.dry_run_deny.rules else None
    allow = made(ALLOW, policies.allow.rules) if policies.allow_policies else None
    dry_allow = made(ALLOW, policies.dry_run_allow.rules) if policies.dry_run_allow_policies else None
    audit = made(DENY, policies.audit.rules) if policies.audit.rules else None
    found = (
        Step("deny", deny, dry_deny, DRY_RUN_DENY),
        Step("allow", allow, dry_allow, DRY_RUN_ALLOW),
        Step("audit", None, audit, AUDIT),
    )
    return tuple(step for step in found if step.rules is not None or step.shadow is not None)


def refuse_all() -> Step:
    """For a workload whose policies rbac cannot express: nothing passes."""
    policy = rbac_pb2.Policy(permissions=[Permission(any=True)], principals=[Principal(any=True)])
    return Step("refused", rbac_pb2.RBAC(action=DENY, policies={REFUSED: policy}))


def rules_of(
    action: rbac_pb2.RBAC.Action, rules: Iterable[CompiledRule], trust_domains: Sequence[str], *, http: bool
) -> rbac_pb2.RBAC:
    """Rules by name; one that asks for HTTP counts on TCP as Istio has it."""
    result = rbac_pb2.RBAC(action=action)
    for rule in rules:
        here = rule if http else rule_on_tcp(rule)
        if here is not None:
            result.policies[rule_name(rule)].CopyFrom(_policy(here, tuple(trust_domains)))
    return result


def rule_name(rule: CompiledRule) -> str:
    """Istio's name of a rule, as access logs and shadow results show it."""
    return f"ns[{rule.origin.namespace}]-policy[{rule.origin.name}]-rule[{rule.index}]"


def _policy(rule: CompiledRule, trust_domains: tuple[str, ...]) -> rbac_pb2.Policy:
    meaning = Meaning(rule.origin.namespace, trust_domains)
    principals: list[Principal] = []
    permissions: list[Permission] = []
    try:
        for group in rule.groups:
            _add(group, meaning, principals, permissions)
    except TranslationError as error:
        raise TranslationError(f"AuthorizationPolicy {rule.origin} rules[{rule.index}]: {error}") from None
    return rbac_pb2.Policy(permissions=[all_permissions(permissions)], principals=[all_principals(principals)])


def _add(
    group: Sequence[Sequence[Condition]], meaning: Meaning, principals: list[Principal], permissions: list[Permission]
) -> None:
    """One alternative of the group must hold: `from` speaks of the peer alone, `to` of the request alone, `when` of one thing at a time."""
    made = [[matcher(condition, meaning) for condition in alternative] for alternative in group]
    if not made:
        return
    about_peer = [[m for m in alternative if isinstance(m, Principal)] for alternative in made]
    about_request = [[m for m in alternative if isinstance(m, Permission)] for alternative in made]
    if any(about_request):
        permissions.append(any_permission([all_permissions(some) for some in about_request]))
    else:
        principals.append(any_principal([all_principals(some) for some in about_peer]))
