"""pydantic's errors as Diagnostics: every error becomes one finding that says where, what, and what to write instead."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.shape import fields_of, model_at
from lateen.mesh.spec import DNS_LABEL, DNS_SUBDOMAIN, Spec
from lateen.mesh.yaml_source import Path, Position, SourceMap

MAX_FINDINGS = 1_000
"""Of one resource, and of one file; what is beyond is counted, not listed."""
_SHOWN = 60
_LONGEST_NAME = 128
_LONGEST_LINE = 4096
_LONGEST_MESSAGE = 1000


def render_path(path: Iterable[str | int]) -> str:
    """`spec.http[0].match[1].uri`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if len(step) <= 2 * _LONGEST_NAME else f"{step[:_LONGEST_NAME]}..."
            text += f".{name}" if text else name
    return text


def closest(word: str, choices: Iterable[str]) -> str:
    """The choice that `word` was probably meant to be, or ""."""
    if len(word) > _LONGEST_NAME:
        return ""
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else ""


def shown(value: object) -> str:
    """A value as the author would write it, shortened."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing (null)"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | int | float | bool) else str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def kind_of_value(value: object) -> str:
    """`a string`, `a number`, ..."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", dict: "a mapping", list: "a list"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), "nothing (null)")


class Findings:
    """Collects the Diagnostics of one resource; knows its name, its model and where its fields stand."""

    def __init__(self, resource: str, source: SourceMap, model: type[Spec], *, secret: bool = False) -> None:
        self._resource = resource
        self._source = source
        self._model = model
        self._secret = secret
        self.diagnostics: list[Diagnostic] = []

    def add(
        self,
        code: str,
        message: str,
        path: Path = (),
        hint: str = "",
        *,
        severity: Severity = Severity.ERROR,
        position: Position | None = None,
    ) -> None:
        """One finding at `path` (or at `position`); an error makes the resource invalid in itself."""
        position = position or self._source.position(path)
        line = self._source.line_text(position.line)
        self.diagnostics.append(
            Diagnostic(
                code=code,
                severity=severity,
                message=message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]}...",
                resource=self._resource,
                path=render_path(path),
                file=self._source.file,
                line=position.line,
                column=position.column,
                hint=hint,
                source_line="" if self._secret or len(line) > _LONGEST_LINE else line,
                invalid=severity is Severity.ERROR,
            )
        )

    def add_errors(self, errors: Sequence[ErrorDetails]) -> None:
        """What pydantic found."""
        errors = errors[: MAX_FINDINGS + 1]
        unknown = [e for e in errors if e["type"] == "extra_forbidden"]
        meant = {(*_path(e)[:-1], self._meant(_path(e))) for e in unknown}
        faulty = {path[:end] for path in map(_path, errors) for end in range(len(path))}
        for error in errors:
            path = _path(error)
            if error["type"] == "missing" and path in meant:
                continue  # the misspelt field is reported, with what was meant
            if error["type"] == "too_short" and path in faulty:
                continue  # pydantic counts only the valid items
            self._add_error(error, path)

    def _meant(self, path: Path) -> str:
        model = model_at(self._model, path[:-1])
        if model is None:
            return ""
        name = str(path[-1])
        return model.also_called.get(name) or closest(name, fields_of(model))

    def _add_error(self, error: ErrorDetails, path: Path) -> None:
        kind = error["type"]
        context = error.get("ctx", {})
        rule = context.get("path")
        if rule is not None:
            path = (*path, *rule)
        code, describe = _KINDS.get(kind) or ("IST0106", _rule)
        if kind == "extra_forbidden":
            self._unknown(path)
        elif kind == "missing":
            self.add(code, f"{path[-1]} is required", path, f"add {path[-1]}")
        else:
            message, hint = _hidden(error, path) if self._secret else describe(error, path, self._plain(path))
            self.add(code, message, path, hint)

    def _plain(self, path: Path) -> str:
        mark = self._source.mark(path)
        return mark.plain if mark else ""

    def _unknown(self, path: Path) -> None:
        self.add("LTN0104", f"unknown field {shown(path[-1])}", path, self._unknown_hint(path))

    def _unknown_hint(self, path: Path) -> str:
        name, model = str(path[-1]), model_at(self._model, path[:-1])
        for end in range(len(path) - 2, -1, -1):  # wrong indentation is as common as a wrong name
            above = model_at(self._model, path[:end])
            if above is not None and name in fields_of(above):
                return f"{name} is a field of {render_path(path[:end]) or 'the object itself'}: check the indentation"
        if model is None or not fields_of(model):
            return "remove the field: nothing can be set here"
        below = [n for n, shape in fields_of(model).items() if shape.model and name in fields_of(shape.model)]
        if below and name not in model.also_called:
            return f"{name} is a field of {below[0]}"
        meant = self._meant(path)
        return f'did you mean "{meant}"?' if meant else f"known fields: {', '.join(sorted(fields_of(model)))}"


def _path(error: ErrorDetails) -> Path:
    return tuple(step for step in error["loc"] if step != "[key]")


# Describers: (error, path, plain scalar text) -> message, hint. They never show more of a value than `shown` does.

_IN_WORDS = {
    DNS_LABEL: "use lower-case letters, digits and '-', with a letter or digit at both ends",
    DNS_SUBDOMAIN: "use lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
}
_PYDANTIC = frozenset(get_args(ErrorType))
_Describe = Callable[[ErrorDetails, Path, str], tuple[str, str]]
_EXPECTED = {
    "string_type": "a string",
    "int_type": "a number without fraction",
    "int_from_float": "a number without fraction",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "duration_type": "a duration such as 10s, 1m30s or 250ms",
    "int_or_string": "a number or a name",
    "bytes_type": "a string",
    "datetime_type": "a time such as 2026-01-31T12:00:00Z",
}


def _type(error: ErrorDetails, path: Path, plain: str) -> tuple[str, str]:
    value, expected = error["input"], _EXPECTED[error["type"]]
    name = path[-1] if path and isinstance(path[-1], str) else "item"
    got = kind_of_value(value)
    if isinstance(value, str | int | float):
        got += f" ({shown(value)})"
    return f"{name} must be {expected}, got {got}", _type_hint(value, expected, plain)


def _type_hint(value: object, expected: str, plain: str) -> str:
    if value is None:
        return "write a value, or remove the line"
    if expected == "a string" and isinstance(value, bool):
        trap = "" if plain.lower() in {"true", "false"} else f"YAML reads a bare {plain} as {str(value).lower()}; "
        return f'{trap}put it in quotes: "{plain or value}"'
    if expected == "a string" and isinstance(value, int | float):
        trap = _octal(plain, value)
        return f'{trap}{"; " if trap else ""}put it in quotes: "{plain or value}"'
    if isinstance(value, str) and expected.startswith("a number"):
        return "remove the quotes" if re.fullmatch(r"[-+]?[0-9.]+", value) else ""
    if isinstance(value, str) and expected == "true or false":
        return "remove the quotes" if value in {"true", "false"} else "write true or false, without quotes"
    if expected == "a list" and not isinstance(value, dict):
        return f"write a list: [{shown(value)}]"
    if expected.startswith("a duration") and isinstance(value, int | float):
        return f"add a unit: {value}s"
    return "start each item with '- '" if expected == "a list" else ""


def _octal(plain: str, value: object) -> str:
    octal = re.fullmatch(r"[-+]?0o?[0-7_]+", plain) and plain.strip("+-") != "0"
    return f"YAML reads {plain} as an octal number ({value})" if octal else ""


def _choice(error: ErrorDetails, _path: Path, plain: str) -> tuple[str, str]:
    expected = error.get("ctx", {}).get("expected", "")
    allowed = re.findall(r"'([^']*)'", expected) or re.findall(r"\d+", expected)
    value = error["input"]
    message = f"{shown(value)} is not allowed, must be one of {', '.join(allowed)}"
    meant = closest(str(value), allowed) if isinstance(value, str) else ""
    if isinstance(value, bool) and plain.lower() not in {"true", "false"}:
        return message, f"YAML reads a bare {plain} as {str(value).lower()}; put it in quotes"
    return message, f"did you mean {meant}?" if meant else "use one of these values"


def _range(error: ErrorDetails, _path: Path, plain: str) -> tuple[str, str]:
    context = error.get("ctx", {})
    kind, value = error["type"], error["input"]
    if kind in {"greater_than_equal", "less_than_equal"}:
        bound = (
            f"at least {_number(context['ge'])}"
            if kind == "greater_than_equal"
            else f"at most {_number(context['le'])}"
        )
        return f"must be {bound}, got {shown(value)}", _octal(plain, value) or f"write a number that is {bound}"
    low = context.get("min_length")
    what = "characters" if kind.startswith("string") else "items"
    bound = f"at least {low}" if low is not None else f"at most {context.get('max_length')}"
    if low == 1:
        return "must not be empty", "write a value" if what == "characters" else "add an item"
    return f"must have {bound} {what}", "shorten it" if low is None else "lengthen it"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _pattern(error: ErrorDetails, _path: Path, _plain: str) -> tuple[str, str]:
    pattern = error.get("ctx", {}).get("pattern", "")
    return f"{shown(error['input'])} is not well-formed", _IN_WORDS.get(pattern, f"it must match {pattern}")


def _rule(error: ErrorDetails, _path: Path, _plain: str) -> tuple[str, str]:
    message = error["msg"]
    if error["type"] in _PYDANTIC:
        message = message[0].lower() + message[1:]
    return message, error.get("ctx", {}).get("hint", "") or _HINTS.get(error["type"], "")


_HINTS = {
    "one_of": "keep one of them and remove the others",
    "none_of": "set one of them",
    "required": "add what is missing",
    "path": "write an absolute path, such as /v1",
    "duplicate": "rename or remove one of them",
    "port_range": "write a number from 1 to 65535",
    "url": "write a whole URL, such as https://example.com/path",
}


def _duration(error: ErrorDetails, _path: Path, _plain: str) -> tuple[str, str]:
    return error["msg"], "write a number and a unit: 10s, 1m30s or 250ms"


def _hidden(error: ErrorDetails, path: Path) -> tuple[str, str]:
    """For secrets: no word of the value."""
    return f"{path[-1]} must be {_EXPECTED.get(error['type'], 'well-formed')}", ""


_KINDS: Mapping[str, tuple[str, _Describe]] = {
    **dict.fromkeys(_EXPECTED, ("LTN0106", _type)),
    "extra_forbidden": ("LTN0104", _rule),
    "missing": ("LTN0105", _rule),
    "required": ("LTN0105", _rule),
    "enum": ("LTN0107", _choice),
    "literal_error": ("LTN0107", _choice),
    "enum_text": ("LTN0107", _rule),
    "one_of": ("LTN0108", _rule),
    "none_of": ("LTN0108", _rule),
    "greater_than_equal": ("LTN0109", _range),
    "less_than_equal": ("LTN0109", _range),
    "string_too_short": ("LTN0109", _range),
    "string_too_long": ("LTN0109", _range),
    "too_short": ("LTN0109", _range),
    "too_long": ("LTN0109", _range),
    "duration_range": ("LTN0109", _rule),
    "port_range": ("LTN0109", _rule),
    "range": ("LTN0109", _rule),
    "duplicate": ("LTN0112", _rule),
    "string_pattern_mismatch": ("IST0106", _pattern),
    "duration": ("IST0106", _duration),
}


def find_nulls(value: object, path: Path = ()) -> Iterable[Path]:
    """Fields that the author wrote without a value, in a validated object."""
    if isinstance(value, Spec):
        for name in value.model_fields_set:
            item = getattr(value, name)
            below = (*path, type(value).model_fields[name].alias or name)
            if item is None:
                yield below
            else:
                yield from find_nulls(item, below)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from find_nulls(item, (*path, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, Spec):
                yield from find_nulls(item, (*path, str(key)))


def prune(value: Any, paths: Iterable[Path]) -> Any:  # noqa: ANN401 -- YAML holds anything
    """A copy of `value` without the fields at `paths`."""
    pruned = value
    for path in paths:
        pruned = _without(pruned, path)
    return pruned


def _without(value: Any, path: Path) -> Any:  # noqa: ANN401 -- YAML holds anything
    step, rest = path[0], path[1:]
    if isinstance(value, dict):
        if not rest:
            return {k: v for k, v in value.items() if k != step}
        return {k: _without(v, rest) if k == step else v for k, v in value.items()}
    return (
        [_without(v, rest) if i == step else v for i, v in enumerate(value)]
        if isinstance(value, list) and rest
        else value
    )
