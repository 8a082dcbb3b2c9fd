"""YAML to values and positions: what Kubernetes would read, within bounds, and never an exception."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lateen.mesh import yaml_source
from lateen.mesh.loader import load_text
from lateen.mesh.yaml_source import Position, parse_plain, read_documents

Json = Any


def _value(text: str) -> Json:
    documents = list(read_documents(text, "x"))
    assert len(documents) == 1, documents
    assert documents[0].error is None, documents[0].error
    return documents[0].value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-1", -1), ("0", 0), ("0644", 420), ("0o644", 420), ("0x1F", 31), ("0b11", 3), ("1_000", 1000), ("1.5", 1.5), ("1e3", 1000.0),
        (".5", 0.5), ("08", 8.0), ("true", True), ("Yes", True), ("on", True), ("OFF", False), ("n", "n"), ("y", "y"), ("oN", "oN"), ("~", None),
        ("null", None), ("", None), ("12:30:45", "12:30:45"), ("2024-01-01", "2024-01-01"), ("1.2.3.4", "1.2.3.4"), (".inf", ".inf"), ("-", "-"),
        ("+", "+"), (".", "."), ("0x", "0x"), ("1" * 50, "1" * 50), ("_", "_"), ("0_", 0),
    ],
)  # fmt: skip
def test_plain_scalars(text: str, value: object) -> None:
    parsed = parse_plain(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_quoted_scalars_are_text() -> None:
    assert _value("a: \"1\"\nb: 'on'\nc: |\n  5\nd: !!str 7\ne: ! 8\n") == {
        "a": "1",
        "b": "on",
        "c": "5\n",
        "d": "7",
        "e": "8",
    }


def test_keys_are_text() -> None:
    assert _value("{80: a, on: b, 1.5: c, null: d}") == {"80": "a", "on": "b", "1.5": "c", "null": "d"}


def test_anchors_and_merge_keys() -> None:
    text = "base: &base {a: 1, b: 2}\none: {<<: *base, b: 3}\ntwo: {<<: [*base, {a: 9, c: 4}]}\n"
    assert _value(text) == {"base": {"a": 1, "b": 2}, "one": {"a": 1, "b": 3}, "two": {"a": 1, "b": 2, "c": 4}}


def test_addresses_in_flow_lists() -> None:
    text = "a: [1.2.3.4, 001:db8::]\nb: {c: fd00::}\nd: e\n"
    assert _value(text) == {"a": ["1.2.3.4", "001:db8::"], "b": {"c": "fd00::"}, "d": "e"}
    source = next(read_documents(text, "x")).source
    assert source.position(("d",)) == Position(3, 1)
    assert source.line_text(1) == "a: [1.2.3.4, 001:db8::]"


def test_positions() -> None:
    text = "# first\n---\na:\n  b:\n  - c: 1\n    d: x\n  - e\n"
    source = next(read_documents(text, "x")).source
    assert source.position(("a",)) == Position(3, 1)
    assert source.position(("a", "b", 0)) == Position(5, 5)
    assert source.position(("a", "b", 0, "d")) == Position(6, 5)
    assert source.position(("a", "b", 1)) == Position(7, 5)
    assert source.position(("a", "b", 0, "missing", "deeper")) == Position(5, 5)
    assert source.line_text(6) == "    d: x"
    assert source.line_text(99) == ""


def test_a_syntax_error_spoils_its_own_document_only() -> None:
    documents = list(read_documents("a: 1\n---\nb: [\n---\nc: 3\n", "x"))
    assert [d.value for d in documents] == [{"a": 1}, None, {"c": 3}]
    assert documents[1].error is not None
    assert documents[1].error.position.line == 3
    assert documents[2].source.position(("c",)) == Position(5, 1)


def test_documents_in_every_notation() -> None:
    text = "\ufeff%YAML 1.1\n---\na: 1\n...\n# only a comment\n---\n--- {b: 2}\n--- # c\nd: 3\r\n---\n\n"
    assert [d.value for d in read_documents(text, "x")] == [{"a": 1}, {"b": 2}, {"d": 3}]


@pytest.mark.parametrize("text", ["", "\n\n", "# c\n", "---\n", "---\n---\n", "null\n", "..."])
def test_nothing_is_nothing(text: str) -> None:
    assert list(read_documents(text, "x")) == []


def test_json_is_yaml() -> None:
    value = {"a": [1, 2.5, True, None, {"b": "c\n\t\u2028é"}], "d": ""}
    assert _value(json.dumps(value, indent=2)) == value


def test_billion_laughs() -> None:
    levels = "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9))
    document = next(read_documents(f"a: &a [{', '.join('x' * 10)}]\n{levels}", "x"))
    assert document.error is not None
    assert document.error.code == "LTN0003"


def test_recursive_alias() -> None:
    document = next(read_documents("a: &a [*a]\n", "x"))
    assert document.error is not None
    assert document.error.code == "LTN0001"


def test_too_many_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_source, "MAX_DOCUMENTS", 3)
    documents = list(read_documents("---\na: 1\n" * 5, "x"))
    assert [d.error.code if d.error else "" for d in documents] == ["", "", "", "LTN0003"]


def test_duplicate_keys_are_found_wherever_they_stand() -> None:
    document = next(read_documents("a: {b: 1, b: 2}\nc:\n- d: 1\n  d: 2\na: 3\n", "x"))
    assert [(path, place.line, first) for path, place, first in document.duplicates] == [
        (("a", "b"), 1, 1),
        (("c", 0, "d"), 4, 3),
        (("a",), 5, 1),
    ]
    assert document.value == {"a": {"b": 1}, "c": [{"d": 1}]}


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029"), max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.dictionaries(_TEXT, _JSON, min_size=1, max_size=4))
def test_what_pyyaml_writes_is_read_back(value: dict[str, Any]) -> None:
    text = yaml.safe_dump(value, allow_unicode=True, sort_keys=False)
    assert _value(text) == value


_ODD = st.text(alphabet="ab:-[]{}#&*!|>'\"%@`,? \n\t\x00\x85\ufeff\U0001f600<~.0", max_size=60)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(_ODD | st.text(max_size=60))
def test_no_text_raises(text: str) -> None:
    for diagnostic in load_text("apiVersion: v1\nkind: ConfigMap\nmetadata: " + text, "x").diagnostics:
        assert diagnostic.line >= 1
    load_text(text, "x")
