"""Modules on disk by their digest, where proxies of this host read them, and what is remembered about them over a restart."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import structlog

MAX_STORE_BYTES = 1024 * 1024 * 1024
_STATE = "plugins.json"
_SUFFIX = ".wasm"
_UNFINISHED = ".new-"
_ABANDONED_SECONDS = 3600


class ModuleStore:
    """A directory of modules. Blocking I/O; one process at a time writes to it."""

    def __init__(self, directory: Path, max_bytes: int = MAX_STORE_BYTES) -> None:
        """The directory is made when the first module comes. It and the modules are readable for the user Envoy runs as."""
        self.directory = directory
        self._max_bytes = max_bytes
        self._log = structlog.get_logger()

    def path(self, digest: str) -> Path:
        """Where a module is, or would be."""
        return self.directory / f"{digest}{_SUFFIX}"

    def put(self, data: bytes) -> str:
        """Keep a module; returns its digest. OSError when there is no room."""
        digest = hashlib.sha256(data).hexdigest()
        if not self._has(digest, data):
            self._write(self.path(digest), data, 0o644)
        self._touch(digest)
        return digest

    def _has(self, digest: str, data: bytes) -> bool:
        """Whether it is there, and not cut short when the power failed."""
        try:
            path = self.path(digest)
            return path.stat().st_size == len(data) and path.read_bytes() == data
        except OSError:
            return False

    def get(self, digest: str) -> bytes | None:
        """The module, if it is there and whole."""
        try:
            data = self.path(digest).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != digest:
            self._log.error("a stored module is damaged, it will be fetched again", path=str(self.path(digest)))
            with contextlib.suppress(OSError):
                self.path(digest).unlink()
            return None
        self._touch(digest)
        return data

    def prune(self, used: Collection[str]) -> int:
        """Delete the longest unused modules beyond the bound; those in `used` always stay. Returns how many there are then.

        What a process that was killed had begun to write goes too.
        """
        found = []
        for path in self.directory.glob(f"{_UNFINISHED}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()
        for path in self.directory.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, path, status.st_size))
        total, kept = sum(size for _, _, size in found), len(found)
        for _, path, size in sorted(found):
            if total > self._max_bytes and path.stem not in used:
                path.unlink(missing_ok=True)
                total, kept = total - size, kept - 1
        return kept

    def load_state(self) -> Mapping[str, Any]:
        """What `save_state` wrote; nothing when there is none or it is damaged."""
        try:
            found = json.loads((self.directory / _STATE).read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._log.error("what was known of plugins cannot be read, going on without it", error=str(error))
            return {}
        return found if isinstance(found, dict) else {}

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Remember for the next start."""
        try:
            self._write(self.directory / _STATE, json.dumps(state, sort_keys=True).encode(), 0o600)
        except OSError as error:
            self._log.error("what is known of plugins cannot be saved, a restart will forget it", error=str(error))

    def _write(self, path: Path, data: bytes, mode: int) -> None:
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True, exist_ok=True)
            self.directory.chmod(0o711)
        descriptor, temporary = tempfile.mkstemp(dir=self.directory, prefix=_UNFINISHED)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), mode)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _touch(self, digest: str) -> None:
        with contextlib.suppress(OSError):
            os.utime(self.path(digest))
