"""What a built module holds, for `lateen filter inspect`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from filters.toolchain.binary import MalformedModuleError, read_name, read_unsigned
from filters.toolchain.core_module import MAGIC
from filters.toolchain.link import MANIFEST_SECTION

SECTIONS = {
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
    at = 8
    while at < len(raw):
        number = raw[at]
        label = SECTIONS.get(number, f"section {number}" if number else "custom")
        try:
            size, start = read_unsigned(raw, at + 1)
        except IndexError:
            size, start = 1, len(raw)
        at = start + size
        if at > len(raw):
            raise MalformedModuleError(f"cut short: it ends at byte {len(raw)}, in the middle of a section ({label})")
        if number == 0:
            label, content = read_name(raw, start)
            if label == MANIFEST_SECTION:
                manifest = json.loads(raw[content:at])
        elif number == 2:
            imports = _imports(raw, start)
        elif number == 7:
            exports = _exports(raw, start)
        elif number == 10:
            functions = read_unsigned(raw, start)[0]
        sections[label] = sections.get(label, 0) + size
    sizes = manifest.pop("sizes", None)
    modules = sizes if isinstance(sizes, dict) else {}
    return Inspection(len(raw), sections, tuple(imports), tuple(exports), functions, manifest, modules)


def _imports(raw: bytes, at: int) -> list[str]:
    found = []
    count, at = read_unsigned(raw, at)
    for _ in range(count):
        module, at = read_name(raw, at)
        title, at = read_name(raw, at)
        if raw[at] != 0:
            raise MalformedModuleError(f"import {module}.{title} is no function")
        _, at = read_unsigned(raw, at + 1)
        found.append(f"{module}.{title}")
    return found


def _exports(raw: bytes, at: int) -> list[str]:
    found = []
    count, at = read_unsigned(raw, at)
    for _ in range(count):
        title, at = read_name(raw, at)
        _, at = read_unsigned(raw, at + 1)
        found.append(title)
    return found


def render_modules(manifest: Mapping[str, object]) -> str:
    """The Python modules inside, packages once."""
    modules = manifest.get("modules")
    names = [name for name in modules if isinstance(name, str)] if isinstance(modules, list) else []
    tops = sorted({name.partition(".")[0] for name in names})
    shown = [top for top in tops if top not in OWN and not top.startswith("_")]
    return f"{len(names)} modules: {', '.join(shown)}"
