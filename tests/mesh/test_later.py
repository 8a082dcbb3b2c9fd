"""The table of fields that have no effect yet is true: every entry exists, and a field that nothing reads has an entry."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic.alias_generators import to_snake as snake

from lateen.mesh.kinds import KINDS
from lateen.mesh.later import LATER, later_note
from lateen.mesh.loader import load_mesh_config, load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.shape import aliases_of, fields_of, walk
from lateen.mesh.spec import Spec

_ROOT = Path(__file__).resolve().parents[2]
_ENVELOPE = {"apiVersion", "kind", "metadata", "status"}
# The models themselves prove nothing: what counts is code that reads an attribute.
_MODELS = {info.module for info in KINDS.values()} | {
    "meshconfig",
    "httproute",
    "spec",
    "metadata",
    "shape",
    "later",
    "problems",
    "localconfig",
}
_READ_BY_COMPUTED_NAME = re.compile(r"^(not_\w+)$")  # AuthorizationPolicy: `not_` + the name of the positive field
_FOR_HUMANS = {"description"}
# Attributes of other objects, with the name of a field of the table.
_OF_SOMETHING_ELSE = {
    "bind",
    "ca",
    "ca_certificates",
    "image",
    "network",
    "options",
    "sds",
    "spec",
    "tracing",
    "tunnel",
}
_READ_AS_OLD_SPELLING = {"jwks_uri_old", "mirror_percent_old"}


def _models() -> dict[str, type[Spec]]:
    return {**{info.id: info.model for info in KINDS.values()}, "MeshConfig": MeshConfig}


def _code() -> Iterator[str]:
    """The text of every module that is not a model."""
    for package in ("lateen", "extauthz", "ratelimit", "ca"):
        for file in (_ROOT / package).rglob("*.py"):
            if "envoyapi" not in file.parts and not (file.parent.name == "mesh" and file.stem in _MODELS):
                yield file.read_text()


def _attributes_read() -> set[str]:
    names: set[str] = set()
    for text in _code():
        names.update(re.findall(r"\.([a-z_][a-z0-9_]*)", text))
        names.update(re.findall(r"[\"']([a-z_][a-z0-9_]*)[\"']", text))
    return names


def _unread(kind: str, model: type[Spec], prefix: str, read: set[str], seen: tuple[type[Spec], ...]) -> Iterator[str]:
    for name, alias in aliases_of(model).items():
        path = f"{prefix}.{alias}" if prefix else alias
        if (not prefix and alias in _ENVELOPE) or later_note(kind, path) is not None:
            continue
        shape = fields_of(model)[alias]
        if (
            name not in read
            and name not in _READ_AS_OLD_SPELLING | _FOR_HUMANS
            and not _READ_BY_COMPUTED_NAME.match(name)
        ):
            yield path
        elif shape.model is not None and shape.model not in seen:
            yield from _unread(kind, shape.model, path + shape.container, read, (*seen, shape.model))


@pytest.mark.parametrize("kind", sorted(_models()))
def test_a_field_that_nothing_reads_is_in_the_table(kind: str) -> None:
    model = _models()[kind]
    assert list(_unread(kind, model, "", _attributes_read(), (model,))) == []


def test_a_field_of_the_table_is_read_nowhere() -> None:
    """Or a warning would go on saying that a field has no effect when it has one."""
    read = set(re.findall(r"\.([a-z_][a-z0-9_]*)\b(?!\()", "\n".join(_code())))
    names = {path: snake(path.rpartition(".")[2].removesuffix("[]")) for table in LATER.values() for path in table}
    assert {path: name for path, name in names.items() if name in read - _OF_SOMETHING_ELSE} == {}


@pytest.mark.parametrize("kind", sorted(LATER))
def test_every_entry_of_the_table_is_a_field(kind: str) -> None:
    paths = {path for path, _ in walk(_models()[kind])}
    names = {path.rpartition(".")[2] for path in paths}
    for pattern in LATER[kind]:
        assert pattern in paths or (pattern.startswith("**.") and pattern[3:] in names), pattern


def test_one_warning_for_each_occurrence() -> None:
    text = """apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: a
  trafficPolicy:
    retryBudget: {budgetInterval: 1s}
  subsets:
  - name: v1
    trafficPolicy:
      tunnel: {targetHost: b, targetPort: 1}
"""
    loaded = load_text(text, "x")
    assert [(d.code, d.severity.value, d.line, d.path, d.invalid) for d in loaded.diagnostics] == [
        ("LTN0110", "warning", 7, "spec.trafficPolicy.retryBudget.budgetInterval", False),
        ("LTN0110", "warning", 11, "spec.subsets[0].trafficPolicy.tunnel", False),
    ]
    assert len(loaded.resources) == 1


def test_mesh_config_too() -> None:
    mesh, found = load_mesh_config("defaultConfig: {concurrency: 2}\n", "mesh.yaml")
    assert mesh.default_config.concurrency == 2
    assert [(d.code, d.path) for d in found] == [("LTN0110", "defaultConfig.concurrency")]
