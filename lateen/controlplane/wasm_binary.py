"""What a Wasm module says about itself, without running it: Proxy-Wasm exports, and the manifest of `lateen filter build`. Pure.

WebAssembly core specification, binary format; Proxy-Wasm ABI 0.2.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lateen.controlplane.wasm_url import ModuleError

MAGIC = b"\x00asm\x01\x00\x00\x00"
MANIFEST_SECTION = "lateen.filter"
_ABI = "proxy_abi_version_"
_KNOWN_ABIS = ("0_1_0", "0_2_0", "0_2_1")
_CUSTOM, _EXPORTS = 0, 7
_MAX_SECTIONS = 10_000
_MAX_EXPORTS = 100_000
_MAX_MANIFEST = 4 * 1024 * 1024
_MAX_LEB_BYTES = 5
_MAX_SCHEMA_DEPTH = 50
_DAMAGED = "its manifest is damaged: build it again with `lateen filter build`"


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """`filters` are the names of its filters with the JSON Schema of each one's configuration; None when it does not say."""

    abi: str
    filters: Mapping[str, Mapping[str, Any]] | None = field(default=None, hash=False)


def read_module(data: bytes) -> ModuleFacts:
    """The facts; ModuleError when Envoy could not run it."""
    if not data.startswith(MAGIC):
        kind = "a component, not a core module" if data.startswith(b"\x00asm") else "not a WebAssembly module"
        raise ModuleError(f"it is {kind}")
    try:
        return _read(data)
    except (IndexError, UnicodeDecodeError):
        raise ModuleError("the WebAssembly module is damaged") from None


def _read(data: bytes) -> ModuleFacts:
    abi, filters = "", None
    for number, start, end in _sections(data):
        if number == _EXPORTS:
            abi = abi or _abi(data, start, end)
        elif number == _CUSTOM:
            name, at = _name(data, start)
            if name == MANIFEST_SECTION:
                filters = _filters(data[at : min(end, at + _MAX_MANIFEST)])
    if not abi:
        raise ModuleError("it is WebAssembly, but not a Proxy-Wasm module: it exports no proxy_abi_version")
    if abi not in _KNOWN_ABIS:
        raise ModuleError(f"it is made for Proxy-Wasm ABI {abi}, Envoy knows {', '.join(_KNOWN_ABIS)}")
    return ModuleFacts(abi, filters)


def _sections(data: bytes) -> Iterator[tuple[int, int, int]]:
    at = len(MAGIC)
    for _ in range(_MAX_SECTIONS):
        if at >= len(data):
            return
        number = data[at]
        size, start = _unsigned(data, at + 1)
        at = start + size
        if at > len(data):
            raise ModuleError("the WebAssembly module is cut off")
        yield number, start, at
    raise ModuleError(f"the WebAssembly module has more than {_MAX_SECTIONS} sections")


def _abi(data: bytes, start: int, end: int) -> str:
    count, at = _unsigned(data, start)
    for _ in range(min(count, _MAX_EXPORTS)):
        if at >= end:
            break
        name, at = _name(data, at)
        _, at = _unsigned(data, at + 1)
        if name.startswith(_ABI):
            return name.removeprefix(_ABI)
    return ""


def _filters(manifest: bytes) -> Mapping[str, Mapping[str, Any]]:
    try:
        return filters_of(json.loads(manifest))
    except (ValueError, RecursionError):
        raise ModuleError(_DAMAGED) from None


def filters_of(manifest: object) -> Mapping[str, Mapping[str, Any]]:
    """The filters a manifest speaks of, each with the schema of its configuration; ModuleError if anything is not as we write it."""
    entries = manifest.get("filters") if isinstance(manifest, Mapping) else None
    if not isinstance(entries, list) or not all(map(_is_filter, entries)):
        raise ModuleError(_DAMAGED)
    return {entry["name"]: entry["config"] for entry in entries}


def _is_filter(entry: object) -> bool:
    return isinstance(entry, dict) and _is_name(entry.get("name")) and _is_schema(entry.get("config"), 0)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_schema(value: object, depth: int) -> bool:
    """Whether it is a JSON Schema of the kind that wasm_schema reads, as far as the types of its parts go."""
    if not isinstance(value, dict) or depth > _MAX_SCHEMA_DEPTH:
        return False
    fields, more = value.get("properties", {}), value.get("additionalProperties", True)
    choices, required = value.get("anyOf", []), value.get("required", [])
    if not (
        isinstance(fields, dict) and all(isinstance(each, list) for each in (choices, required, value.get("enum", [])))
    ):
        return False
    items = [value["items"]] if "items" in value else []
    parts = [*choices, *fields.values(), *items, *([] if isinstance(more, bool) else [more])]
    return (
        isinstance(value.get("type", ""), str)
        and all(map(_is_name, (*fields, *required)))
        and all(_is_schema(part, depth + 1) for part in parts)
    )


def _name(data: bytes, at: int) -> tuple[str, int]:
    size, start = _unsigned(data, at)
    if start + size > len(data):
        raise IndexError(size)
    return data[start : start + size].decode(), start + size


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    """LEB128 of 32 bits: the value, and where it ends."""
    value = 0
    for index in range(_MAX_LEB_BYTES):
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at + index + 1
    raise IndexError(at)
