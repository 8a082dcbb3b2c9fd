"""`lateen filter inspect`: what a module holds, as a page for people or as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filters.toolchain.inspection import Inspection, inspect_module, render_modules
from lateen.cli.exits import CommandError, Exit
from lateen.cli.filterbuild import MIB
from lateen.cli.output import Format, render_data, render_table
from lateen.controlplane.wasm_binary import filters_of

KIB = 1024
MOST_MODULES = 20
FACTS = ("python", "componentize", "seed", "source")


def inspect(path: Path, fmt: Format) -> str:
    """The page; CommandError if the file is no module, or says of itself what cannot be. Nothing in it can steer a terminal."""
    if fmt in (Format.WIDE, Format.NAME):
        raise CommandError(Exit.USAGE, f"-o {fmt.value}: there is only table, json and yaml")
    try:
        found = inspect_module(path.read_bytes())
        page = render_data(found.to_dict(), fmt) if fmt is not Format.TABLE else render(found)
    except OSError as error:
        raise CommandError(Exit.INVALID, f"{path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise CommandError(Exit.INVALID, f"{path}: {error}") from None
    return "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in page)


def render(found: Inspection) -> str:
    """Filters first, then what they weigh, then what the module asks of Envoy and what Envoy calls."""
    manifest: Mapping[str, Any] = found.manifest
    facts = [[key, str(manifest[key])] for key in FACTS if key in manifest]
    schemas = filters_of(manifest) if "filters" in manifest else {}
    filters = [
        [item["name"], str(item.get("class", "")), _fields(schemas[item["name"]])]
        for item in manifest.get("filters", ())
    ]
    sizes = sorted(found.sections.items(), key=lambda item: -item[1])
    parts = [
        render_table(("SIZE", f"{found.size / MIB:.1f} MiB"), [["functions", str(found.functions)], *facts]),
        render_table(("FILTER", "CLASS", "CONFIG"), filters) if filters else "",
        render_table(("SECTION", "KIB"), [[name, f"{size / KIB:.1f}"] for name, size in sizes]),
        _modules(found.modules),
        "CALLS OF ENVOY\n" + "\n".join(found.imports),
        "CALLED BY ENVOY\n" + "\n".join(found.exports),
        render_modules(manifest) if manifest else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _modules(modules: Mapping[str, int]) -> str:
    """The largest Python modules; the others in one line."""
    if not modules:
        return ""
    ordered = sorted(modules.items(), key=lambda item: (-item[1], item[0]))
    rows = [[name, f"{size / KIB:.1f}"] for name, size in ordered[:MOST_MODULES]]
    if others := ordered[MOST_MODULES:]:
        rows.append([f"{len(others)} others", f"{sum(size for _, size in others) / KIB:.1f}"])
    return render_table(("PYTHON MODULE (part of data)", "KIB"), [*rows, ["all", f"{sum(modules.values()) / KIB:.1f}"]])


def _fields(schema: Mapping[str, Any]) -> str:
    """Names and types of a configuration; what is required is marked."""
    required = schema.get("required", ())
    fields = [
        f"{name}: {_type(kind)}{' (required)' if name in required else ''}"
        for name, kind in schema.get("properties", {}).items()
    ]
    return ", ".join(fields) or "-"


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(_type(item) for item in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"[{_type(schema.get('items', {}))}]"
    return str(schema.get("format") or schema.get("type", "any"))
