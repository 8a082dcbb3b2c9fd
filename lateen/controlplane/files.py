"""A directory of YAML as a source of configuration that never forgets the last good state.

While a file cannot be parsed all it gave stays in force; while a document is invalid its last good version does. Files are read when
they have settled, so that editors may write in place, truncate first, or rename; a vanished directory takes nothing away.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from lateen.clock import Clock
from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.loader import Loaded, Located, load_mesh_config, load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.metadata import ResourceKey

POLL_SECONDS = 0.2
MAX_FILES = 10_000
MAX_FILE_BYTES = 8 * 1024 * 1024
_MAX_DEPTH = 32
_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_NOT_RESOURCES = frozenset({"lateen.yaml", "lateen.yml", "mesh.yaml", "mesh.yml"})
_SETTLE_SECONDS = 0.05
_EMPTY_SETTLE_SECONDS = 0.4
_MAX_DEFERRALS = 10
_GONE_AFTER = 2
_FIXED = {"trust_domain": "trustDomain", "root_namespace": "rootNamespace"}

_Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class FileChange:
    """What a poll found new. `mesh` is None when the mesh configuration is as it was; `diagnostics` are all that stand now."""

    upserts: tuple[Located, ...]
    deletes: tuple[ResourceKey, ...]
    mesh: MeshConfig | None
    files: tuple[str, ...]
    broken: tuple[str, ...]
    diagnostics: tuple[Diagnostic, ...]


@dataclass(slots=True)
class _File:
    """One file as it was last read."""

    signature: _Signature | None = None
    digest: bytes = b""
    resources: dict[ResourceKey, Located] = field(default_factory=dict)
    diagnostics: tuple[Diagnostic, ...] = ()
    deferred: int = 0
    missing: int = 0

    @property
    def broken(self) -> bool:
        return any(d.invalid for d in self.diagnostics)


class FileSource:
    """Watches `directory` (and, apart from it, the mesh configuration file). `poll` does blocking I/O; everything else is memory."""

    def __init__(
        self, directory: Path | None, mesh_config: Path | None = None, now: Callable[[], float] = time.time
    ) -> None:
        """Prepare; nothing is read before the first `poll`."""
        self._directory = directory
        self._mesh_file = mesh_config
        self._now = now
        self._files: dict[Path, _File] = {}
        self._mesh_state = _File()
        self._in_force: dict[ResourceKey, Located] = {}
        self._problems: tuple[Diagnostic, ...] = ()
        self._duplicates: tuple[Diagnostic, ...] = ()
        self._polled = False
        self.mesh = MeshConfig()

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All findings of the files as they stand, in the order of files."""
        found = [d for _, state in sorted(self._files.items()) for d in state.diagnostics]
        return (*self._problems, *self._duplicates, *self._mesh_state.diagnostics, *found)

    @property
    def broken(self) -> tuple[str, ...]:
        """Files in which something is invalid, so that (part of) their last good content stays in force."""
        states = [*sorted(self._files.items()), *([(self._mesh_file, self._mesh_state)] if self._mesh_file else [])]
        return tuple(str(path) for path, state in states if state.broken)

    def poll(self) -> FileChange | None:
        """Look once; None when nothing has changed."""
        problems: list[Diagnostic] = []
        changed = self._poll_directory(problems)
        mesh_changed = self._poll_mesh()
        if tuple(problems) != self._problems:
            self._problems = tuple(problems)
            changed = changed or [str(self._directory)]
        first, self._polled = not self._polled, True
        if not changed and not mesh_changed and not first:
            return None
        upserts, deletes = self._merge()
        if mesh_changed:
            changed = [*changed, str(self._mesh_file)]
        mesh = self.mesh if mesh_changed or first else None
        return FileChange(upserts, deletes, mesh, tuple(changed), self.broken, self.diagnostics)

    # the directory

    def _poll_directory(self, problems: list[Diagnostic]) -> list[str]:
        if self._directory is None:
            return []
        try:
            present = dict(_walk(self._directory, problems))
        except OSError as error:
            problems.append(_problem(self._directory, f"cannot be read, its last content stays: {_reason(error)}"))
            return []
        changed = [str(path) for path, signature in present.items() if self._poll_file(path, signature)]
        for path in [path for path in self._files if path not in present]:
            state = self._files[path]
            state.missing += 1
            if state.missing >= _GONE_AFTER:
                del self._files[path]
                changed.append(str(path))
        return changed

    def _poll_file(self, path: Path, signature: _Signature) -> bool:
        state = self._files.get(path)
        if state is None:
            state = self._files[path] = _File()
        state.missing = 0
        text = self._read_if_new(path, signature, state, empty_matters=bool(state.resources))
        if text is None:
            return False
        if isinstance(text, Diagnostic):
            state.diagnostics, state.digest = (text,), b""
            return True
        loaded = _load(text, path)
        new = {located.resource.key: located for located in loaded.resources}
        state.resources = new | _kept(state.resources, new, loaded.diagnostics)
        state.diagnostics = loaded.diagnostics
        return True

    def _poll_mesh(self) -> bool:
        if self._mesh_file is None:
            return False
        state = self._mesh_state
        try:
            signature = _signature(self._mesh_file.stat())
        except OSError:
            return False  # not there (any more): the last one, or the defaults, stay
        text = self._read_if_new(self._mesh_file, signature, state, empty_matters=self._polled)
        if text is None:
            return False
        if isinstance(text, Diagnostic):
            state.diagnostics, state.digest = (text,), b""
            return True
        mesh, state.diagnostics = load_mesh_config(text, str(self._mesh_file))
        if not state.broken:
            old = {name: getattr(self.mesh, name) for name in _FIXED if getattr(self.mesh, name) != getattr(mesh, name)}
            if self._polled and old:
                state.diagnostics += tuple(_cannot_change(self._mesh_file, text, _FIXED[name]) for name in old)
                mesh = mesh.model_copy(update=old)
            self.mesh = mesh
        return True

    def _read_if_new(
        self, path: Path, signature: _Signature, state: _File, *, empty_matters: bool
    ) -> str | Diagnostic | None:
        """The text if it is new and has settled, a Diagnostic if it cannot be read, None if there is nothing to do."""
        if state.signature == signature:
            return None
        if self._polled and state.deferred < _MAX_DEFERRALS:
            settle = _EMPTY_SETTLE_SECONDS if empty_matters and signature[1] == 0 else _SETTLE_SECONDS
            if self._now() - signature[0] / 1e9 < settle:
                state.deferred += 1
                return None
        try:
            if signature[1] > MAX_FILE_BYTES:
                state.signature = signature
                return _problem(path, f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB", "LTN0003")
            data = path.read_bytes()
            if self._polled and state.deferred < _MAX_DEFERRALS and _signature(path.stat()) != signature:
                state.deferred += 1
                return None
            text = data.decode("utf-8-sig")
        except OSError as error:
            unreadable = _problem(path, f"cannot be read: {_reason(error)}")
            return unreadable if state.diagnostics != (unreadable,) else None
        except UnicodeDecodeError as error:
            state.signature = signature
            return _problem(path, f"not UTF-8 text (byte {error.start})", hint="save the file as UTF-8")
        state.signature, state.deferred = signature, 0
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest == state.digest:
            return None
        state.digest = digest
        return text

    def _merge(self) -> tuple[tuple[Located, ...], tuple[ResourceKey, ...]]:
        """What is in force now against what was: of a key in several files the last file's counts, as everywhere."""
        merged: dict[ResourceKey, Located] = {}
        duplicates: list[Diagnostic] = []
        for path, state in sorted(self._files.items()):
            for key, located in state.resources.items():
                if key in merged:
                    duplicates.append(_declared_twice(key, merged[key], located, path))
                merged[key] = located
        upserts = tuple(located for key, located in merged.items() if self._in_force.get(key) is not located)
        deletes = tuple(key for key in self._in_force if key not in merged)
        self._in_force, self._duplicates = merged, tuple(duplicates)
        return upserts, deletes


async def watch(source: FileSource, clock: Clock, interval: float = POLL_SECONDS) -> AsyncIterator[FileChange]:
    """Poll for ever in a worker thread, and yield what changes."""
    while True:
        change = await asyncio.to_thread(source.poll)
        if change is not None:
            yield change
        await clock.sleep(interval)


def _load(text: str, path: Path) -> Loaded:
    """As `load_text`; a failure of ours to understand the text is a finding too, and takes nothing away."""
    try:
        return load_text(text, str(path))
    except Exception as error:  # noqa: BLE001 - one file must not end the watching of all others
        structlog.get_logger().exception("a file could not be loaded", file=str(path))
        return Loaded(diagnostics=(_problem(path, f"cannot be loaded: {type(error).__name__}: {error}"),))


def _kept(
    old: Mapping[ResourceKey, Located], new: Mapping[ResourceKey, Located], diagnostics: tuple[Diagnostic, ...]
) -> dict[ResourceKey, Located]:
    """Resources whose documents are invalid now; all, when it cannot be told which document is meant."""
    invalid = {d.resource for d in diagnostics if d.invalid}
    all_of_them = any("/" not in resource for resource in invalid)
    return {key: value for key, value in old.items() if key not in new and (all_of_them or str(key) in invalid)}


def _walk(directory: Path, problems: list[Diagnostic]) -> Iterator[tuple[Path, _Signature]]:
    """YAML files below `directory`, hidden ones and our own settings apart; symlinks are followed, each directory once."""
    seen: set[tuple[int, int]] = set()
    count = 0
    stack = [(directory, 0)]
    while stack:
        folder, depth = stack.pop()
        identity = folder.stat()
        if (identity.st_dev, identity.st_ino) in seen or depth > _MAX_DEPTH:
            continue
        seen.add((identity.st_dev, identity.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    if entry.is_dir():
                        stack.append((Path(entry.path), depth + 1))
                    elif Path(entry.name).suffix in _SUFFIXES and entry.name not in _NOT_RESOURCES and entry.is_file():
                        count += 1
                        if count > MAX_FILES:
                            problems.append(_problem(directory, f"more than {MAX_FILES} files", "LTN0003"))
                            return
                        yield Path(entry.path), _signature(entry.stat())
                except FileNotFoundError:
                    continue  # gone between the two calls: the next poll knows


def _signature(stat: os.stat_result) -> _Signature:
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_ctime_ns)


def _problem(path: Path | None, message: str, code: str = "LTN0004", hint: str = "") -> Diagnostic:
    return Diagnostic(code, Severity.ERROR, message, file=str(path), line=1, column=1, hint=hint, invalid=True)


def _cannot_change(path: Path, text: str, name: str) -> Diagnostic:
    lines = text.splitlines()
    number, line = next(((n, line) for n, line in enumerate(lines, 1) if name in line), (1, lines[0] if lines else ""))
    message = f"{name} cannot change while the mesh runs: every certificate names it. the old value stays"
    return replace(
        _problem(path, message, "LTN0110", "restart the mesh"),
        severity=Severity.WARNING,
        line=number,
        column=line.find(name) + 1 or 1,
        source_line=line,
        invalid=False,
    )


def _declared_twice(key: ResourceKey, first: Located, last: Located, path: Path) -> Diagnostic:
    """As the loader says it of files that it reads together, so that nobody is told twice."""
    name = ("metadata", "name")
    place, other = last.source.position(name), first.source.position(name)
    return replace(
        _problem(path, f"{key} is declared twice, the last one counts", "LTN0111"),
        severity=Severity.WARNING,
        resource=str(key),
        path="metadata.name",
        line=place.line,
        column=place.column,
        hint=f"the first is at {first.source.file}:{other.line}",
        source_line=last.source.line_text(place.line),
        invalid=False,
    )


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
