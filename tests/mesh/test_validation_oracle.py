"""Istio's own corpus: each document of `validation/` gets its verdict, with a line; everything of `samples/` loads."""

import re
from pathlib import Path

import pytest

from lateen.mesh.diagnostics import Severity
from lateen.mesh.loader import load_text
from tests.mesh.crd_oracle import SAMPLES, VALIDATION

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the oracle is not here")

_ERR = re.compile(r"^_err:.*$", re.MULTILINE)


def _cases() -> list[tuple[str, str, bool]]:
    cases = []
    for file in sorted(VALIDATION.glob("*.yaml")):
        for number, text in enumerate(re.split(r"^---$", file.read_text(), flags=re.MULTILINE)):
            if re.search(r"^kind:", text, re.MULTILINE):
                cases.append((f"{file.stem}-{number}", text, not _ERR.search(text)))
    return cases


@pytest.mark.parametrize(("text", "valid"), [c[1:] for c in _cases()], ids=[c[0] for c in _cases()])
def test_validation(text: str, valid: bool) -> None:
    loaded = load_text(_ERR.sub("", text), "case.yaml")
    errors = [d for d in loaded.diagnostics if d.invalid]
    assert bool(errors) is not valid, loaded.diagnostics
    assert len(loaded.resources) == (1 if valid else 0)
    for error in errors:
        assert error.line > 0
        assert error.column > 0
        assert error.source_line.strip()


def test_the_corpus_is_there() -> None:
    assert len(_cases()) > 90


@pytest.mark.parametrize("file", sorted(SAMPLES.rglob("*.yaml")), ids=lambda f: str(f.relative_to(SAMPLES)))
def test_samples_load(file: Path) -> None:
    loaded = load_text(file.read_text(), str(file))
    assert not [d for d in loaded.diagnostics if d.severity is Severity.ERROR]
    assert loaded.resources or loaded.diagnostics
