"""A compiled rule: the conditions it was made of, each with its fragment of code. What tables are built from, and `explain` reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from lateen.mesh.authorizationpolicy import Action
from lateen.policy.attributes import Attribute
from lateen.policy.request import CheckInput


@dataclass(frozen=True, slots=True)
class PolicyOrigin:
    """Which object a rule comes from, and where it was read."""

    namespace: str
    name: str
    file: str = ""
    line: int = 0
    rule_lines: tuple[int, ...] = ()

    def __str__(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def position(self) -> str:
        """`file:line`, or nothing when it is not known."""
        return f"{self.file}:{self.line}" if self.file else ""

    def position_of(self, rule: int) -> str:
        """`file:line` of a rule, as far as it is known."""
        line = self.rule_lines[rule] if rule < len(self.rule_lines) else 0
        return f"{self.file}:{line or self.line}" if self.file else ""


@dataclass(frozen=True, slots=True)
class Condition:
    """One field of a rule: `values` of one attribute, one of which must match (or, negated, none may)."""

    field: str
    attribute: Attribute
    values: tuple[str, ...]
    negated: bool
    code: str
    anchors: frozenset[str] | None = None
    """Keys of the peer (see `lateen.policy.table`), one of which it must have for the condition to hold; None: it may be anyone."""


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


def condition_test(condition: Condition, constants: Mapping[str, object]) -> Callable[[CheckInput], bool]:
    """The compiled question of a single condition, for `explain`."""
    test = eval(f"lambda r: bool({condition.code})", {**constants, "bool": bool})  # noqa: S307 - generated names and fixed operators only, see lateen.policy.matching
    return cast("Callable[[CheckInput], bool]", test)
