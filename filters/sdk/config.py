"""Typed configuration: a filter declares fields with annotations, JSON is decoded into them or refused with all reasons."""

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, dataclass_transform, get_args, get_origin, get_type_hints

_MISSING = object()
_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    NoneType: "null",
    re.Pattern: "a regular expression",
}
_LISTS: Mapping[object, type] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    Sequence: list,
    MutableSequence: list,
    Iterable: list,
    AbstractSet: frozenset,
}
_OBJECTS = (dict, Mapping, MutableMapping)
_LONGEST_VALUE = 100
"""Characters of a wrong value that are shown."""
_hints: dict[type, dict[str, Any]] = {}
"""Fields that have been read: annotations can only be evaluated where there is a compiler, when the module is built."""


class ConfigError(ValueError):
    """A configuration does not fit; `problems` lists every reason, each with its path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass_transform(frozen_default=True, kw_only_default=True)
class FilterConfig:
    """Base of a filter's configuration. Fields are annotated attributes; a default makes one optional.

    Types: str, int, float, bool, re.Pattern, Literal, Enum (by value), X | None, list[X], tuple, set, dict[str, X], Any, and objects:
    another FilterConfig or a dataclass. Unknown keys are refused. Override `validate` for rules between fields, and raise ValueError.
    Names in JSON may be camelCase.
    """

    def __init__(self, **values: Any) -> None:  # noqa: ANN401
        fields = fields_of(type(self))
        problems = [f"{name}: no such field" for name in values if name not in fields]
        for name in fields:
            value = values.get(name, _MISSING)
            if value is _MISSING:
                value = _default(type(self), name)
            if value is _MISSING:
                problems.append(f"{name}: required")
            self.__dict__[name] = value
        if problems:
            raise ConfigError(problems)
        self.validate()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a configuration cannot be changed: {name}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    __hash__ = None  # type: ignore[assignment]  # holds lists and dicts

    def validate(self) -> None:
        """Raise ValueError if the fields do not fit together."""


def is_object(kind: object) -> bool:
    """Whether a type is decoded from a JSON object with fields: a FilterConfig or a dataclass."""
    return isinstance(kind, type) and (issubclass(kind, FilterConfig) or hasattr(kind, "__dataclass_fields__"))


def fields_of(kind: type) -> dict[str, Any]:
    """Name -> type, in order of declaration. ConfigError if a type cannot be found."""
    if kind not in _hints:
        try:
            hints = get_type_hints(kind)
        except NameError as error:
            where = "nested classes are found when they are defined inside the configuration, or at module level"
            raise ConfigError([f"{kind.__qualname__}: the type of a field is not known: {error} ({where})"]) from None
        declared = getattr(kind, "__dataclass_fields__", {})
        _hints[kind] = {
            name: hint
            for name, hint in hints.items()
            if get_origin(hint) is not ClassVar
            and hint is not ClassVar
            and (declared[name].init if name in declared else not name.startswith("_"))
        }
    return _hints[kind]


def _default(kind: type, name: str) -> object:
    """What a field is when it is not given, _MISSING if it is required; a list of its own for every configuration."""
    value = getattr(kind, "__dataclass_fields__", {}).get(name, _MISSING)
    if value is _MISSING:
        value = getattr(kind, name, _MISSING)
    if hasattr(value, "default_factory"):  # what dataclasses.field returns
        none = sys.modules["dataclasses"].MISSING
        if value.default_factory is not none:
            return value.default_factory()
        return _MISSING if value.default is none else value.default
    return value.copy() if isinstance(value, (list, dict, set)) else value


def check_config(kind: type, within: tuple[type, ...] = ()) -> list[str]:
    """Why a class cannot be a configuration: fields of types that JSON does not have, or without a type. Empty if it can."""
    name = kind.__qualname__.rpartition("<locals>.")[2]
    if kind in within:
        return [f"{name}: a configuration cannot hold itself"]
    found = []
    fields = fields_of(kind)
    if issubclass(kind, FilterConfig):
        found += [f"{name}.{field}: this name is FilterConfig's own" for field in fields if field == "validate"]
        for base in kind.__mro__[: kind.__mro__.index(FilterConfig)]:
            found += [
                f"{name}.{field}: has no type, so nothing is read into it; write {field}: {type(value).__name__} = ..."
                for field, value in list(base.__dict__.items())
                if field not in fields
                and not field.startswith("_")
                and not field.isupper()
                and not hasattr(value, "__get__")
                and not callable(value)
                and field not in getattr(base, "__annotations__", {})
            ]
    for field, hint in fields.items():
        found += _check(hint, f"{name}.{field}", (*within, kind))
    return found


def _check(kind: Any, where: str, within: tuple[type, ...]) -> list[str]:  # noqa: ANN401
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if is_object(kind):
        return check_config(kind, within)
    if origin in _OBJECTS and arguments and arguments[0] not in (str, Any):
        return [f"{where}: the keys of a JSON object are strings: write dict[str, ...]"]
    if origin in _LISTS or origin in _OBJECTS or origin in (Union, UnionType):
        inner = (argument for argument in arguments if argument is not Ellipsis)
        return [problem for argument in inner for problem in _check(argument, where, within)]
    if isinstance(kind, type) and issubclass(kind, Enum):
        plain = all(isinstance(member.value, (str, int, float)) for member in kind)
        return [] if plain else [f"{where}: {kind.__name__} has values that JSON does not have"]
    if origin is Literal or kind in (Any, object) or kind in _NAMES or origin is re.Pattern:
        return []
    name = getattr(kind, "__qualname__", str(kind))
    own = isinstance(kind, type) and getattr(kind, "__annotations__", None)
    hint = "derive it from FilterConfig, or make it a dataclass" if own else "use str, and convert it in on_start"
    return [f"{where}: a field cannot be of type {name}: {hint}"]


def decode_config(kind: type, value: object, path: str = "") -> object:
    """`value` (parsed JSON) as `kind`, a FilterConfig or dataclass; ConfigError names every problem, each under `path`."""
    problems: list[str] = []
    decoded = _object(kind, value, path and f"{path}.", problems)
    if problems:
        raise ConfigError(problems)
    return decoded


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _object(kind: type, value: object, path: str, problems: list[str]) -> object:
    if not isinstance(value, dict):
        return _wrong(path, "an object", value, problems)
    before = len(problems)
    fields = fields_of(kind)
    names = {spelling: name for name in fields for spelling in (name, _camel(name))}
    decoded: dict[str, Any] = {}
    for key, item in value.items():
        name = names.get(key)
        if name is None:
            problems.append(f"{path}{_cut(key)}: no such field (known: {', '.join(map(_camel, fields)) or 'none'})")
        elif name in decoded:
            problems.append(f"{path}{key}: given twice, as {name} and {_camel(name)}")
        else:
            decoded[name] = _decode(fields[name], item, f"{path}{key}", problems)
    problems += [
        f"{path}{_camel(name)}: required" for name in fields if name not in decoded and _default(kind, name) is _MISSING
    ]
    if len(problems) > before:
        return _MISSING
    try:
        return kind(**decoded)
    except (ValueError, AssertionError) as error:
        text = str(error) or f"{type(error).__name__} in validate"
        problems.append(f"{path.rstrip('.')}: {text}" if path else text)
        return _MISSING


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _shown(value: object) -> str:
    """A value as JSON has it, as far as it is short."""
    return _cut(json.dumps(value, ensure_ascii=False, default=repr))


def _wrong(path: str, expected: str, value: object, problems: list[str]) -> object:
    problems.append(f"{path.rstrip('.') or 'configuration'}: expected {expected}, got {_shown(value)}")
    return _MISSING


def _decode(kind: Any, value: object, path: str, problems: list[str]) -> object:  # noqa: ANN401
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if kind is Any or kind is object:
        return value
    if origin in _LISTS:
        return _list(kind, value, path, problems)
    if origin in _OBJECTS:
        if not isinstance(value, dict):
            return _wrong(path, "an object", value, problems)
        inner = arguments[1] if arguments else Any
        return {key: _decode(inner, item, f"{path}.{_cut(key)}", problems) for key, item in value.items()}
    if origin is Literal:
        found = next((item for item in arguments if type(item) is type(value) and item == value), _MISSING)
        return _wrong(path, _one_of(arguments), value, problems) if found is _MISSING else found
    if origin in (Union, UnionType):
        return _union(arguments, value, path, problems)
    if origin is re.Pattern:
        return _pattern(value, path, problems)
    if is_object(kind):
        return _object(kind, value, f"{path}.", problems)
    if isinstance(kind, type) and issubclass(kind, Enum):
        member = next((item for item in kind if type(item.value) is type(value) and item.value == value), None)
        return _wrong(path, _one_of([item.value for item in kind]), value, problems) if member is None else member
    return _simple(kind, value, path, problems)


def _simple(kind: Any, value: object, path: str, problems: list[str]) -> object:  # noqa: ANN401
    if kind not in _NAMES:
        problems.append(f"{path}: fields of type {kind!r} are not supported")
        return _MISSING
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:  # an int that no float can hold
            pass
        fits = False
    return value if fits else _wrong(path, _NAMES[kind], value, problems)


def _one_of(values: Iterable[object]) -> str:
    return "one of " + ", ".join(map(_shown, values))


def _list(kind: Any, value: object, path: str, problems: list[str]) -> object:  # noqa: ANN401
    """list[X], set[X], tuple[X, ...], and tuple[X, Y], which has as many items as types."""
    if not isinstance(value, list):
        return _wrong(path, "a list", value, problems)
    origin, arguments = get_origin(kind) or kind, get_args(kind) or (Any, ...)
    kinds = [arguments[0]] * len(value)
    if origin is tuple and Ellipsis not in arguments:
        if len(value) != len(arguments):
            return _wrong(path, f"a list of {len(arguments)}", value, problems)
        kinds = list(arguments)
    items = [_decode(item, value[place], f"{path}[{place}]", problems) for place, item in enumerate(kinds)]
    try:
        return _LISTS[origin](items)
    except TypeError:  # a list in a set
        return _wrong(path, "a list of simple values", value, problems)


def _union(arguments: tuple[Any, ...], value: object, path: str, problems: list[str]) -> object:
    if value is None and NoneType in arguments:
        return None
    attempts: list[list[str]] = []
    for kind in arguments:
        if kind is NoneType:
            continue
        attempt: list[str] = []
        decoded = _decode(kind, value, path, attempt)
        if not attempt:
            return decoded
        attempts.append(attempt)
    if len(attempts) == 1:
        problems += attempts[0]
    else:  # one reason for each of the types
        reasons = [attempt[0].removeprefix(f"{path}: ") for attempt in attempts]
        problems.append(f"{path}: fits none of the types: {'; '.join(dict.fromkeys(reasons))}")
    return _MISSING


def _pattern(value: object, path: str, problems: list[str]) -> object:
    if not isinstance(value, str):
        return _wrong(path, "a regular expression", value, problems)
    try:
        return re.compile(value)
    except re.error as error:
        problems.append(f"{path}: not a regular expression: {error}")
        return _MISSING


def config_schema(kind: type) -> dict[str, object]:
    """JSON Schema of a configuration, so that it can be checked before it is pushed."""
    fields = fields_of(kind)
    required = [_camel(name) for name in fields if _default(kind, name) is _MISSING]
    schema: dict[str, object] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {_camel(name): _schema(hint) for name, hint in fields.items()},
    }
    return schema | ({"required": required} if required else {})


def _schema(kind: Any) -> dict[str, object]:  # noqa: ANN401
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin in _LISTS:
        items = [_schema(argument) for argument in arguments if argument is not Ellipsis] or [{}]
        return {"type": "array", "items": items[0] if len(items) == 1 else {"anyOf": items}}
    if origin in _OBJECTS:
        return {"type": "object", "additionalProperties": _schema(arguments[1]) if arguments else {}}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(argument) for argument in arguments]}
    if origin is re.Pattern:
        return {"type": "string", "format": "regex"}
    if is_object(kind):
        return config_schema(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    simple = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
    return {"type": simple[kind]} if kind in simple else {}
