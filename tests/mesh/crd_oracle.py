"""CustomResourceDefinitions as a judge: schema validation with every object closed, defaults, and the CEL rules where they stand.

Small and independent of `lateen`: what it does is what a Kubernetes API server does with a CRD, for the keywords these CRDs use.
"""

import base64
import copy
import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import celpy
import yaml
from celpy import celtypes
from celpy.adapter import json_to_cel
from celpy.evaluation import CELEvalError

Schema = dict[str, Any]
Json = Any
_ORACLE = Path(__file__).resolve().parents[3] / "shared" / "oracle"
CRD_FILES = (_ORACLE / "istio" / "crd", _ORACLE / "gateway-api" / "crd")
SAMPLES = _ORACLE / "istio" / "samples"
VALIDATION = _ORACLE / "istio" / "validation"


@dataclass(frozen=True)
class Violation:
    """What the CRD objects to, and where."""

    path: str
    message: str


@cache
def schemas() -> dict[tuple[str, str], Schema]:
    """Group and kind to the schema of its newest version."""
    found: dict[tuple[str, str], Schema] = {}
    for folder in CRD_FILES:
        for file in sorted(folder.glob("*.yaml")):
            for crd in yaml.load_all(file.read_text(), yaml.CSafeLoader):
                if crd and crd.get("kind") == "CustomResourceDefinition":
                    spec = crd["spec"]
                    found[spec["group"], spec["names"]["kind"]] = spec["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def violations(group: str, kind: str, document: dict[str, Any]) -> list[Violation]:
    """Everything the CRD of `kind` objects to in `document`; metadata is not looked at."""
    schema = schemas()[group, kind]
    body = {key: value for key, value in document.items() if key not in {"apiVersion", "kind", "metadata", "status"}}
    trimmed = {**schema, "properties": {k: v for k, v in schema["properties"].items() if k == "spec"}}
    body = _with_defaults(trimmed, copy.deepcopy(body))
    found = list(_structural(trimmed, body, ""))
    return found or list(_rules(trimmed, body, ""))


def _with_defaults(schema: Schema, value: Json) -> Json:
    if isinstance(value, dict):
        for name, below in schema.get("properties", {}).items():
            if "default" in below and value.get(name) is None:
                value[name] = copy.deepcopy(below["default"])
            if name in value:
                value[name] = _with_defaults(below, value[name])
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict):
            for name in value:
                value[name] = _with_defaults(extra, value[name])
    elif isinstance(value, list) and "items" in schema:
        value = [_with_defaults(schema["items"], item) for item in value]
    return value


# Structure

_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool}
_FORMATS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


def _has_type(kind: str, value: Json) -> bool:
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, _TYPES[kind])


def _structural(schema: Schema, value: Json, path: str) -> Iterator[Violation]:
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield Violation(path, "must be an integer or a string")
    elif kind and not _has_type(kind, value):
        yield Violation(path, f"must be of type {kind}")
        return
    yield from _value_keywords(schema, value, path)
    yield from _branches(schema, value, path)
    if isinstance(value, dict):
        yield from _object(schema, value, path)
    elif isinstance(value, list):
        yield from _list(schema, value, path)


def _value_keywords(schema: Schema, value: Json, path: str) -> Iterator[Violation]:
    if "enum" in schema and (value not in schema["enum"] or isinstance(value, bool)):
        yield Violation(path, "unsupported value")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = _FORMATS.get(schema.get("format", ""), (float("-inf"), float("inf")))
        if not max(low, schema.get("minimum", low)) <= value <= min(high, schema.get("maximum", high)):
            yield Violation(path, "out of range")
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", float("inf")):
            yield Violation(path, "length out of range")
        if "pattern" in schema and not re.search(
            schema["pattern"].replace("$", r"\Z") if "\n" in value else schema["pattern"], value
        ):
            yield Violation(path, "should match pattern")
        if not _format(schema.get("format", ""), value):
            yield Violation(path, f"must be of format {schema['format']}")


def _format(name: str, value: str) -> bool:
    try:
        if name == "ipv4":
            ipaddress.IPv4Address(value)
        elif name == "ipv6":
            ipaddress.IPv6Address(value)
        elif name == "byte":
            base64.b64decode(value, validate=True)
    except ValueError:
        return False
    return True


def _branches(schema: Schema, value: Json, path: str) -> Iterator[Violation]:
    def fits(branch: Schema) -> bool:
        return not list(_open(branch, value))

    for branch in schema.get("allOf", []):
        yield from _branches(branch, value, path)
    if "oneOf" in schema and sum(fits(branch) for branch in schema["oneOf"]) != 1:
        yield Violation(path, "must match exactly one of oneOf")
    if "anyOf" in schema and not any(fits(branch) for branch in schema["anyOf"]):
        yield Violation(path, "must match one of anyOf")
    if "not" in schema and fits(schema["not"]):
        yield Violation(path, "must not match not")


def _open(branch: Schema, value: Json) -> Iterator[Violation]:
    """A branch only constrains: it never closes the object."""
    yield from _value_keywords(branch, value, "")
    yield from _branches(branch, value, "")
    if isinstance(value, dict):
        for name in branch.get("required", []):
            if name not in value:
                yield Violation("", f"{name} required")
        for name, below in branch.get("properties", {}).items():
            if name in value:
                yield from _open(below, value[name])


def _object(schema: Schema, value: dict[str, Any], path: str) -> Iterator[Violation]:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    properties, extra = schema.get("properties", {}), schema.get("additionalProperties")
    for name in schema.get("required", []):
        if name not in value:
            yield Violation(f"{path}.{name}", "required value")
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", float("inf")):
        yield Violation(path, "number of properties")
    for name, item in value.items():
        below = properties.get(name, extra)
        if isinstance(below, dict):
            yield from _structural(below, item, f"{path}.{name}")
        elif below is None:
            yield Violation(f"{path}.{name}", "unknown field")


def _list(schema: Schema, value: list[Any], path: str) -> Iterator[Violation]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", float("inf")):
        yield Violation(path, "number of items")
    for index, item in enumerate(value):
        yield from _structural(schema.get("items", {}), item, f"{path}[{index}]")
    kind = schema.get("x-kubernetes-list-type")
    keys: list[Any] = []
    if kind == "set":
        keys = [repr(item) for item in value]
    elif kind == "map":
        keys = [
            tuple(repr(item.get(k)) for k in schema["x-kubernetes-list-map-keys"])
            for item in value
            if isinstance(item, dict)
        ]
    if len(keys) != len(set(keys)):
        yield Violation(path, "duplicate value")


# CEL


def _substring(text: celtypes.StringType, start: celtypes.IntType, end: celtypes.IntType) -> celtypes.StringType:
    if not 0 <= start <= end <= len(text):
        raise ValueError("substring out of range")
    return celtypes.StringType(text[start:end])


def _parse_url(text: str) -> str:
    if not text or text.startswith(":") or re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("not a url")
    parts = urlsplit(text)
    if not parts.scheme and not text.startswith("/"):
        raise ValueError("not a url")
    host = re.split(r"[/?]", text.split("//", 1)[1], maxsplit=1)[0] if "//" in text and parts.scheme else ""
    if re.search(r"[ #%^`{|}\\]", host) or (":" in host and re.search(r"[^0-9]", host.rsplit(":", 1)[1])):
        raise ValueError("not a host")
    return text


def _url(text: celtypes.StringType) -> celtypes.StringType:
    return celtypes.StringType(_parse_url(str(text)))


def _is_url(text: celtypes.StringType) -> celtypes.BoolType:
    try:
        _parse_url(str(text))
    except ValueError:
        return celtypes.BoolType(False)
    return celtypes.BoolType(True)


def _scheme(text: celtypes.StringType) -> celtypes.StringType:
    return celtypes.StringType(urlsplit(str(text)).scheme)


def _split(text: celtypes.StringType, by: celtypes.StringType) -> celtypes.ListType:
    return celtypes.ListType([celtypes.StringType(part) for part in str(text).split(str(by))])


_GO_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


def _duration(text: celtypes.StringType) -> celtypes.DurationType:
    found = re.fullmatch(r"([+-]?)((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|ms|s|m|h))+|[+-]?0", str(text))
    if not found:
        raise ValueError("not a duration")
    seconds = sum(
        float(n) * _GO_UNITS[u] for n, u in re.findall(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h)", str(text))
    )
    if seconds > 2**63 / 1e9:
        raise ValueError("duration out of range")
    sign = -1 if found.group(1) == "-" else 1
    return celtypes.DurationType(seconds=0, nanos=0) + celtypes.DurationType(f"{sign * seconds:.9f}s")


_FUNCTIONS: dict[str, Callable[..., Json]] = {
    "substring": _substring,
    "url": _url,
    "isURL": _is_url,
    "getScheme": _scheme,
    "split": _split,
    "duration": _duration,
}
_ENVIRONMENT = celpy.Environment()


@cache
def _program(rule: str) -> Json:
    return _ENVIRONMENT.program(_ENVIRONMENT.compile(rule), functions=_FUNCTIONS)


_RESERVED = {"namespace": "__namespace__"}


def _cel(value: Json) -> Json:
    if isinstance(value, dict):
        return celtypes.MapType({celtypes.StringType(_RESERVED.get(str(k), str(k))): _cel(v) for k, v in value.items()})
    if isinstance(value, list):
        return celtypes.ListType([_cel(item) for item in value])
    return json_to_cel(value)


def _holds(rule: str, value: Json) -> bool:
    try:
        return bool(_program(rule).evaluate({"self": value}))
    except CELEvalError:
        return False


def _rules(schema: Schema, value: Json, path: str) -> Iterator[Violation]:
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" not in rule["rule"] and not _holds(rule["rule"], _cel(value)):
            yield Violation(path, rule.get("message", rule["rule"]))
    if isinstance(value, dict):
        extra = schema.get("additionalProperties")
        for name, item in value.items():
            below = schema.get("properties", {}).get(name, extra)
            if isinstance(below, dict):
                yield from _rules(below, item, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _rules(schema["items"], item, f"{path}[{index}]")
