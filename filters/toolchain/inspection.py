"""What a built module holds, for `lateen filter inspect`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

from filters.toolchain.binary import (
    MalformedModuleError,
    read_custom_name,
    read_items,
    read_name,
    read_sections,
    read_unsigned,
)
from filters.toolchain.core_module import MAGIC
from filters.toolchain.link import MANIFEST_SECTION

SECTIONS = {
    0: "custom",
    1: "types",
    2: "imports",
    3: "functions",
    4: "table",
    5: "memory",
    6: "globals",
    7: "exports",
    9: "elements",
    10: "code",
    11: "data",
}
OWN = ("filters", "lateen_filter", "lateen_entry", "wit_world", "componentize_py_runtime", "componentize_py_types")


@dataclass(frozen=True)
class Inspection:
    """Sizes in bytes. `modules` are Python's, and what their objects take in the data (see guest_sizes); empty for others' modules."""

    size: int
    sections: Mapping[str, int]
    imports: tuple[str, ...]
    exports: tuple[str, ...]
    functions: int
    manifest: Mapping[str, object]
    modules: Mapping[str, int]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def inspect_module(raw: bytes) -> Inspection:
    """Read the outline of a module; it need not be one of ours. MalformedModuleError, also of one that was cut short."""
    if raw[:8] != MAGIC:
        raise MalformedModuleError("not a WebAssembly module")
    sections: dict[str, int] = {}
    imports: list[str] = []
    exports: list[str] = []
    manifest: dict[str, object] = {}
    functions = 0
    for number, start, end in read_sections(raw, 8, len(raw), SECTIONS):
        label = SECTIONS.get(number, f"section {number}")
        if number == 0:
            label, content = read_custom_name(raw, start, end)
            if label == MANIFEST_SECTION:
                manifest = _manifest(raw[content:end])
        elif number == 2:
            read_items(raw, start, end, partial(_import, imports))
        elif number == 7:
            read_items(raw, start, end, partial(_export, exports))
        elif number == 10:
            functions = read_unsigned(raw[start:end] + b"\0", 0)[0]
        sections[label] = sections.get(label, 0) + end - start
    sizes = manifest.pop("sizes", None)
    modules = {name: size for name, size in sizes.items() if isinstance(size, int)} if isinstance(sizes, dict) else {}
    return Inspection(len(raw), sections, tuple(imports), tuple(exports), functions, manifest, modules)


def _manifest(text: bytes) -> dict[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise MalformedModuleError("its manifest is damaged")
    return found


def _import(found: list[str], raw: bytes, at: int) -> int:
    module, at = read_name(raw, at)
    title, at = read_name(raw, at)
    if raw[at] != 0:
        raise MalformedModuleError(f"import {module}.{title} is no function")
    found.append(f"{module}.{title}")
    return read_unsigned(raw, at + 1)[1]


def _export(found: list[str], raw: bytes, at: int) -> int:
    title, at = read_name(raw, at)
    found.append(title)
    return read_unsigned(raw, at + 1)[1]


def render_modules(manifest: Mapping[str, object]) -> str:
    """The Python modules inside, packages once."""
    modules = manifest.get("modules")
    names = [name for name in modules if isinstance(name, str)] if isinstance(modules, list) else []
    tops = sorted({name.partition(".")[0] for name in names})
    shown = [top for top in tops if top not in OWN and not top.startswith("_")]
    return f"{len(names)} modules: {', '.join(shown)}"
