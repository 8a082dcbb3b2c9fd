"""AuthorizationPolicies to a PolicySet: compiled once, when they arrive; asked once per request.

Each rule becomes an expression over generated constants, and the rules of an action a table (`lateen.policy.table`). The conditions a
rule was made of stay beside it, so that `explain` speaks from the same data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

from lateen.mesh.authorizationpolicy import Action, AuthorizationPolicySpec, Operation, Rule, Source
from lateen.policy.attributes import FIELDS_ONLY, OPERATION_FIELDS, SOURCE_FIELDS, Context, attribute_for
from lateen.policy.errors import PolicyError
from lateen.policy.matching import Constants
from lateen.policy.rules import CompiledRule, Condition, PolicyOrigin
from lateen.policy.table import RuleTable, compile_table

__all__ = ["DRY_RUN", "AttachedPolicy", "PolicyOrigin", "PolicySet", "compile_policies"]

DRY_RUN: Final = "istio.io/dry-run"
_SHOWN_NAMES: Final = {
    "ip_blocks": "ipBlocks",
    "remote_ip_blocks": "remoteIpBlocks",
    "request_principals": "requestPrincipals",
    "service_accounts": "serviceAccounts",
    "trust_domains": "trustDomains",
}


@dataclass(frozen=True, slots=True)
class AttachedPolicy:
    """An AuthorizationPolicy that applies to the workload in question: selection has been resolved."""

    origin: PolicyOrigin
    spec: AuthorizationPolicySpec
    dry_run: bool = False

    @property
    def only_reports(self) -> bool:
        """Whether it decides nothing."""
        return self.dry_run or self.spec.action is Action.AUDIT


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Everything about authorization that applies to one workload."""

    custom: RuleTable
    deny: RuleTable
    allow: RuleTable
    audit: RuleTable
    dry_run_deny: RuleTable
    dry_run_allow: RuleTable
    allow_policies: tuple[PolicyOrigin, ...]
    """With none of them everything is allowed that nothing denies; a policy without rules counts."""
    dry_run_allow_policies: tuple[PolicyOrigin, ...]
    policies: tuple[AttachedPolicy, ...]
    constants: Mapping[str, object]
    header_names: frozenset[str]
    claim_names: frozenset[str]


def compile_policies(
    policies: Sequence[AttachedPolicy], trust_domains: Sequence[str] = ("cluster.local",)
) -> PolicySet:
    """Compile what applies to one workload; PolicyError names the policy that cannot be.

    A rule that only reports (AUDIT, dry-run) and cannot be compiled reports nothing: it must not deny what it does not decide.
    """
    constants = Constants()
    rules: dict[tuple[Action, bool], list[CompiledRule]] = {}
    for policy in policies:
        context = Context(constants, policy.origin.namespace, tuple(trust_domains))
        compiled = rules.setdefault((policy.spec.action, policy.dry_run), [])
        for index, rule in enumerate(policy.spec.rules):
            try:
                compiled.append(_compile_rule(policy, index, rule, context))
            except PolicyError as error:
                if policy.only_reports:
                    continue
                raise PolicyError(f"AuthorizationPolicy {policy.origin} rules[{index}]: {error}") from None

    def table(action: Action, *, dry_run: bool = False) -> RuleTable:
        return compile_table(tuple(rules.get((action, dry_run), ())), constants)

    def allowing(*, dry_run: bool) -> tuple[PolicyOrigin, ...]:
        return tuple(p.origin for p in policies if p.spec.action is Action.ALLOW and p.dry_run is dry_run)

    conditions = [c for some in rules.values() for rule in some for c in rule.conditions()]
    return PolicySet(
        custom=table(Action.CUSTOM),
        deny=table(Action.DENY),
        allow=table(Action.ALLOW),
        audit=table(Action.AUDIT),
        dry_run_deny=table(Action.DENY, dry_run=True),
        dry_run_allow=table(Action.ALLOW, dry_run=True),
        allow_policies=allowing(dry_run=False),
        dry_run_allow_policies=allowing(dry_run=True),
        policies=tuple(policies),
        constants=constants.values,
        header_names=frozenset(c.attribute.header for c in conditions if c.attribute.header),
        claim_names=frozenset(c.attribute.claim for c in conditions if c.attribute.claim),
    )


def _compile_rule(policy: AttachedPolicy, index: int, rule: Rule, context: Context) -> CompiledRule:
    return CompiledRule(
        origin=policy.origin,
        action=policy.spec.action,
        index=index,
        sources=tuple(
            _fields(f"from[{i}].source", entry.source, SOURCE_FIELDS, context) for i, entry in enumerate(rule.from_)
        ),
        operations=tuple(
            _fields(f"to[{i}].operation", entry.operation, OPERATION_FIELDS, context) for i, entry in enumerate(rule.to)
        ),
        when=tuple(
            c for i, entry in enumerate(rule.when) for c in _when(i, entry.key, entry.values, entry.not_values, context)
        ),
        provider=(policy.spec.provider.name or "") if policy.spec.provider is not None else "",
    )


def _fields(
    path: str, spec: Source | Operation | None, fields: Sequence[tuple[str, str]], context: Context
) -> tuple[Condition, ...]:
    if spec is None:
        raise PolicyError(f"{path} must be set")
    conditions = tuple(
        compile_condition(f"{path}.{written.name}", written.key, written.values, context, negated=written.negated)
        for written in written_fields(spec, fields)
    )
    if not conditions:
        raise PolicyError(f"{path} must not be empty")
    return conditions


class Written(NamedTuple):
    """A field of `source` or `operation` that is set: its name in YAML, and the attribute it looks at."""

    name: str
    key: str
    values: tuple[str, ...]
    negated: bool


def written_fields(spec: Source | Operation, fields: Sequence[tuple[str, str]]) -> Iterator[Written]:
    """Those of `fields` that are set, and their negations."""
    for field, key in fields:
        name = _SHOWN_NAMES.get(field, field)
        positive = cast("tuple[str, ...]", getattr(spec, field))
        negative = cast("tuple[str, ...]", getattr(spec, f"not_{field}"))
        if positive:
            yield Written(name, key, positive, negated=False)
        if negative:
            yield Written(f"not{name[0].upper()}{name[1:]}", key, negative, negated=True)


def _when(
    index: int, key: str, values: tuple[str, ...], not_values: tuple[str, ...], context: Context
) -> tuple[Condition, ...]:
    if key in FIELDS_ONLY:
        raise PolicyError(f'when[{index}]: unknown attribute "{key}"')
    if not values and not not_values:
        raise PolicyError(f"when[{index}] ({key}) needs values or notValues")
    conditions = []
    if values:
        conditions.append(compile_condition(f"when[{index}].values", key, values, context, negated=False))
    if not_values:
        conditions.append(compile_condition(f"when[{index}].notValues", key, not_values, context, negated=True))
    return tuple(conditions)


def compile_condition(field: str, key: str, values: tuple[str, ...], context: Context, *, negated: bool) -> Condition:
    """That an attribute has one of these values (or none of them); PolicyError begins with `field`."""
    try:
        if "" in values:
            raise PolicyError("an empty value")
        attribute = attribute_for(key)
        code = attribute.code(values, context)
    except PolicyError as error:
        raise PolicyError(f"{field}: {error}") from None
    if negated:
        return Condition(field, attribute, values, negated, f"not ({code})")
    anchors = attribute.anchors(values, context) if attribute.anchors is not None else None
    return Condition(field, attribute, values, negated, code, anchors)
