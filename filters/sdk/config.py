"""Typed configuration: a filter declares fields with annotations, JSON is decoded into them or refused with all reasons."""

import re
from collections.abc import Mapping
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


class ConfigError(ValueError):
    """A configuration does not fit; `problems` lists every reason, each with its path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass_transform(frozen_default=True, kw_only_default=True)
class FilterConfig:
    """Base of a filter's configuration. Fields are annotated attributes; a default makes one optional.

    Types: str, int, float, bool, re.Pattern, Literal, Enum, X | None, list[X], tuple[X, ...], dict[str, X], FilterConfig.
    Unknown keys are refused. Override `validate` for rules between fields. Names in JSON may be camelCase.
    """

    _fields: ClassVar[dict[str, Any] | None] = None

    def __init__(self, **values: Any) -> None:  # noqa: ANN401
        fields = self.fields()
        problems = [f"{name}: no such field" for name in values if name not in fields]
        for name in fields:
            value = values.get(name, _MISSING)
            if value is _MISSING:
                value = getattr(type(self), name, _MISSING)
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

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """Name -> type, in order of declaration."""
        if "_fields" not in cls.__dict__:
            hints = get_type_hints(cls)
            cls._fields = {
                name: hint
                for name, hint in hints.items()
                if not name.startswith("_") and get_origin(hint) is not ClassVar
            }
        return cls._fields or {}


def decode_config(kind: type[FilterConfig], value: object) -> FilterConfig:
    """`value` (parsed JSON) as `kind`; ConfigError names every problem."""
    problems: list[str] = []
    decoded = _object(kind, value, "", problems)
    if problems or not isinstance(decoded, FilterConfig):
        raise ConfigError(problems)
    return decoded


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _object(kind: type[FilterConfig], value: object, path: str, problems: list[str]) -> object:
    if not isinstance(value, dict):
        return _wrong(path, "an object", value, problems)
    before = len(problems)
    fields = kind.fields()
    names = {spelling: name for name in fields for spelling in (name, _camel(name))}
    decoded: dict[str, Any] = {}
    for key, item in value.items():
        if key not in names:
            problems.append(f"{path}{key}: no such field (known: {', '.join(map(_camel, fields)) or 'none'})")
        else:
            decoded[names[key]] = _decode(fields[names[key]], item, f"{path}{key}", problems)
    problems += [
        f"{path}{_camel(name)}: required" for name in fields if name not in decoded and not hasattr(kind, name)
    ]
    if len(problems) > before:
        return _MISSING
    try:
        return kind(**decoded)
    except ValueError as error:
        problems.append(f"{path.rstrip('.')}: {error}" if path else str(error))
        return _MISSING


def _wrong(path: str, expected: str, value: object, problems: list[str]) -> object:
    problems.append(f"{path.rstrip('.') or 'configuration'}: expected {expected}, got {value!r}")
    return _MISSING


def _decode(kind: Any, value: object, path: str, problems: list[str]) -> object:  # noqa: ANN401
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return value
    if origin in (list, tuple):
        if not isinstance(value, list):
            return _wrong(path, "a list", value, problems)
        items = [_decode(arguments[0], item, f"{path}[{index}]", problems) for index, item in enumerate(value)]
        return tuple(items) if origin is tuple else items
    if origin is dict or origin is Mapping:
        if not isinstance(value, dict):
            return _wrong(path, "an object", value, problems)
        return {key: _decode(arguments[1], item, f"{path}.{key}", problems) for key, item in value.items()}
    if origin is Literal:
        return (
            value if value in arguments else _wrong(path, "one of " + ", ".join(map(repr, arguments)), value, problems)
        )
    if origin in (Union, UnionType):
        return _union(arguments, value, path, problems)
    if origin is re.Pattern or kind is re.Pattern:
        return _pattern(value, path, problems)
    if isinstance(kind, type) and issubclass(kind, FilterConfig):
        return _object(kind, value, f"{path}.", problems)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            return _wrong(path, "one of " + ", ".join(repr(member.value) for member in kind), value, problems)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in _NAMES:
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        return value if fits else _wrong(path, _NAMES[kind], value, problems)
    problems.append(f"{path}: fields of type {kind!r} are not supported")
    return _MISSING


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
    problems += attempts[0] if len(attempts) == 1 else [f"{path}: fits none of the types, got {value!r}"]
    return _MISSING


def _pattern(value: object, path: str, problems: list[str]) -> object:
    if not isinstance(value, str):
        return _wrong(path, "a regular expression", value, problems)
    try:
        return re.compile(value)
    except re.error as error:
        problems.append(f"{path}: not a regular expression: {error}")
        return _MISSING


def config_schema(kind: type[FilterConfig]) -> dict[str, object]:
    """JSON Schema of a configuration, so that it can be checked before it is pushed."""
    required = [_camel(name) for name in kind.fields() if not hasattr(kind, name)]
    schema: dict[str, object] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {_camel(name): _schema(hint) for name, hint in kind.fields().items()},
    }
    return schema | ({"required": required} if required else {})


def _schema(kind: Any) -> dict[str, object]:  # noqa: ANN401
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (list, tuple):
        return {"type": "array", "items": _schema(arguments[0])}
    if origin is dict or origin is Mapping:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(argument) for argument in arguments]}
    if origin is re.Pattern or kind is re.Pattern:
        return {"type": "string", "format": "regex"}
    if isinstance(kind, type) and issubclass(kind, FilterConfig):
        return config_schema(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    simple = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
    return {"type": simple[kind]} if kind in simple else {}
