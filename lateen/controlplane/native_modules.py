"""Modules with machine code, on disk: for one build of Envoy on one kind of processor, under their own checksum."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 1024 * 1024 * 1024
_SUFFIX: Final = ".native"
_KEY_BYTES: Final = 12
_CPU_FIELDS: Final = frozenset(
    {"vendor_id", "cpu family", "model", "model name", "stepping", "flags", "CPU implementer", "CPU part", "Features"}
)


class DamagedError(Exception):
    """What lay there was not what had been written; it is deleted."""


def machine_key(envoy_digest: str, cpuinfo: str) -> str:
    """A short name of an Envoy's executable (by its sha256) and the first processor of /proc/cpuinfo (proc(5)); ValueError if empty."""
    facts = {}
    for line in cpuinfo.split("\n\n", 1)[0].splitlines():
        field, colon, value = line.partition(":")
        if colon and field.strip() in _CPU_FIELDS:
            facts[field.strip()] = sorted(value.split())
    if not facts:
        raise ValueError("/proc/cpuinfo says nothing of the processor")
    text = json.dumps([envoy_digest, platform.machine(), facts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).hexdigest()


class NativeModules:
    """A directory of files MODULE.MACHINE.CHECKSUM.native, kept from start to start. Blocking I/O."""

    def __init__(self, directory: Path, max_bytes: int = MAX_BYTES) -> None:
        """The directory is made when the first module comes. What is longest unused goes beyond `max_bytes`."""
        self.directory = directory
        self._max_bytes = max_bytes

    def put(self, digest: str, machine: str, data: bytes) -> Path:
        """Keep what was made of the module `digest`; OSError when there is no room, and then nothing is left of it."""
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True, exist_ok=True)
            self.directory.chmod(0o711)
        path = self.directory / f"{digest}.{machine}.{hashlib.sha256(data).hexdigest()}{_SUFFIX}"
        _write(path, data)
        self._prune({digest})
        return path

    def get(self, digest: str, machine: str) -> Path | None:
        """What was made of a module for this machine, whole; DamagedError, OSError."""
        for path in self._files(digest, machine):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if path.name.split(".")[2] != found:
                path.unlink(missing_ok=True)
                raise DamagedError(f"{path} is damaged")
            with contextlib.suppress(OSError):
                os.utime(path)
            return path
        return None

    def lend(self, path: Path, directory: Path) -> Path:
        """The same file in a directory of modules, for those that can read that one only; OSError.

        What was lent of modules that are no longer there goes.
        """
        for old in directory.glob(f"*{_SUFFIX}"):
            if not (directory / f"{old.name.partition('.')[0]}.wasm").exists():
                old.unlink(missing_ok=True)
        target = directory / path.name
        if target.exists() and target.samefile(path):
            return target
        try:
            target.hardlink_to(path)
        except OSError:  # another file system, or something is there
            _write(target, path.read_bytes())
        return target

    def drop(self, digest: str, machine: str) -> None:
        """Forget what was made of a module for this machine."""
        for path in self._files(digest, machine):
            with contextlib.suppress(OSError):
                path.unlink()

    def _files(self, digest: str, machine: str) -> list[Path]:
        return sorted(self.directory.glob(f"{digest}.{machine}.*{_SUFFIX}"))

    def _prune(self, used: Collection[str]) -> None:
        found = []
        for path in self.directory.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, path, status.st_size))
        total = sum(size for _, _, size in found)
        for _, path, size in sorted(found):
            if total > self._max_bytes and path.name.partition(".")[0] not in used:
                path.unlink(missing_ok=True)
                total -= size


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, for everybody to read."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
