"""Small Proxy-Wasm modules: what Envoy takes, in a few hundred bytes."""

import json
from collections.abc import Mapping
from typing import Any

from lateen.agent.wasm_noop import noop_module


def module(label: str = "", filters: Mapping[str, Mapping[str, Any]] | None = None) -> bytes:
    """A module that does nothing; `label` makes it another one, `filters` give it the manifest of `lateen filter build`."""
    data = noop_module() + _custom("label", label.encode())
    if filters is None:
        return data
    manifest = {"filters": [{"name": name, "class": name, "config": schema} for name, schema in filters.items()]}
    return data + _custom("lateen.filter", json.dumps(manifest).encode())


def _custom(name: str, content: bytes) -> bytes:
    body = bytes([len(name)]) + name.encode() + content
    size = len(body)
    encoded = bytearray()
    while size >= 0x80:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return b"\0" + bytes([*encoded, size]) + body
