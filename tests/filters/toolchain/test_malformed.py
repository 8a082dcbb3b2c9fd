"""Files that are no modules, or lie about what they hold: one error, soon, whoever reads them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.toolchain import component
from filters.toolchain.binary import MalformedModuleError, name, section, unsigned, vector
from filters.toolchain.component import parse_component
from filters.toolchain.core_module import MAGIC, parse_module
from filters.toolchain.inspection import inspect_module
from lateen.cli.exits import CommandError
from lateen.cli.filterinspect import inspect
from lateen.cli.output import Format
from lateen.controlplane.wasm_binary import read_module
from lateen.controlplane.wasm_schema import check_config
from lateen.controlplane.wasm_url import ModuleError

CONFIG = {"type": "object", "properties": {"a": {"type": "string"}}}


def module(manifest: bytes) -> bytes:
    """One of everything."""
    return MAGIC + b"".join(
        (
            section(1, vector([b"\x60\0\0", b"\x60\1\x7f\0"])),
            section(2, vector([name("env") + name("f") + b"\0" + unsigned(0)])),
            section(3, vector([unsigned(0)])),
            section(5, b"\1\1\2\4"),
            section(6, vector([b"\x7f\1\x41\5\x0b"])),
            section(7, vector([name("proxy_abi_version_0_2_1") + b"\0\1", name("memory") + b"\2\0"])),
            section(9, vector([b"\0\x41\0\x0b" + vector([b"\0"])])),
            section(10, vector([b"\2\0\x0b"])),
            section(11, vector([b"\0\x41\0\x0b\3abc"])),
            section(0, name("name") + section(1, vector([b"\0" + name("f")]))),
            section(0, name("lateen.filter") + manifest),
        )
    )


def said(config: object, **more: object) -> bytes:
    """A manifest."""
    return json.dumps({"filters": [{"name": "a", "class": "A", "config": config}], **more}).encode()


GOOD = module(said(CONFIG))


def as_component(raw: bytes) -> object:
    """Its sections read as those of a component."""
    return parse_component(component.MAGIC + raw[8:])


def in_component(raw: bytes) -> object:
    """As the one module of a component."""
    return parse_component(component.MAGIC + section(1, raw))


READERS: tuple[Callable[[bytes], object], ...] = (
    inspect_module,
    parse_module,
    as_component,
    in_component,
    read_module,
)


def read_by_all(raw: bytes) -> list[bool]:
    """Who has read it; all others have said why not, with their own exception."""
    found = []
    for reader in READERS:
        try:
            reader(raw)
        except (MalformedModuleError, ModuleError):
            found.append(False)
        else:
            found.append(True)
    return found


def test_what_is_changed_below_is_read() -> None:
    assert read_by_all(GOOD) == [True, True, False, True, True]
    assert read_module(GOOD).filters == {"a": CONFIG}


@pytest.mark.parametrize("size", range(0, len(GOOD), 3))
def test_cut_short(size: int) -> None:
    read_by_all(GOOD[:size])


HUGE = unsigned(2**32 - 1)
BOMBS = {
    "a number without an end": MAGIC + b"\1" + b"\xff" * 1_000_000,
    "the same in a section": MAGIC + section(1, b"\xff" * 1_000_000),
    "2 GB in 20 bytes": MAGIC + b"\1" + unsigned(2**31) + b"x" * 6,
    "a name of 2 GB": MAGIC + section(0, unsigned(2**31) + b"name"),
    "a name that is not text": MAGIC + section(0, b"\2\xff\xfe"),
    "a section in the names that is longer": MAGIC + section(0, name("name") + b"\1" + HUGE),
    "as many sections as there are bytes": MAGIC + b"\x0c\0" * 500_000,
    "a constant without an end": MAGIC + section(6, b"\1\x7f\1" + b"\x41\5\x6a" * 300_000),
} | {f"4 billion items of section {number}": MAGIC + section(number, HUGE + bytes(500_000)) for number in range(1, 12)}


@pytest.mark.parametrize("raw", BOMBS.values(), ids=BOMBS)
def test_bombs(raw: bytes) -> None:
    """They took minutes, or memory by the gigabyte; the limit of this test is pytest's."""
    assert not read_by_all(raw)[1]


PIECES = st.sampled_from([b"", b"\0", b"\1", b"\x7f", b"\x80", b"\xff", HUGE, unsigned(2**63), b"\x80" * 20])
CHANGES = st.lists(
    st.tuples(st.integers(0, len(GOOD)), st.integers(0, 8), st.one_of(PIECES, st.binary(max_size=8))), min_size=1
)


@settings(max_examples=300, deadline=None)
@given(CHANGES)
def test_mutations(changes: list[tuple[int, int, bytes]]) -> None:
    raw = GOOD
    for at, removed, put in changes:
        raw = raw[:at] + put + raw[at + removed :]
    read_by_all(raw)


def nested(depth: int) -> object:
    """A schema in a schema."""
    found: dict[str, object] = {"type": "string"}
    for _ in range(depth):
        found = {"anyOf": [found]}
    return found


MANIFESTS = {
    "nothing": b"",
    "no text": b"\xff\xfe",
    "a list": b"[1, 2]",
    "null": b"null",
    "deep": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 300_000,
    "a long number": b'{"filters": [], "n": ' + b"7" * 1_000_000 + b"}",
    "filters are a number": b'{"filters": 5}',
    "a filter is a number": b'{"filters": [5]}',
    "a filter without a name": b'{"filters": [{"config": {}}]}',
    "a name that steers a terminal": b'{"filters": [{"name": "\\u001b[31m", "config": {}}]}',
    "a surrogate": b'{"filters": [{"name": "\\ud800", "config": {}}]}',
    "pairs": b'{"filters": [{"name": "a", "config": [["type", "object"]]}]}',
    "enum": said({"enum": 5}),
    "any of": said({"anyOf": [5]}),
    "type": said({"type": ["string"]}),
    "properties": said({"type": "object", "properties": []}),
    "a property": said({"type": "object", "properties": {"a": 5}}),
    "required": said({"type": "object", "required": [[]]}),
    "items": said({"type": "array", "items": 5}),
    "more": said({"type": "object", "additionalProperties": 5}),
    "very deep": said(nested(300)),
}


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
def test_hostile_manifests(manifest: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.wasm"
    path.write_bytes(module(manifest))
    with pytest.raises(ModuleError, match="manifest is damaged"):
        read_module(path.read_bytes())
    with pytest.raises(CommandError, match="manifest is damaged"):
        inspect(path, Format.TABLE)


@pytest.mark.parametrize("fmt", [Format.TABLE, Format.JSON, Format.YAML])
def test_what_is_shown_cannot_steer_a_terminal(fmt: Format, tmp_path: Path) -> None:
    path = tmp_path / "x.wasm"
    path.write_bytes(
        module(said(CONFIG, seed="\x1b[31m", modules=5, sizes={"a": "x", "b": 5}))
        + section(0, name("\x1b]0;title\x07") + b"x")
    )
    page = inspect(path, fmt)
    assert all(character.isprintable() or character == "\n" for character in page)
    assert "title" in page


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "type"]), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["type", "enum", "anyOf", "properties", "items", "required", "additionalProperties", "format"])
SCHEMAS = st.recursive(
    st.dictionaries(KEYS, JSON | st.sampled_from(["object", "array", "string", "regex"]), max_size=4),
    lambda inner: st.dictionaries(KEYS, inner | st.lists(inner, max_size=2) | st.dictionaries(st.just("a"), inner)),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(SCHEMAS, st.dictionaries(st.sampled_from(["a", "b", "lateen"]), JSON, max_size=3))
def test_a_schema_that_is_taken_can_be_used(schema: object, config: dict[str, object]) -> None:
    try:
        filters = read_module(module(said(schema))).filters
    except ModuleError:
        return
    assert filters is not None
    assert isinstance(check_config(filters["a"], config), list)
