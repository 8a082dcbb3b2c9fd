"""A core module, parsed as far as linking needs: index spaces, initialisers and where each function body lies."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import NamedTuple

from filters.toolchain.binary import (
    MalformedModuleError,
    read_custom_name,
    read_items,
    read_name,
    read_sections,
    read_signed,
    read_unsigned,
)


class Kind(IntEnum):
    """Sort of an import or export, numbered as the format does."""

    FUNCTION = 0
    TABLE = 1
    MEMORY = 2
    GLOBAL = 3


class Import(NamedTuple):
    module: str
    name: str
    type_index: int  # functions only


class GlobalDefinition(NamedTuple):
    value_type: int
    initialiser: bytes


class Elements(NamedTuple):
    """An active element segment: what it writes into table 0."""

    offset: bytes
    functions: tuple[int, ...]


class Data(NamedTuple):
    """An active data segment."""

    offset: bytes
    content: bytes


MAGIC = b"\0asm\1\0\0\0"
FUNCTION_TYPE = 0x60
END = 0x0B


@dataclass
class CoreModule:
    """One module of a component; function bodies stay in `raw`."""

    raw: bytes
    types: list[bytes] = field(default_factory=list)
    imports: dict[Kind, list[Import]] = field(default_factory=lambda: {kind: [] for kind in Kind})
    function_types: list[int] = field(default_factory=list)
    tables: list[bytes] = field(default_factory=list)
    memories: list[bytes] = field(default_factory=list)
    globals: list[GlobalDefinition] = field(default_factory=list)
    exports: dict[str, tuple[Kind, int]] = field(default_factory=dict)
    elements: list[Elements] = field(default_factory=list)
    bodies: list[tuple[int, int]] = field(default_factory=list)
    data: list[Data] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)

    @property
    def imported_functions(self) -> int:
        """Imports come first in the index space of functions."""
        return len(self.imports[Kind.FUNCTION])

    def function_type(self, index: int) -> bytes:
        """The type of function `index`, as the type section writes it."""
        imported = self.imported_functions
        if index < imported:
            return self.types[self.imports[Kind.FUNCTION][index].type_index]
        return self.types[self.function_types[index - imported]]


def parse_module(raw: bytes) -> CoreModule:
    """Parse a core module; refuse what a componentize-py module never holds (start function, passive segments, tags)."""
    if raw[:8] != MAGIC:
        raise MalformedModuleError("not a WebAssembly core module")
    module = CoreModule(raw)
    for number, start, end in read_sections(raw, 8, len(raw)):
        if number == 0:
            _custom(module, start, end)
        elif number == 8:
            raise MalformedModuleError("a module with a start function cannot be linked: its snapshot is not complete")
        elif number != 12:
            reader = READERS.get(number)
            if reader is None:
                raise MalformedModuleError(f"section {number} is not supported")
            read_items(raw, start, end, partial(reader, module))
    return module


def read_constant(raw: bytes, at: int) -> tuple[bytes, int]:
    """A constant expression (with the extended-const operators) and the position after its end."""
    start = at
    while True:
        opcode = raw[at]
        at += 1
        if opcode == END:
            return raw[start:at], at
        if opcode in (0x41, 0x42):
            _, at = read_signed(raw, at)
        elif opcode == 0x23:
            _, at = read_unsigned(raw, at)
        elif opcode == 0x43:
            at += 4
        elif opcode == 0x44:
            at += 8
        elif opcode not in (0x6A, 0x6B, 0x6C):
            raise MalformedModuleError(f"opcode {opcode:#x} in a constant expression")


def _custom(module: CoreModule, start: int, end: int) -> None:
    title, at = read_custom_name(module.raw, start, end)
    if title != "name":
        return
    for subsection, inner, last in read_sections(module.raw, at, end):
        if subsection == 1:
            read_items(module.raw, inner, last, partial(_name, module))


def _name(module: CoreModule, raw: bytes, at: int) -> int:
    index, at = read_unsigned(raw, at)
    module.names[index], at = read_name(raw, at)
    return at


def _type(module: CoreModule, raw: bytes, at: int) -> int:
    start = at
    if raw[at] != FUNCTION_TYPE:
        raise MalformedModuleError("only plain function types are supported")
    at += 1
    for _ in range(2):
        count, at = read_unsigned(raw, at)
        at += count
    module.types.append(raw[start:at])
    return at


def _limits(raw: bytes, at: int) -> int:
    bounded = raw[at] & 1
    _, at = read_unsigned(raw, at + 1)
    return read_unsigned(raw, at)[1] if bounded else at


def _import(module: CoreModule, raw: bytes, at: int) -> int:
    source, at = read_name(raw, at)
    title, at = read_name(raw, at)
    if raw[at] not in tuple(Kind):
        raise MalformedModuleError(f"import {source}.{title} is of a kind that is not supported")
    kind = Kind(raw[at])
    at += 1
    type_index = -1
    if kind is Kind.FUNCTION:
        type_index, at = read_unsigned(raw, at)
    elif kind is Kind.TABLE:
        at = _limits(raw, at + 1)
    elif kind is Kind.MEMORY:
        at = _limits(raw, at)
    else:
        at += 2
    module.imports[kind].append(Import(source, title, type_index))
    return at


def _function(module: CoreModule, raw: bytes, at: int) -> int:
    index, at = read_unsigned(raw, at)
    module.function_types.append(index)
    return at


def _table(module: CoreModule, raw: bytes, at: int) -> int:
    end = _limits(raw, at + 1)
    module.tables.append(raw[at:end])
    return end


def _memory(module: CoreModule, raw: bytes, at: int) -> int:
    end = _limits(raw, at)
    module.memories.append(raw[at:end])
    return end


def _global(module: CoreModule, raw: bytes, at: int) -> int:
    value_type = raw[at]
    initialiser, end = read_constant(raw, at + 2)
    module.globals.append(GlobalDefinition(value_type, initialiser))
    return end


def _export(module: CoreModule, raw: bytes, at: int) -> int:
    title, at = read_name(raw, at)
    if raw[at] not in tuple(Kind):
        raise MalformedModuleError(f"export {title} is of a kind that is not supported")
    kind = Kind(raw[at])
    index, at = read_unsigned(raw, at + 1)
    module.exports[title] = (kind, index)
    return at


def _elements(module: CoreModule, raw: bytes, at: int) -> int:
    flags, at = read_unsigned(raw, at)
    if flags not in (0, 2):
        raise MalformedModuleError(f"element segments with flags {flags} are not supported")
    if flags == 2:
        at += 1  # table index
    offset, at = read_constant(raw, at)
    if flags == 2:
        at += 1  # element kind
    count, at = read_unsigned(raw, at)
    functions = []
    for _ in range(count):
        index, at = read_unsigned(raw, at)
        functions.append(index)
    module.elements.append(Elements(offset, tuple(functions)))
    return at


def _body(module: CoreModule, raw: bytes, at: int) -> int:
    size, at = read_unsigned(raw, at)
    module.bodies.append((at, at + size))
    return at + size


def _data(module: CoreModule, raw: bytes, at: int) -> int:
    flags, at = read_unsigned(raw, at)
    if flags != 0:
        raise MalformedModuleError("only active data segments are supported")
    offset, at = read_constant(raw, at)
    size, at = read_unsigned(raw, at)
    module.data.append(Data(offset, raw[at : at + size]))
    return at + size


READERS: dict[int, Callable[[CoreModule, bytes, int], int]] = {
    1: _type,
    2: _import,
    3: _function,
    4: _table,
    5: _memory,
    6: _global,
    7: _export,
    9: _elements,
    10: _body,
    11: _data,
}
