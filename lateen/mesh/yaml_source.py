"""YAML text to plain values and source positions, within bounds.

Documents are split at their `---` lines (which YAML forbids inside a document) and parsed one by one, so that a syntax error spoils
only its own document. Values are built straight from libyaml's events: that gives positions, duplicate keys and limits in one pass.
Scalars follow YAML 1.1 as Kubernetes reads it: timestamps and sexagesimal numbers stay text, mapping keys are always text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

MAX_BYTES = 16 * 1024 * 1024
MAX_DOCUMENTS = 20_000
MAX_DEPTH = 100
MAX_NODES = 100_000
"""Of one document, with every alias counted as what it expands to."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class SourceError:
    """Why a document cannot be read: `code` is one of `diagnostics.CODES`."""

    code: str
    message: str
    position: Position
    hint: str = ""


_Place = tuple[int, int]
"""Line and column, counted from 0 within a chunk."""


class _Refused(Exception):  # noqa: N818 -- internal control flow, always turned into a SourceError
    def __init__(self, code: str, message: str, place: _Place, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.place, self.hint = code, message, place, hint


def _place(event: Event) -> _Place:
    mark = event.start_mark
    return (mark.line, mark.column) if mark is not None else (0, 0)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a field stands, and the plain scalar text it was read from ("" for quoted text and containers)."""

    line: int
    column: int
    plain: str = ""


class SourceMap:
    """The positions of one resource. Keeps the text only; positions are computed when first asked for."""

    __slots__ = ("_first_line", "_index", "_marks", "_prefix", "_text", "file")

    def __init__(self, file: str, text: str, first_line: int, index: int = 0, prefix: Path = ()) -> None:
        self.file = file
        self._text = text
        self._first_line = first_line
        self._index = index
        self._prefix = prefix
        self._marks: dict[Path, Mark] | None = None

    def below(self, prefix: Path) -> "SourceMap":
        """The same source, for an object that stands at `prefix` in the document."""
        return SourceMap(self.file, self._text, self._first_line, self._index, self._prefix + prefix)

    def mark(self, path: Path) -> Mark | None:
        """The mark of exactly `path`."""
        if self._marks is None:
            self._marks = _marks(self._text, self._first_line, self._index)
        return self._marks.get(self._prefix + path)

    def position(self, path: Path) -> Position:
        """Where `path` stands: the key of a field, the first character of a list item; else its nearest existing ancestor."""
        for end in range(len(path), -1, -1):
            found = self.mark(path[:end])
            if found is not None:
                return Position(found.line, found.column)
        return Position(self._first_line, 1)

    def line_text(self, line: int) -> str:
        """The text of a line of the file ("" when it is outside the document)."""
        lines = self._text.split("\n")
        index = line - self._first_line
        return lines[index].rstrip("\r") if 0 <= index < len(lines) else ""


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its value, or why it has none; `duplicates` are keys written twice (path, line of the first)."""

    value: Any
    source: SourceMap
    error: SourceError | None = None
    duplicates: tuple[tuple[Path, Position, int], ...] = ()


def read_documents(text: str, file: str) -> Iterator[Document]:
    """Every document of `text`, in order; documents that are empty are left out."""
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        source = SourceMap(file, "", 1)
        yield Document(
            None, source, SourceError("LTN0003", f"the file is larger than {MAX_BYTES // 2**20} MiB", Position(1, 1))
        )
        return
    count = 0
    for chunk, first_line in _split(text):
        for document in _read_chunk(chunk, first_line, file):
            count += 1
            if count > MAX_DOCUMENTS:
                message = f"more than {MAX_DOCUMENTS} documents in one file"
                yield Document(None, document.source, SourceError("LTN0003", message, Position(first_line, 1)))
                return
            yield document


_SEPARATOR = re.compile(r"^---(?=[ \t\r]|$)", re.MULTILINE)
_NO_CONTENT = re.compile(r"(?:[ \t]*(?:[#].*)?\r?(?:\n|$)|%.*\n?|\.\.\.[ \t]*\r?\n?)*")


def _split(text: str) -> Iterator[tuple[str, int]]:
    text = text.removeprefix("\ufeff")
    starts = [0, *(m.start() for m in _SEPARATOR.finditer(text)), len(text)]
    line = 1
    for start, end in pairwise(starts):
        chunk = text[start:end]
        if not _NO_CONTENT.fullmatch(chunk):
            yield chunk, line
        line += chunk.count("\n")


def _read_chunk(chunk: str, first_line: int, file: str) -> Iterator[Document]:
    try:
        for index, node in enumerate(_nodes(chunk, record=False)):
            if node.value is not None:
                source = SourceMap(file, chunk, first_line, index)
                duplicates = tuple(
                    (path, _at(place, first_line), first + first_line) for path, place, first in node.duplicates
                )
                yield Document(node.value, source, None, duplicates)
    except _Refused as refused:
        error = SourceError(refused.code, refused.message, _at(refused.place, first_line), refused.hint)
        yield Document(None, SourceMap(file, chunk, first_line), error)
    except yaml.YAMLError as problem:
        yield Document(None, SourceMap(file, chunk, first_line), _syntax_error(problem, chunk, first_line))


@dataclass(frozen=True, slots=True)
class _Node:
    value: Any
    duplicates: tuple[tuple[Path, _Place, int], ...]
    marks: dict[Path, Mark]


_MAX_REPAIRS = 50


def _nodes(text: str, *, record: bool) -> list[_Node]:
    """The documents of a chunk. libyaml stumbles over `[fd00::]`, which Kubernetes reads as text: quote such words and retry."""
    for _ in range(_MAX_REPAIRS):
        try:
            return list(_Reader(text, record=record).documents())
        except yaml.scanner.ScannerError as error:
            repaired = _quote_word(text, error)
            if repaired is None:
                raise
            text = repaired
    return list(_Reader(text, record=record).documents())


_WORD = re.compile(r"[^\s,\[\]{}\"']+")


def _quote_word(text: str, error: yaml.scanner.ScannerError) -> str | None:
    if error.problem != "found unexpected ':'" or error.problem_mark is None:
        return None
    lines = text.split("\n")
    line, column = lines[error.problem_mark.line], error.problem_mark.column
    word = next((m for m in _WORD.finditer(line) if m.start() <= column <= m.end()), None)
    if word is None or line[word.end() : word.end() + 1] not in {",", "]", "}"}:
        return None
    lines[error.problem_mark.line] = f'{line[: word.start()]}"{word.group()}"{line[word.end() :]}'
    return "\n".join(lines)


def _at(place: _Place, first_line: int) -> Position:
    return Position(place[0] + first_line, place[1] + 1)


def _syntax_error(error: yaml.YAMLError, chunk: str, first_line: int) -> SourceError:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        lines = chunk.split("\n")
        problem = getattr(error, "problem", None) or "not well-formed"
        context, began = getattr(error, "context", None), getattr(error, "context_mark", None)
        text = lines[mark.line] if mark.line < len(lines) else ""
        hint = _syntax_hint(problem, text)
        if began is not None and began.line != mark.line and text.strip():
            hint += f"; what is being read began in line {began.line + first_line}"
        place = (mark.line, mark.column)
        if not text.strip():  # the text ended: point at what was never closed, or at its end
            last = next(n for n in range(len(lines) - 1, -1, -1) if lines[n].strip() or n == 0)
            place = (began.line, began.column) if began is not None and began.line <= last else (last, len(lines[last]))
        message = f"{context}: {problem}" if context else str(problem)
        return SourceError("LTN0001", message, _at(place, first_line), hint)
    offset = getattr(error, "position", 0) or 0  # of a character that YAML does not allow, in bytes
    before = chunk.encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "replace")
    position = Position(first_line + before.count("\n"), len(before) - (before.rfind("\n") + 1) + 1)
    return SourceError(
        "LTN0001",
        "control characters are not allowed",
        position,
        "remove the character, or write it as an escape in double quotes",
    )


def _syntax_hint(problem: str, line: str) -> str:
    if "\t" in line[: len(line) - len(line.lstrip())] or ("token" in problem and "\t" in line):
        return "indent with spaces: YAML does not allow tabs"
    if "mapping values are not allowed" in problem:
        return "check the indentation of this line and the one above, or put a value that contains ': ' in quotes"
    if "could not find expected ':'" in problem:
        return "a key needs a colon and a space after it"
    return "check indentation, quotes and brackets here and on the lines above"


class _Reader:
    """Builds values (and, on demand, marks) from the events of one chunk."""

    def __init__(self, text: str, *, record: bool) -> None:
        self._events: Iterator[Event] = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._nodes = 0
        self._record = record
        self.marks: dict[Path, Mark] = {}
        self.duplicates: list[tuple[Path, _Place, int]] = []

    def documents(self) -> Iterator[_Node]:
        """Every document of the chunk."""
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                self._anchors = {}
                self._nodes = 0
                self.marks = {}
                self.duplicates = []
                value = self.value((), 0)
                yield _Node(value, tuple(self.duplicates), self.marks)

    def value(self, path: Path, depth: int, event: Event | None = None) -> Any:  # noqa: ANN401 -- YAML holds anything
        """The next node."""
        event = event or next(self._events)
        self._count(1, event)
        if isinstance(event, AliasEvent):
            return self._alias(event)
        if depth > MAX_DEPTH:
            raise _Refused("LTN0003", f"nested more than {MAX_DEPTH} levels deep", _place(event))
        before = self._nodes
        if self._record and path not in self.marks:
            self.marks[path] = Mark(*_place(event), _plain(event))
        value: Any
        if isinstance(event, ScalarEvent):
            value = _scalar(event)
        elif isinstance(event, MappingStartEvent):
            value = self._mapping(path, depth)
        else:
            value = self._sequence(event, path, depth)
        if isinstance(event, NodeEvent) and event.anchor:
            self._anchors[event.anchor] = (value, self._nodes - before + 1)
        return value

    def _count(self, nodes: int, event: Event) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            hint = "aliases count as often as they are used"
            raise _Refused("LTN0003", f"the document has more than {MAX_NODES} values", _place(event), hint)

    def _alias(self, event: AliasEvent) -> Any:  # noqa: ANN401 -- YAML holds anything
        if event.anchor is None or event.anchor not in self._anchors:
            raise _Refused("LTN0001", f"alias *{event.anchor} has no anchor before it", _place(event))
        value, nodes = self._anchors[event.anchor]
        self._count(nodes, event)
        return value

    def _sequence(self, event: Event, path: Path, depth: int) -> list[Any]:
        if not isinstance(event, SequenceStartEvent):
            raise _Refused("LTN0001", "a value is missing", _place(event))
        items: list[Any] = []
        while not _ends(item := next(self._events)):
            items.append(self.value((*path, len(items)), depth + 1, item))
        return items

    def _mapping(self, path: Path, depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        while not _ends(key_event := next(self._events)):
            key = self._key(key_event)
            below = (*path, key)
            if key == "<<" and _plain(key_event):
                merged = {**self._merge(self.value(below, depth + 1), key_event), **merged}
                continue
            if key in first_lines:
                self.duplicates.append((below, _place(key_event), first_lines[key]))
            first_lines.setdefault(key, _place(key_event)[0])
            value_event = next(self._events)
            if self._record and below not in self.marks:
                self.marks[below] = Mark(*_place(key_event), _plain(value_event))
            value = self.value(below, depth + 1, value_event)
            items.setdefault(key, value)
        return {**merged, **items}

    def _key(self, event: Event) -> str:
        if isinstance(event, AliasEvent):
            value = self._alias(event)
            if isinstance(value, str):
                return value
        elif isinstance(event, ScalarEvent):
            self._count(1, event)
            if event.anchor:
                self._anchors[event.anchor] = (event.value, 1)
            return str(event.value)
        raise _Refused("LTN0005", "a key must be text", _place(event))

    @staticmethod
    def _merge(value: object, event: Event) -> dict[str, Any]:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise _Refused("LTN0001", "<< needs a mapping, or a list of mappings", _place(event))
        merged: dict[str, Any] = {}
        for part in reversed(parts):
            merged.update(part)
        return merged


def _ends(event: Event) -> bool:
    return isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent)


def _plain(event: Event) -> str:
    return str(event.value) if isinstance(event, ScalarEvent) and event.implicit[0] else ""


def _marks(text: str, first_line: int, index: int) -> dict[Path, Mark]:
    try:
        marks = _nodes(text, record=True)[index].marks
    except (_Refused, yaml.YAMLError, IndexError):
        return {}  # reported when the document was read
    return {path: Mark(mark.line + first_line, mark.column + 1, mark.plain) for path, mark in marks.items()}


# Scalars

_BOOLS = {
    word: value
    for value, words in {True: ("true", "yes", "on"), False: ("false", "no", "off")}.items()
    for word in words
}
_INT = re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")
_MAX_DIGITS = 40
_TAGS = {"tag:yaml.org,2002:" + name for name in ("str", "int", "float", "bool", "null", "timestamp")}


def parse_plain(text: str) -> str | float | bool | None:
    """The value of an unquoted scalar."""
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text.lower() in _BOOLS and text in {text.lower(), text.title(), text.upper()}:
        return _BOOLS[text.lower()]
    if len(text) <= _MAX_DIGITS:
        if _INT.fullmatch(text):
            return _integer(text.replace("_", ""))
        if _FLOAT.fullmatch(text) and any(c.isdigit() for c in text):
            return float(text.replace("_", ""))
    return text


def _integer(text: str) -> int:
    sign, digits = (-1 if text[0] == "-" else 1), text.lstrip("+-")
    if digits[:2] in {"0x", "0b", "0o"}:
        return sign * int(digits, 0)
    return sign * int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)


def _scalar(event: ScalarEvent) -> str | float | bool | None:
    tag = event.tag
    if tag in {"!", "tag:yaml.org,2002:str"}:
        return str(event.value)
    if tag is None:
        return parse_plain(event.value) if event.implicit[0] else str(event.value)
    if tag not in _TAGS:
        raise _Refused("LTN0001", f"tag {tag} is not supported", _place(event), "remove the tag")
    return parse_plain(event.value)
