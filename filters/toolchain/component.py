"""The outer component: which core modules are instantiated with what. Types are skipped over, they do not matter here."""

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from filters.toolchain.binary import MalformedModuleError, read_items, read_name, read_sections, read_unsigned
from filters.toolchain.core_module import CoreModule, Kind, parse_module

MAGIC = b"\0asm\x0d\0\1\0"


class Instantiation(NamedTuple):
    """`instantiate module with {import module name: core instance}`."""

    module: int
    arguments: dict[str, int]


class Bundle(NamedTuple):
    """An instance made of loose exports: name -> (kind, index in the component's core index space)."""

    exports: dict[str, tuple[int, int]]


class Alias(NamedTuple):
    """A core item that is the export of a core instance."""

    instance: int
    name: str


class Lowered(NamedTuple):
    """A core function that stands for an import of the component."""

    label: str


@dataclass
class Component:
    """What linking needs of a component."""

    modules: list[CoreModule] = field(default_factory=list)
    instances: list[Instantiation | Bundle] = field(default_factory=list)
    core: dict[int, list[Alias | Lowered]] = field(default_factory=lambda: {kind: [] for kind in Kind})
    instance_names: list[str] = field(default_factory=list)
    function_names: list[str] = field(default_factory=list)


def parse_component(raw: bytes) -> Component:
    """Parse the binary of a component."""
    if raw[:8] != MAGIC:
        raise MalformedModuleError("not a WebAssembly component")
    component = Component()
    for number, start, end in read_sections(raw, 8, len(raw)):
        if number == 1:
            component.modules.append(parse_module(raw[start:end]))
        elif number in READERS:
            read_items(raw, start, end, partial(READERS[number], component))
    return component


def _core_instance(component: Component, raw: bytes, at: int) -> int:
    form = raw[at]
    at += 1
    if form == 0:
        module, at = read_unsigned(raw, at)
        count, at = read_unsigned(raw, at)
        arguments = {}
        for _ in range(count):
            title, at = read_name(raw, at)
            arguments[title], at = read_unsigned(raw, at + 1)
        component.instances.append(Instantiation(module, arguments))
    else:
        count, at = read_unsigned(raw, at)
        exports = {}
        for _ in range(count):
            title, at = read_name(raw, at)
            kind = raw[at]
            index, at = read_unsigned(raw, at + 1)
            exports[title] = (kind, index)
        component.instances.append(Bundle(exports))
    return at


def _skip_sort(raw: bytes, at: int) -> int:
    """A sort is one byte, or two for the core sorts; an index follows."""
    return read_unsigned(raw, at + (2 if raw[at] == 0 else 1))[1]


def _instance(component: Component, raw: bytes, at: int) -> int:
    form = raw[at]
    at += 1
    if form == 0:
        _, at = read_unsigned(raw, at)
    count, at = read_unsigned(raw, at)
    for _ in range(count):
        _, at = _extern_name(raw, at) if form else read_name(raw, at)
        at = _skip_sort(raw, at)
    component.instance_names.append("")
    return at


def _alias(component: Component, raw: bytes, at: int) -> int:
    sort = raw[at]
    core_sort = raw[at + 1] if sort == 0 else -1
    at += 2 if sort == 0 else 1
    target = raw[at]
    index, at = read_unsigned(raw, at + 1)
    title = ""
    if target in (0, 1):
        title, at = read_name(raw, at)
    else:
        _, at = read_unsigned(raw, at)
    if sort == 0 and core_sort in component.core:
        component.core[core_sort].append(Alias(index, title))
    elif sort == 1:
        component.function_names.append(f"{component.instance_names[index]}#{title}")
    elif sort == 5:
        component.instance_names.append(title)
    return at


def _canonical(component: Component, raw: bytes, at: int) -> int:
    form = raw[at]
    if form not in (0, 1):
        raise MalformedModuleError(f"canonical built-in {form:#x} is not supported")
    index, at = read_unsigned(raw, at + 2)
    count, at = read_unsigned(raw, at)
    for _ in range(count):
        option = raw[at]
        at += 1
        if option in (3, 4, 5, 7, 8):
            _, at = read_unsigned(raw, at)
    if form == 0:
        _, at = read_unsigned(raw, at)
        component.function_names.append("lifted")
    else:
        component.core[Kind.FUNCTION].append(Lowered(component.function_names[index]))
    return at


def _extern_name(raw: bytes, at: int) -> tuple[str, int]:
    if raw[at] not in (0, 1):
        raise MalformedModuleError("names with a version suffix are not supported")
    return read_name(raw, at + 1)


def _skip_description(raw: bytes, at: int) -> int:
    """An extern description: of a module, a type bound (eq or sub resource), or an indexed type."""
    kind = raw[at]
    at += 1
    if kind == 0:
        at += 1
    elif kind == 3 and raw[at] != 0:
        return at + 1
    elif kind == 3:
        at += 1
    return read_unsigned(raw, at)[1]


def _import(component: Component, raw: bytes, at: int) -> int:
    title, at = _extern_name(raw, at)
    kind = raw[at]
    if kind == 1:
        component.function_names.append(title)
    elif kind == 5:
        component.instance_names.append(title)
    return _skip_description(raw, at)


def _export(component: Component, raw: bytes, at: int) -> int:
    title, at = _extern_name(raw, at)
    sort = raw[at]
    at = _skip_sort(raw, at)
    if sort == 1:
        component.function_names.append(title)
    elif sort == 5:
        component.instance_names.append(title)
    return _skip_description(raw, at + 1) if raw[at] else at + 1


READERS = {2: _core_instance, 5: _instance, 6: _alias, 8: _canonical, 10: _import, 11: _export}
