"""Documents to judge: drawn from a CRD schema (mostly valid, every field reachable), and samples with one thing changed."""

import copy
import re
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]
Json = Any

_WORDS = (
    "", "a", "*", "a*", "a.b.c", "A_b", "a b", "0s", "1ms", "10s", "1m30s", "0.5ms", "-1s", "5", "1.2.3.4", "1.2.3.4/16", "::1", "/", "/v1", "/a//b",
    "/a/../b", "/a/..", "/%2f", "/a%zz", "#x", "http://x", "https://x/y?z", "hTTp://x", "ftp://x", "//x", "x:y", "http://a b", "unix:///a", "unix:///a/",
    "unix://@a", "unix://a", "unix://", "acme.example/controller", "x" * 64, "x" * 254, "Terminate", "HTTPS", "TLS", "TCP", "HTTP", "IPAddress",
    "Hostname", "Service", "Gateway", "REQUIRED", "aGk=", "a" * 63 + "Z",
)  # fmt: skip
_NUMBERS = (
    0,
    1,
    -1,
    2,
    63,
    64,
    80,
    99,
    100,
    101,
    302,
    443,
    599,
    600,
    65535,
    65536,
    1_000_000,
    1_000_001,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    0.5,
)
_WRONG: tuple[Any, ...] = ("5", 5, True, [], {}, None, 1.5, [1], {"a": 1}, "on")
_PLAIN = st.sampled_from(("a", "b", "10s", "/v1", "a.b.c", "1m30s"))


@st.composite
def documents(draw: st.DrawFn, schema: Schema) -> Json:
    """A `spec` for `schema`: most draws obey it, a few break it in one or two places."""
    budget = draw(st.sampled_from((0, 0, 1, 1, 2)))
    return _value(draw, schema, 0, [budget])


def _spoil(draw: st.DrawFn, faults: list[int], odds: int = 12) -> bool:
    if faults[0] > 0 and draw(st.integers(0, odds)) == 0:
        faults[0] -= 1
        return True
    return False


def _value(draw: st.DrawFn, schema: Schema, depth: int, faults: list[int]) -> Json:
    if _spoil(draw, faults, 40):
        return draw(st.sampled_from(_WRONG))
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return {"any": [{"thing": 1}, None]}
    kind = schema.get("type")
    if kind == "object":
        return _object(draw, schema, depth, faults)
    if kind == "array":
        low = schema.get("minItems", 0)
        count = (
            draw(st.integers(low, low + 2))
            if not _spoil(draw, faults)
            else draw(st.sampled_from((0, schema.get("maxItems", 2) % 70 + 1)))
        )
        return [_value(draw, schema["items"], depth + 1, faults) for _ in range(count)]
    if kind == "boolean":
        return draw(st.booleans())
    if kind in {"integer", "number"}:
        if _spoil(draw, faults):
            return draw(st.sampled_from(_NUMBERS))
        low, high = max(schema.get("minimum", 1), 1), min(schema.get("maximum", 65535), 65535)
        return draw(st.sampled_from(schema["enum"])) if "enum" in schema else draw(st.integers(low, high))
    return _string(draw, schema, faults)


def _string(draw: st.DrawFn, schema: Schema, faults: list[int]) -> str:
    if _spoil(draw, faults):
        return draw(st.sampled_from(_WORDS))
    if "enum" in schema:
        return str(draw(st.sampled_from(schema["enum"])))
    rules = " ".join(rule["rule"] for rule in schema.get("x-kubernetes-validations", []))
    pattern = schema.get("pattern", "")
    if "duration(" in rules or "(h|m|s|ms)" in pattern:
        return draw(st.sampled_from(("10s", "1ms", "1m30s")))
    if "url(" in rules:
        return draw(st.sampled_from(("http://x/y", "https://x")))
    if schema.get("format") == "byte":
        return "aGk="
    for word in ("a", "http", "HTTP", "acme.example/controller", "a" * 64, ""):
        if _fits(word, schema, rules):
            return draw(st.sampled_from([word, *(w for w in ("b", "/v1", "") if _fits(w, schema, rules))]))
    return draw(st.sampled_from(_WORDS))


def _fits(word: str, schema: Schema, rules: str) -> bool:
    if not schema.get("minLength", 0) <= len(word) <= schema.get("maxLength", 10**6):
        return False
    if "cross namespace" in str(schema.get("x-kubernetes-validations", "")):
        return word == ""
    return bool(re.search(schema.get("pattern", ""), word)) and not ("contains" in rules and "*" in word)


def _object(draw: st.DrawFn, schema: Schema, depth: int, faults: list[int]) -> dict[str, Any]:
    properties: Schema = schema.get("properties", {})
    required = set(schema.get("required", []))
    value: dict[str, Any] = {}
    optional = [name for name in properties if name not in required]
    most = 3 if depth < 5 else 1  # deep objects stay small
    chosen = draw(st.lists(st.sampled_from(optional), max_size=most, unique=True)) if optional else []
    for name in properties:
        if (name in required and not _spoil(draw, faults)) or name in chosen:
            value[name] = _value(draw, properties[name], depth + 1, faults)
    if not faults[0]:
        _keep_one(draw, schema, value)
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        keys = (
            st.sampled_from(("80", "443", "http", "a"))
            if not _spoil(draw, faults)
            else st.sampled_from(("", "*", "0", "65536", "@", "x" * 70))
        )
        for key in draw(st.lists(keys, min_size=schema.get("minProperties", 0), max_size=2, unique=True)):
            value[key] = _value(draw, extra, depth + 1, faults)
    elif _spoil(draw, faults):
        value[draw(st.sampled_from(("unknown", "Name", "match_labels", *(n.upper() for n in properties))))] = 1
    return value


def _keep_one(draw: st.DrawFn, schema: Schema, value: dict[str, Any]) -> None:
    """Of alternatives, keep one: documents should be valid unless meant otherwise."""
    for group in [schema, *schema.get("allOf", [])]:
        names = [b["required"][0] for b in group.get("oneOf", []) if "required" in b]
        present = [n for n in names if n in value]
        for name in present[1:]:
            del value[name]
    targets = [n for n in ("selector", "targetRef", "targetRefs") if n in value]
    if len(targets) > 1:
        kept = draw(st.sampled_from(targets))
        for name in targets:
            if name != kept:
                del value[name]


# One change to a document that is valid

Step = tuple[str | int, ...]


def _places(value: Json, path: Step = ()) -> list[Step]:
    places = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in items:
        places += _places(item, (*path, step))
    return places


def _at(value: Json, path: Step) -> Json:
    for step in path:
        value = value[step]
    return value


@st.composite
def mutations(draw: st.DrawFn, spec: dict[str, Any]) -> dict[str, Any]:
    """`spec` with one field deleted, renamed, doubled, retyped, or set to a boundary."""
    mutated = copy.deepcopy(spec)
    places = _places(mutated)
    if not places:
        return {"unknown": 1}
    path = draw(st.sampled_from(places))
    parent, step = _at(mutated, path[:-1]), path[-1]
    action = draw(st.sampled_from(("delete", "rename", "sibling", "retype", "boundary", "word", "repeat")))
    if action == "delete":
        del parent[step]
    elif action == "rename" and isinstance(parent, dict):
        parent[draw(st.sampled_from((f"{step}x", str(step).upper(), "unknown")))] = parent.pop(step)
    elif action == "sibling" and isinstance(parent, dict):
        parent[
            draw(
                st.sampled_from(
                    (
                        "exact",
                        "prefix",
                        "regex",
                        "selector",
                        "simple",
                        "host",
                        "port",
                        "url",
                        "name",
                        "unknown",
                        "jwks",
                        "percent",
                    )
                )
            )
        ] = "a"
    elif action == "boundary":
        parent[step] = draw(st.sampled_from(_NUMBERS))
    elif action == "word":
        parent[step] = draw(st.sampled_from(_WORDS))
    elif action == "repeat" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[int(step)]))
    else:
        parent[step] = draw(st.sampled_from(_WRONG))
    return mutated
