"""Every golden: the expected Envoy configuration, accepted by the real Envoy, whatever the order of the input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lateen.controlplane.snapshot import snapshot_for
from lateen.mesh.view import MeshView
from tests.controlplane.golden_cases import cases, load_case, render, rewrite
from tests.controlplane.static_envoy import bootstrap, to_json

_CASES = [pytest.param(path, id=path.stem) for path in cases()]


@pytest.mark.parametrize("path", _CASES)
def test_translation(path: Path, update_golden: bool) -> None:
    case = load_case(path)
    assert case.expectations, "a golden expects something"
    snapshot = case.snapshot()
    if update_golden:
        rewrite(case, snapshot)
        case = load_case(path)
    for header, expected in case.expectations:
        assert yaml.safe_load(render(snapshot, header)) == yaml.safe_load(expected), header


@pytest.mark.parametrize("path", _CASES)
def test_envoy_accepts_it(path: Path, validate_envoy: Callable[[str], None]) -> None:
    snapshot = load_case(path).snapshot()
    snapshot.check()
    validate_envoy(to_json(bootstrap(snapshot)))


@pytest.mark.parametrize("path", _CASES)
def test_order_of_input_does_not_matter(path: Path) -> None:
    case = load_case(path)
    resources, mesh = case.located
    versions = set()
    for order in itertools.islice(itertools.chain([resources, resources[::-1]], [resources[1:] + resources[:1]]), 3):
        view = MeshView.build(order, mesh)
        versions.add(snapshot_for(view, case.proxy(view)).version)
    assert len(versions) == 1
