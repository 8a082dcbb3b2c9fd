"""The base of every resource model, and the types that several resources share.

A `Spec` is frozen, refuses unknown fields, and reads camelCase (as Istio and Kubernetes write it) while Python uses snake_case.
Scalars are strict: `"5"` is not a number and `yes` is not a string. `None` and empty containers mean "absent".
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, Strict, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
MAX_PORT = 65535
MAX_UINT32 = 2**32 - 1


def _alias(name: str) -> str:
    """Istio's JSON name of a Python field name; a trailing underscore only avoids a keyword."""
    return to_camel(name.rstrip("_"))


class Spec(BaseModel):
    """One object of the API. Load YAML through `lateen.mesh.loader`; Python code may construct it by field name."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=_alias,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        defer_build=True,
    )

    also_called: ClassVar[Mapping[str, str]] = {}
    """Names that people try, and the field they want: for hints only."""

    def has(self, field: str) -> bool:
        """Whether the author wrote `field` (a default is not written)."""
        return field in self.model_fields_set


class OpenSpec(Spec):
    """Part of a Kubernetes object of which we read only some fields: the others, and nulls, are passed over."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:  # noqa: ANN401 -- pydantic hands raw input to "before" validators
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


class DefaultedSpec(Spec):
    """Part of a Gateway API object: a null stands for the default, where the API gives one."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, data: Any) -> Any:  # noqa: ANN401 -- pydantic hands raw input to "before" validators
        if not isinstance(data, dict) or None not in data.values():
            return data
        defaulted = {
            f.alias for f in cls.model_fields.values() if not f.is_required() and f.default not in (None, (), {})
        }
        return {k: v for k, v in data.items() if v is not None or k not in defaulted}


def rule_error(code: str, message: str, *path: str | int, hint: str = "") -> PydanticCustomError:
    """A violated rule; `path` (camelCase names and list indexes, below the object at fault) says which member to point at."""
    return PydanticCustomError(code, "{message}", {"message": message, "path": path, "hint": hint})


def at_most_one(spec: Spec, fields: Sequence[str], message: str = "") -> None:
    """Refuse `spec` when more than one of `fields` was written; the error points at the last one."""
    names = [type(spec).model_fields[f].alias or f for f in fields if spec.has(f) and getattr(spec, f) is not None]
    if len(names) > 1:
        raise rule_error("one_of", message or f"only one of {join_names(names)} can be set", names[-1])


def exactly_one(spec: Spec, fields: Sequence[str]) -> None:
    """Refuse `spec` unless exactly one of `fields` was written."""
    at_most_one(spec, fields)
    if not any(spec.has(f) for f in fields):
        names = [type(spec).model_fields[f].alias or f for f in fields]
        raise rule_error("none_of", f"one of {join_names(names, 'or')} must be set")


def unique(items: Sequence[Spec], list_name: str, *fields: str) -> None:
    """Refuse a list in which two items agree in all of `fields`."""
    seen = set()
    for index, item in enumerate(items):
        key = tuple(getattr(item, field) for field in fields)
        if key in seen:
            shown = " ".join(str(part) for part in key)
            raise rule_error("duplicate", f'duplicate {join_names(fields)} "{shown}"', list_name, index, fields[0])
        seen.add(key)


def join_names(names: Iterable[str], word: str = "and") -> str:
    """`a, b and c`."""
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


# Scalars

Bool = Annotated[bool, Strict()]
Int = Annotated[int, Strict()]
Int32 = Annotated[int, Strict(), Field(ge=-(2**31), le=2**31 - 1)]
UInt32 = Annotated[int, Strict(), Field(ge=0, le=MAX_UINT32)]
UInt64 = Annotated[int, Strict(), Field(ge=0, le=2**64 - 1)]
Double = Annotated[float, Strict()]
Percentage = Annotated[float, Strict(), Field(ge=0, le=100)]
Port = Annotated[int, Strict(), Field(ge=1, le=MAX_PORT)]
NonEmpty = Annotated[str, Field(min_length=1)]
FreeForm = dict[str, Any]
"""A subtree that is not ours to model (Envoy configuration, plugin configuration)."""


def _int_or_string(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise PydanticCustomError("int_or_string", "must be a number or a name")
    return value


IntOrString = Annotated[int | str, BeforeValidator(_int_or_string)]

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_MAX_DURATION_LENGTH = 64
_MAX_DURATION_SECONDS = 9_223_372_036  # int64 nanoseconds, as in Go


def parse_duration(text: str) -> timedelta:
    """A duration in Go's notation (`1h30m`, `1.5s`, `300ms`), as Istio reads it; ValueError says what is wrong."""
    body = text.lstrip("+-") if text[:2] not in {"++", "--", "+-", "-+"} else text
    if body == "0":
        return timedelta(0)
    if not body or len(text) > _MAX_DURATION_LENGTH or not re.fullmatch(f"(?:{_DURATION.pattern})+", body):
        raise ValueError(f'"{text[:_MAX_DURATION_LENGTH]}" is not a duration')
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(body))
    if seconds > _MAX_DURATION_SECONDS:
        raise ValueError(f'duration "{text}" is too long')
    return timedelta(seconds=-seconds if text.startswith("-") else seconds)


def render_duration(value: timedelta) -> str:
    """The shortest seconds notation that `parse_duration` reads back."""
    micros = value // timedelta(microseconds=1)
    if micros % 1000 == 0 and micros % 1_000_000:
        return f"{micros // 1000}ms"
    return f"{micros / 1_000_000:f}".rstrip("0").rstrip(".") + "s"


def _duration(minimum: timedelta, what: str) -> Callable[[object], object]:
    def check(value: object) -> object:
        if isinstance(value, timedelta):
            return value
        if not isinstance(value, str):
            raise PydanticCustomError("duration_type", "must be a duration such as 10s, 1m30s or 250ms")
        try:
            parsed = parse_duration(value)
        except ValueError as error:
            raise PydanticCustomError("duration", "{message}", {"message": str(error)}) from None
        if parsed < minimum:
            raise PydanticCustomError("duration_range", "{message}", {"message": f"must be {what}, got {value}"})
        return parsed

    return check


_as_text = PlainSerializer(render_duration, when_used="json")
Duration = Annotated[timedelta, BeforeValidator(_duration(timedelta(milliseconds=1), "at least 1ms")), _as_text]
"""At least 1 ms, as Istio's own validation requires."""
DurationOrZero = Annotated[timedelta, BeforeValidator(_duration(timedelta(0), "zero or more")), _as_text]


# Objects that several kinds share


class StringMatch(Spec):
    """How to compare a string; nothing set means "present", where the field allows it."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None

    @model_validator(mode="after")
    def _one(self) -> "StringMatch":
        at_most_one(self, ("exact", "prefix", "regex"))
        return self


class PortSelector(Spec):
    """A port by number."""

    number: UInt32 | None = None


_WHOLE_LABELS = "labels are compared whole: write the label itself"


def _label_key(key: str) -> str:
    if "*" in key:
        raise rule_error("label", "wildcard not allowed in label key match", hint=_WHOLE_LABELS)
    if not key:
        raise rule_error("label", "key must not be empty", hint="name a label")
    return key


def _label_value(value: object) -> object:
    if isinstance(value, str) and "*" in value:
        raise rule_error("label", "wildcard not allowed in label value match", hint=_WHOLE_LABELS)
    return value


LabelValue = Annotated[str, Field(max_length=63), BeforeValidator(_label_value)]


class LabelSelector(Spec):
    """Istio's `selector` (type.v1beta1.WorkloadSelector): all labels must be equal."""

    match_labels: dict[str, LabelValue] = Field(default={}, max_length=4096)

    @model_validator(mode="after")
    def _keys(self) -> "LabelSelector":
        for key in self.match_labels:
            try:
                _label_key(key)
            except PydanticCustomError as error:
                hint = (error.context or {}).get("hint", "")
                raise rule_error("label", error.message(), "matchLabels", key, hint=hint) from None
        return self


class WorkloadSelector(Spec):
    """Networking's `workloadSelector`: all labels must be equal."""

    labels: dict[str, LabelValue] = Field(default={}, max_length=256)


def _same_namespace(value: object) -> object:
    if isinstance(value, str) and value:
        hint = "remove namespace, and put the policy into the namespace of its target"
        raise rule_error("cross_namespace", "cross namespace referencing is not currently supported", hint=hint)
    return value


Group = Annotated[str, Field(max_length=253, pattern=rf"^$|{DNS_SUBDOMAIN}")]
KindName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$")]
ObjectName = Annotated[str, Field(min_length=1, max_length=253)]
NamespaceName = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]


class PolicyTargetReference(Spec):
    """What a policy is attached to, in the policy's own namespace."""

    group: Group = ""
    kind: KindName
    name: ObjectName
    namespace: Annotated[str, BeforeValidator(_same_namespace)] | None = None


TargetRefs = Annotated[tuple[PolicyTargetReference, ...], Field(max_length=16)]
TARGETS = ("selector", "target_ref", "target_refs")


def one_target(spec: Spec, fields: Sequence[str] = TARGETS) -> None:
    """`selector` and `targetRefs` exclude one another in every policy."""
    at_most_one(spec, fields, "only one of targetRefs or selector can be set")
