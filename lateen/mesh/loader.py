"""Text to typed resources with positions, or Diagnostics: everything that is wrong, at once. Reading files is the only I/O here."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.envelope import read_envelope
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.later import later_fields
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.metadata import Resource
from lateen.mesh.problems import MAX_FINDINGS, Findings, find_nulls, prune
from lateen.mesh.spec import OpenSpec, Spec
from lateen.mesh.yaml_source import MAX_BYTES, Document, Position, SourceMap, read_documents

__all__ = ["Loaded", "Located", "Position", "SourceMap", "find_files", "load_mesh_config", "load_paths", "load_text"]

MAX_FILES = 10_000
_MAX_PRUNED = 100
MESH_CONFIG_FILE = "mesh.yaml"
LOCAL_FILE = "lateen.yaml"
_SUFFIXES = {".yaml", ".yml", ".json"}


@dataclass(frozen=True, slots=True)
class Located:
    """A resource, and where it was written."""

    resource: Resource
    source: SourceMap


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a text or a set of files holds. A document that is invalid contributes no resource."""

    resources: tuple[Located, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    mesh: MeshConfig | None = None

    @property
    def invalid(self) -> bool:
        """Whether something is invalid in itself."""
        return any(d.invalid for d in self.diagnostics)


@dataclass(slots=True)
class _Collected:
    """What has been found so far; a later document replaces an earlier one of the same key."""

    resources: dict[ResourceKey, Located] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    mesh: MeshConfig | None = None

    def add(self, located: Located) -> None:
        key = located.resource.key
        earlier = self.resources.pop(key, None)
        if earlier is not None:
            findings = Findings(str(key), located.source, type(located.resource))
            first = earlier.source.position(("metadata", "name"))
            message = f"{key} is declared twice, the last one counts"
            findings.add(
                "LTN0111",
                message,
                ("metadata", "name"),
                f"the first is at {earlier.source.file}:{first.line}",
                severity=Severity.WARNING,
            )
            self.diagnostics += findings.diagnostics
        self.resources[key] = located

    def loaded(self) -> Loaded:
        return Loaded(tuple(self.resources.values()), tuple(self.diagnostics), self.mesh)


def load_text(text: str, file: str) -> Loaded:
    """Every document of `text`; `file` is what diagnostics name."""
    collected = _Collected()
    _load_into(collected, text, file)
    return collected.loaded()


def load_paths(paths: Iterable[FilePath | str]) -> Loaded:
    """Every document of files, and of the YAML and JSON files below directories; `mesh.yaml` and `lateen.yaml` are known by name."""
    collected = _Collected()
    for number, (path, error) in enumerate(find_files(paths)):
        if number >= MAX_FILES:
            collected.diagnostics.append(_file_problem("LTN0003", f"more than {MAX_FILES} files", str(path)))
            break
        text = _read(path, collected.diagnostics) if not error else None
        if error:
            collected.diagnostics.append(_file_problem("LTN0004", error, str(path)))
        if text is not None:
            _load_into(collected, text, str(path))
    return collected.loaded()


def load_mesh_config(text: str, file: str) -> tuple[MeshConfig, tuple[Diagnostic, ...]]:
    """The mesh configuration in `text` (defaults where it has none, or an invalid one), and what is wrong with it."""
    collected = _Collected()
    documents = list(read_documents(text, file))
    for document in documents[:1]:
        _mesh_config(collected, document)
    for document in documents[1:]:
        findings = Findings("MeshConfig", document.source, MeshConfig)
        findings.add("LTN0005", "mesh configuration must be a single document", (), "remove this document")
        collected.diagnostics += findings.diagnostics
    return collected.mesh or MeshConfig(), tuple(collected.diagnostics)


def _file_problem(code: str, message: str, file: str, hint: str = "") -> Diagnostic:
    return Diagnostic(code, Severity.ERROR, message, file=file, line=1, column=1, hint=hint, invalid=True)


def find_files(paths: Iterable[FilePath | str]) -> Iterator[tuple[FilePath, str]]:
    """Files, and the YAML and JSON files below directories, sorted, hidden ones left out; each with what is wrong with it or ""."""
    for path in map(FilePath, paths):
        if path.is_dir():
            # os.walk, unlike rglob, passes over directories that go away meanwhile.
            inside = (FilePath(folder, name) for folder, _, names in os.walk(path) for name in names)
            found = (p for p in inside if p.suffix in _SUFFIXES and p.is_file())
            yield from (
                (p, "") for p in sorted(found) if not any(part.startswith(".") for part in p.relative_to(path).parts)
            )
        else:
            yield path, "" if path.exists() else "no such file or directory"


def _read(path: FilePath, diagnostics: list[Diagnostic]) -> str | None:
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            diagnostics.append(_file_problem("LTN0003", f"the file is larger than {MAX_BYTES // 2**20} MiB", str(path)))
            return None
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        diagnostics.append(
            _file_problem("LTN0004", f"cannot be read: {(error.strerror or str(error)).lower()}", str(path))
        )
    except UnicodeDecodeError as error:
        message = f"not UTF-8 text (byte {error.start})"
        diagnostics.append(_file_problem("LTN0004", message, str(path), "save the file as UTF-8"))
    return None


def _load_into(collected: _Collected, text: str, file: str) -> None:
    before = len(collected.diagnostics)
    name = FilePath(file).name
    for document in read_documents(text, file):
        if document.error is not None:
            _source_error(collected, document)
        elif name == MESH_CONFIG_FILE and isinstance(document.value, dict) and "kind" not in document.value:
            _mesh_config(collected, document)
        elif name == LOCAL_FILE and isinstance(document.value, dict) and "kind" not in document.value:
            continue  # lateen.local reads it
        else:
            _load_document(collected, document)
    surplus = len(collected.diagnostics) - before - MAX_FINDINGS
    if surplus > 0:
        del collected.diagnostics[before + MAX_FINDINGS :]
        collected.diagnostics.append(
            _file_problem("LTN0003", f"{surplus} more findings are not shown", file, "correct the ones above first")
        )


def _source_error(collected: _Collected, document: Document) -> None:
    error = document.error
    if error is not None:
        line, column = error.position.line, error.position.column
        file, source_line = document.source.file, document.source.line_text(line)
        collected.diagnostics.append(
            Diagnostic(
                error.code,
                Severity.ERROR,
                error.message,
                "",
                "",
                file,
                line,
                column,
                error.hint,
                source_line,
                invalid=True,
            )
        )


def _duplicate_keys(findings: Findings, document: Document) -> None:
    for path, position, first in document.duplicates:
        findings.add(
            "LTN0002",
            f'"{path[-1]}" stands twice in this mapping',
            path,
            f"the first is in line {first}",
            position=position,
        )


def _load_document(collected: _Collected, document: Document) -> None:
    """One document, or the items of a `List`."""
    value = document.value
    if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
        for index, item in enumerate(value["items"]):
            source = document.source.below(("items", index))
            duplicates = tuple((p[2:], at, first) for p, at, first in document.duplicates if p[:2] == ("items", index))
            _load_object(collected, Document(item, source, None, duplicates))
        return
    _load_object(collected, document)


def _load_object(collected: _Collected, document: Document) -> None:
    envelope = read_envelope(document.value, document.source)
    if envelope.is_mesh_config:
        _mesh_config(collected, document)
        return
    findings = envelope.findings
    _duplicate_keys(findings, document)
    resource = validate(envelope.info.model, document.value, findings) if envelope.info else None
    if envelope.info is not None and resource is not None:
        for path, message in later_fields(envelope.info.id, resource):
            findings.add("LTN0110", message, path, severity=Severity.WARNING)
    collected.diagnostics += findings.diagnostics
    if resource is not None and not any(d.invalid for d in findings.diagnostics):
        collected.add(Located(resource, document.source))


def _mesh_config(collected: _Collected, document: Document) -> None:
    """A plain MeshConfig, or one wrapped as a resource of ours."""
    if document.error is not None:
        _source_error(collected, document)
        return
    value, source = document.value, document.source
    wrapped = isinstance(value, dict) and value.get("kind") == "MeshConfig" and "apiVersion" in value
    if wrapped:
        extra = [key for key in value if key not in {"apiVersion", "kind", "metadata", "spec"}]
        value, source = value.get("spec", {}), source.below(("spec",))
    findings = Findings("MeshConfig", source, MeshConfig)
    _duplicate_keys(findings, document)
    if wrapped:
        outer = Findings("MeshConfig", document.source, MeshConfig)
        for key in extra:
            outer.add("LTN0104", f'unknown field "{key}"', (key,), "known fields: apiVersion, kind, metadata, spec")
        collected.diagnostics += outer.diagnostics
    mesh = validate(MeshConfig, value, findings)
    if mesh is not None:
        for path, message in later_fields("MeshConfig", mesh):
            findings.add("LTN0110", message, path, severity=Severity.WARNING)
    collected.diagnostics += findings.diagnostics
    if mesh is not None and not any(d.invalid for d in findings.diagnostics):
        collected.mesh = mesh


M = TypeVar("M", bound=Spec)
_MISSES = {"required", "none_of", "requires"}


def validate(model: type[M], value: object, findings: Findings) -> M | None:
    """`value` as a `model`, or None; what is wrong is added to `findings`. Unknown fields do not hide what else is wrong."""
    instance, errors = _try(model, value)
    unknown = [tuple(e["loc"]) for e in errors if e["type"] == "extra_forbidden"]
    if 0 < len(unknown) <= _MAX_PRUNED:
        _, others = _try(model, prune(value, unknown))
        known = {(e["type"], e["loc"]) for e in errors}
        above = {path[:end] for path in unknown for end in range(len(path))}
        # What a rule misses may be what was misspelt.
        errors += [
            e for e in others if (e["type"], e["loc"]) not in known and not (e["loc"] in above and e["type"] in _MISSES)
        ]
    findings.add_errors(errors)
    if instance is not None and not issubclass(model, OpenSpec):
        for path in find_nulls(instance):
            findings.add("LTN0106", f"{path[-1]} has no value (null)", path, "write a value, or remove the line")
    return instance


def _try(model: type[M], value: object) -> tuple[M | None, list[ErrorDetails]]:
    try:
        return model.model_validate(value, by_alias=True, by_name=False), []
    except ValidationError as error:
        return None, error.errors(include_url=False)
