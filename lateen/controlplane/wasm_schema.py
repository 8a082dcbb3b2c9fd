"""Whether a plugin's configuration fits its filter's JSON Schema: the subset that typed filters of `lateen filter build` declare. Pure.

What the schema cannot say (rules between fields) is found when the module is tried (plugin_trial.py).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lateen.mesh.yaml_source import Path

RESERVED = "lateen"
"""The key of the options that every filter takes; the filter itself never sees it."""
_OPTIONS: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"onError": {"enum": ["open", "closed"]}, "cpuMs": {"type": "integer"}},
}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list, tuple),
    "object": (dict,),
}
_WORDS: Mapping[str, str] = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_MAX_DEPTH = 100

Problem = tuple[Path, str]


def check_config(schema: Mapping[str, Any], config: Mapping[str, Any]) -> list[Problem]:
    """Every problem with its path in the configuration; empty when it fits."""
    own = {key: value for key, value in config.items() if key != RESERVED}
    problems = list(_check(schema, own, ()))
    if RESERVED in config:
        problems.extend(_check(_OPTIONS, config[RESERVED], (RESERVED,)))
    return problems


def _check(schema: Mapping[str, Any], value: Any, path: Path) -> Iterator[Problem]:  # noqa: ANN401 - any JSON
    if len(path) > _MAX_DEPTH:
        yield path, f"is nested more than {_MAX_DEPTH} levels deep"
        return
    if "enum" in schema:
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in schema["enum"]):
            yield path, f"must be one of {', '.join(map(repr, schema['enum']))}, got {value!r}"
        return
    if "anyOf" in schema:
        yield from _any_of(schema["anyOf"], value, path)
        return
    kind = schema.get("type")
    if kind is not None and not _is(kind, value):
        yield path, f"must be {_WORDS.get(kind, kind)}, got {value!r:.100}"
        return
    if kind == "object":
        yield from _object(schema, value, path)
    elif kind == "array":
        for index, item in enumerate(value):
            yield from _check(schema.get("items", {}), item, (*path, index))
    elif kind == "string" and schema.get("format") == "regex":
        yield from _regex(value, path)


def _is(kind: str, value: object) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return False
    return isinstance(value, _TYPES.get(kind, (object,)))


def _any_of(choices: list[Mapping[str, Any]], value: object, path: Path) -> Iterator[Problem]:
    tried = [list(_check(choice, value, path)) for choice in choices if not (value is not None and _only_null(choice))]
    if any(not problems for problems in tried):
        return
    if len(tried) == 1:
        yield from tried[0]
    else:
        yield path, f"fits none of the types, got {value!r:.100}"


def _only_null(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "null"


def _object(schema: Mapping[str, Any], value: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    fields: Mapping[str, Any] = schema.get("properties", {})
    spelled = {spelling: name for name in fields for spelling in (name, _snake(name))}
    more = schema.get("additionalProperties", True)
    for key, item in value.items():
        if key in spelled:
            yield from _check(fields[spelled[key]], item, (*path, key))
        elif isinstance(more, Mapping):
            yield from _check(more, item, (*path, key))
        elif more is False:
            meant = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {meant[0]}?" if meant else f"known: {', '.join(fields) or 'none'}"
            yield (*path, key), f"is no field of the filter ({hint})"
    given = {spelled.get(key, key) for key in value}
    for name in schema.get("required", ()):
        if name not in given:
            yield path, f"{name} is required"


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name)


def _regex(value: str, path: Path) -> Iterator[Problem]:
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        yield path, f"is not a regular expression: {error}"
