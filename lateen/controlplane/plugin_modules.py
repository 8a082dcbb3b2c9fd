"""One module that plugins want: what is held of it, what it is called on disk, and what of it outlives a restart."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lateen.controlplane.plugins import LuaServing, Serving, WasmServing
from lateen.controlplane.wasm_binary import ModuleFacts, read_module
from lateen.controlplane.wasm_fetch import Credentials
from lateen.controlplane.wasm_store import ModuleStore
from lateen.controlplane.wasm_url import ModuleError, ModuleUrl


class Module:
    """One module that is wanted: what is held of it, and the task that gets it."""

    def __init__(self, url: ModuleUrl, credentials: Credentials | None) -> None:
        self.url = url
        self.credentials = credentials
        self.digest = ""
        self.facts: ModuleFacts | None = None
        self.unusable = ""
        self.error = ""
        self.other_digest = False
        """Whether the error is that another sha256 is demanded."""
        self.failures = 0
        self.seen: tuple[int, ...] | None = None
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


def together(serving: Serving) -> str:
    """The same for those that one trial can be of: plugins of one module, or scripts (empty)."""
    return serving.digest if isinstance(serving, WasmServing) else ""


def judged(data: bytes) -> tuple[str, ModuleFacts | None, str]:
    """The digest of what was fetched, and what it says about itself or why it is of no use."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        return digest, read_module(data), ""
    except ModuleError as error:
        return digest, None, str(error)


def url_key(url: ModuleUrl) -> str:
    """The name of an address in what is remembered over a restart; it may hold a password."""
    return f"{url.kind} {url.image or url.url} {url.sha256} {'/'.join(url.secret)}"


def signature(path: Path) -> tuple[int, ...]:
    """Another one when the file has changed; empty when there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def revived(value: Any, store: ModuleStore) -> Serving | None:  # noqa: ANN401 - JSON of our own
    """What `asdict` made, if its module is still there."""
    try:
        if set(value) == {"code"}:
            return LuaServing(str(value["code"]))
        digest = str(value["digest"])
        if store.get(digest) is None:
            return None
        pairs: Iterable[tuple[str, str]] = ((str(k), str(v)) for k, v in value["env"])
        return WasmServing(
            digest, str(store.path(digest)), str(value["name"]), str(value["configuration"]), tuple(pairs),
            tuple(map(str, value["host_env"])), bool(value["ours"]), bool(value["network"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        return None
