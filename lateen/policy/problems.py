"""Everything that keeps a rule of a policy from being enforced, with its place: for authors. To deny, the first is enough (`compile`)."""

from collections.abc import Iterator, Sequence

from lateen.mesh.authorizationpolicy import Condition, Operation, Rule, Source
from lateen.policy.attributes import FIELDS_ONLY, OPERATION_FIELDS, SOURCE_FIELDS, Context, attribute_for
from lateen.policy.compile import compile_condition, written_fields
from lateen.policy.errors import PolicyError

Place = tuple[str | int, ...]
Problem = tuple[Place, str]
"""Where, as YAML names it, and what is wrong there."""


def rule_problems(rule: Rule, context: Context) -> Iterator[Problem]:
    """Each value, key or entry of a rule of an AuthorizationPolicy that means nothing, in the order of the fields."""
    for index, source in enumerate(rule.from_):
        yield from _fields(("from", index), "source", source.source, SOURCE_FIELDS, context)
    for index, operation in enumerate(rule.to):
        yield from _fields(("to", index), "operation", operation.operation, OPERATION_FIELDS, context)
    for index, condition in enumerate(rule.when):
        yield from _when(("when", index), condition, context)


def _fields(
    place: Place, name: str, spec: Source | Operation | None, fields: Sequence[tuple[str, str]], context: Context
) -> Iterator[Problem]:
    if spec is None:
        yield place, f"{name} must be set"
        return
    written = list(written_fields(spec, fields))
    if not written:
        yield (*place, name), "must not be empty"
    for field in written:
        yield from _values((*place, name, field.name), field.key, field.values, context)


def _when(place: Place, condition: Condition, context: Context) -> Iterator[Problem]:
    key = condition.key
    try:
        if key in FIELDS_ONLY:
            raise PolicyError(f'unknown attribute "{key}"')
        attribute_for(key)
    except PolicyError as error:
        yield (*place, "key"), str(error)
        return
    if not condition.values and not condition.not_values:
        yield place, f"{key} needs values or notValues"
    yield from _values((*place, "values"), key, condition.values, context)
    yield from _values((*place, "notValues"), key, condition.not_values, context)


def _values(place: Place, key: str, values: Sequence[str], context: Context) -> Iterator[Problem]:
    """Values are judged one by one: what is wrong with one never depends on another."""
    for index, value in enumerate(values):
        try:
            compile_condition("", key, (value,), context, negated=False)
        except (PolicyError, ValueError) as error:
            yield (*place, index), str(error).removeprefix(": ")
