"""Reads the directory that `lateen up` is given, and notices when it changes."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lateen.local.plan import Plan, make_plan
from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.kubernetes import Secret, Service
from lateen.mesh.loader import LOCAL_FILE, MESH_CONFIG_FILE, Located, load_paths, validate
from lateen.mesh.localconfig import Local, LocalSpec
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.metadata import ObjectMeta
from lateen.mesh.problems import Findings
from lateen.mesh.yaml_source import read_documents

SUFFIXES = frozenset({".yaml", ".yml", ".json"})


@dataclass(frozen=True, slots=True)
class Source:
    """A directory of manifests, read."""

    directory: Path
    resources: tuple[Located, ...]
    mesh: MeshConfig
    local: LocalSpec
    diagnostics: tuple[Diagnostic, ...]

    @property
    def invalid(self) -> bool:
        """Whether a mesh must not be started from it."""
        return any(d.severity is Severity.ERROR for d in self.diagnostics)

    @property
    def mesh_config(self) -> Path:
        """The mesh configuration file, which may come later."""
        return self.directory / MESH_CONFIG_FILE

    def plan(self) -> Plan:
        """What it asks to run."""
        return make_plan(self.resources, self.local, self.mesh.root_namespace)

    def services(self) -> list[dict[str, Any]]:
        """The Services as plain objects, with their namespace written out."""
        return [_plain(located.resource) for located in self.resources if isinstance(located.resource, Service)]


def _plain(service: Service) -> dict[str, Any]:
    document = service.to_dict()
    document["metadata"] = {**document["metadata"], "namespace": service.namespace}
    return {"apiVersion": "v1", "kind": "Service", **document}


def read_directory(directory: Path) -> Source:
    """Every manifest, mesh.yaml and lateen.yaml; what is wrong is in `diagnostics`."""
    loaded = load_paths([directory])
    local, findings = read_local(directory)
    mesh = loaded.mesh or MeshConfig()
    return Source(directory, loaded.resources, mesh, local, (*loaded.diagnostics, *findings))


def local_secrets(local: LocalSpec) -> list[Secret]:
    """The Secrets that lateen.yaml promises, without their data: for those who only ask whether a Secret exists."""
    names = [certificate.secret.split("/", 1) for certificate in local.certificates]
    return [
        Secret(metadata=ObjectMeta(name=name, namespace=namespace), type="kubernetes.io/tls")
        for namespace, name in names
    ]


def read_local(directory: Path) -> tuple[LocalSpec, tuple[Diagnostic, ...]]:
    """The lateen.yaml of a directory, or defaults, and what is wrong with it."""
    path = directory / LOCAL_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return LocalSpec(), ()
    except (OSError, UnicodeDecodeError):
        return LocalSpec(), ()  # the loader says so
    return parse_local(text, str(path))


def parse_local(text: str, file: str) -> tuple[LocalSpec, tuple[Diagnostic, ...]]:
    """lateen.yaml; defaults and findings when it is invalid."""
    for document in read_documents(text, file):
        if document.error is not None:
            return LocalSpec(), ()  # the loader says so
        findings = Findings("Local", document.source, Local)
        local = validate(Local, document.value, findings)
        _needless_second_document(text, file, findings)
        return (local.spec if local else LocalSpec()), tuple(findings.diagnostics)
    return LocalSpec(), ()


def _needless_second_document(text: str, file: str, findings: Findings) -> None:
    documents = list(read_documents(text, file))
    if len(documents) > 1:
        position = documents[1].source.position(())
        message = "lateen.yaml must be a single document"
        findings.add("LTN0005", message, (), "move this document into a file of its own", position=position)


def fingerprint(directory: Path) -> Mapping[str, tuple[int, int, int]]:
    """Changes whenever a manifest does: inode, size and modification time of each."""
    found: dict[str, tuple[int, int, int]] = {}
    for folder, _, names in os.walk(directory):  # which, unlike rglob, passes over directories that go away meanwhile
        for path in (Path(folder, name) for name in names):
            if path.suffix in SUFFIXES:
                with contextlib.suppress(OSError):
                    status = path.stat()
                    found[str(path)] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found
