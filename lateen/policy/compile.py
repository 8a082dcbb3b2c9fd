"""AuthorizationPolicies to a PolicySet: compiled once, when they arrive; asked once per request.

Each rule becomes an expression over generated constants, and all rules of an action become one function that returns the index of
the first that matches. The conditions a rule was made of stay beside it, so that `explain` speaks from the same data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from lateen.mesh.authorizationpolicy import Action, AuthorizationPolicySpec, Operation, Rule, Source
from lateen.policy.attributes import OPERATION_FIELDS, SOURCE_FIELDS, Attribute, Context, attribute_for
from lateen.policy.errors import PolicyError
from lateen.policy.matching import Constants, all_of, any_of
from lateen.policy.request import CheckInput

DRY_RUN: Final = "istio.io/dry-run"
_SHOWN_NAMES: Final = {
    "ip_blocks": "ipBlocks",
    "remote_ip_blocks": "remoteIpBlocks",
    "request_principals": "requestPrincipals",
    "service_accounts": "serviceAccounts",
    "trust_domains": "trustDomains",
}


@dataclass(frozen=True, slots=True)
class PolicyOrigin:
    """Which object a rule comes from, and where it was read."""

    namespace: str
    name: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def position(self) -> str:
        """`file:line`, or nothing when it is not known."""
        return f"{self.file}:{self.line}" if self.file else ""


@dataclass(frozen=True, slots=True)
class AttachedPolicy:
    """An AuthorizationPolicy that applies to the workload in question: selection has been resolved."""

    origin: PolicyOrigin
    spec: AuthorizationPolicySpec
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """One field of a rule: `values` of one attribute, one of which must match (or, negated, none may)."""

    field: str
    attribute: Attribute
    values: tuple[str, ...]
    negated: bool
    code: str


@dataclass(frozen=True, slots=True, eq=False)
class CompiledRule:
    """A rule with its alternatives: some source, some operation and every condition of `when` must match.

    Rules are themselves: two are equal only when they are one, so answers can be kept by rule.
    """

    origin: PolicyOrigin
    action: Action
    index: int
    sources: tuple[tuple[Condition, ...], ...]
    operations: tuple[tuple[Condition, ...], ...]
    when: tuple[Condition, ...]
    provider: str = ""

    @property
    def groups(self) -> tuple[tuple[tuple[Condition, ...], ...], ...]:
        """The conditions as a conjunction of alternatives."""
        return (self.sources, self.operations, *((((c,),)) for c in self.when))

    def conditions(self) -> tuple[Condition, ...]:
        """All conditions, in the order they were written."""
        return tuple(c for group in self.groups for alternative in group for c in alternative)


FirstMatch = Callable[[CheckInput], int]


@dataclass(frozen=True, slots=True)
class RuleTable:
    """The rules of one action in evaluation order, and the compiled question "which is the first that matches"."""

    rules: tuple[CompiledRule, ...]
    http: FirstMatch
    tcp: FirstMatch

    def first(self, request: CheckInput) -> CompiledRule | None:
        """The first rule that matches."""
        if not self.rules:
            return None
        index = self.http(request) if request.http else self.tcp(request)
        return self.rules[index] if index >= 0 else None


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
    """Compile what applies to one workload; PolicyError names the policy that cannot be."""
    constants = Constants()
    rules: dict[tuple[Action, bool], list[CompiledRule]] = {}
    for policy in policies:
        context = Context(constants, policy.origin.namespace, tuple(trust_domains))
        compiled = rules.setdefault((policy.spec.action, policy.dry_run), [])
        for index, rule in enumerate(policy.spec.rules):
            try:
                compiled.append(_compile_rule(policy, index, rule, context))
            except PolicyError as error:
                raise PolicyError(f"AuthorizationPolicy {policy.origin} rules[{index}]: {error}") from None

    def table(action: Action, *, dry_run: bool = False) -> RuleTable:
        return _table(tuple(rules.get((action, dry_run), ())), constants)

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
    conditions = []
    for field, key in fields:
        name = _SHOWN_NAMES.get(field, field)
        positive = cast("tuple[str, ...]", getattr(spec, field))
        negative = cast("tuple[str, ...]", getattr(spec, f"not_{field}"))
        if positive:
            conditions.append(_condition(f"{path}.{name}", key, positive, context, negated=False))
        if negative:
            conditions.append(
                _condition(f"{path}.not{name[0].upper()}{name[1:]}", key, negative, context, negated=True)
            )
    if not conditions:
        raise PolicyError(f"{path} must not be empty")
    return tuple(conditions)


def _when(
    index: int, key: str, values: tuple[str, ...], not_values: tuple[str, ...], context: Context
) -> tuple[Condition, ...]:
    if not values and not not_values:
        raise PolicyError(f"when[{index}] ({key}) needs values or notValues")
    conditions = []
    if values:
        conditions.append(_condition(f"when[{index}].values", key, values, context, negated=False))
    if not_values:
        conditions.append(_condition(f"when[{index}].notValues", key, not_values, context, negated=True))
    return tuple(conditions)


def _condition(field: str, key: str, values: tuple[str, ...], context: Context, *, negated: bool) -> Condition:
    try:
        attribute = attribute_for(key)
        code = attribute.code(values, context)
    except PolicyError as error:
        raise PolicyError(f"{field}: {error}") from None
    return Condition(field, attribute, values, negated, f"not ({code})" if negated else code)


def _table(rules: tuple[CompiledRule, ...], constants: Constants) -> RuleTable:
    http = [(i, _rule_code(rule)) for i, rule in enumerate(rules)]
    tcp = [(i, _rule_code(on_tcp)) for i, rule in enumerate(rules) if (on_tcp := rule_on_tcp(rule)) is not None]
    return RuleTable(rules, _first_match(http, constants), _first_match(tcp, constants))


def rule_on_tcp(rule: CompiledRule) -> CompiledRule | None:
    """What is left of a rule where there are no HTTP attributes, or None when the whole rule is skipped.

    Istio errs on the strict side both ways: an ALLOW rule that needs HTTP allows nothing, a DENY rule denies without the HTTP part.
    """
    if not any(c.attribute.http_only for c in rule.conditions()):
        return rule
    if rule.action is not Action.DENY:
        return None

    def kept(alternative: tuple[Condition, ...]) -> tuple[Condition, ...]:
        return tuple(c for c in alternative if not c.attribute.http_only)

    return CompiledRule(
        origin=rule.origin,
        action=rule.action,
        index=rule.index,
        sources=tuple(map(kept, rule.sources)),
        operations=tuple(map(kept, rule.operations)),
        when=kept(rule.when),
        provider=rule.provider,
    )


def _rule_code(rule: CompiledRule) -> str:
    groups = [
        any_of([all_of([c.code for c in alternative]) for alternative in group]) for group in rule.groups if group
    ]
    return all_of(groups)


def _first_match(rules: Sequence[tuple[int, str]], constants: Constants) -> FirstMatch:
    lines = [
        "def first_match(r):",
        *(f"    if {code}:\n        return {index}" for index, code in rules),
        "    return -1",
    ]
    namespace: dict[str, object] = {}
    # The text holds generated names and fixed operators only; see lateen.policy.matching.
    exec(compile("\n".join(lines), "<policy>", "exec"), constants.values, namespace)  # noqa: S102
    return cast("FirstMatch", namespace["first_match"])


def condition_test(condition: Condition, constants: Mapping[str, object]) -> Callable[[CheckInput], bool]:
    """The compiled question of a single condition, for `explain`."""
    test = eval(f"lambda r: bool({condition.code})", {**constants, "bool": bool})  # noqa: S307 - as above
    return cast("Callable[[CheckInput], bool]", test)
