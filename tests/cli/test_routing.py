"""`lateen explain route` on the payments example and on small meshes."""

import subprocess
import sys
from pathlib import Path

import pytest

from lateen.cli.exits import CommandError
from lateen.cli.meshview import find_workload, view_of_files
from lateen.cli.routing import Explanation, explain, render
from lateen.mesh.view import MeshView

EXAMPLE = Path(__file__).parents[2] / "envoy-configs" / "payments"
API = "http://payments-api.payments:8080/v1/charge"


@pytest.fixture(scope="module")
def view() -> MeshView:
    return view_of_files([EXAMPLE])


def _ask(view: MeshView, url: str, source: str = "orders", method: str = "GET", **headers: str) -> Explanation:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return explain(view, find_workload(view, source), method, url, given, live=False)


def test_a_rule_that_does_not_match_says_why_and_where_it_stands(view: MeshView) -> None:
    found = _ask(view, API)
    first, second = found.rules
    assert first.rule == "VirtualService/payments/payments-api http[0]"
    assert first.reason == "header x-test-cohort must be canary, it is missing"
    lines = (EXAMPLE / "traffic-canary-payments.yaml").read_text().splitlines()
    for rule, text in ((first, "- match:"), (second, "- route:")):
        assert lines[int(rule.position.rpartition(":")[2]) - 1].strip() == text
    assert second.reason == ""
    assert [(d.cluster.split("|")[2], d.share) for d in found.destinations] == [("v1", 0.9), ("v2", 0.1)]
    assert "timeout 10s" in found.extras
    assert found.problem == ""


def test_the_rule_that_matches_ends_the_search(view: MeshView) -> None:
    found = _ask(view, API, x_test_cohort="canary")
    assert len(found.rules) == 1
    assert [d.cluster.split("|")[2] for d in found.destinations] == ["v2"]
    assert "→ 100 %  payments-api.payments.svc.cluster.local:8080, subset v2" in render(found)


def test_a_gateway_is_asked_by_its_own_port_or_the_declared_one(view: MeshView) -> None:
    for port in (80, 8080):
        found = _ask(view, f"http://api.payments.corp.com:{port}/v1/orders", "payments-gateway-istio", "POST")
        assert [d.cluster for d in found.destinations] == ["outbound|8080||orders.orders.svc.cluster.local"]
    with pytest.raises(CommandError, match="no HTTP port 81"):
        _ask(view, "http://api.payments.corp.com:81/", "payments-gateway-istio")


def test_a_misspelt_name_is_said(view: MeshView) -> None:
    found = _ask(view, "http://legder.legacy-system:8080/")
    assert "did you mean ledger.legacy-system?" in found.problem
    assert _ask(view, "http://example.com/").problem == ""


def test_a_subset_that_nobody_defines_is_said(tmp_path: Path) -> None:
    text = (EXAMPLE / "traffic-canary-payments.yaml").read_text()
    (tmp_path / "a.yaml").write_text((EXAMPLE / "workloads.yaml").read_text())
    (tmp_path / "b.yaml").write_text(text.replace("subset: v2", "subset: v9"))
    found = _ask(view_of_files([tmp_path]), API, x_test_cohort="canary")
    assert "no service or subset is behind outbound|8080|v9|" in found.problem


@pytest.mark.parametrize(("arguments", "code"), [([API], 0), (["http://legder.legacy-system:8080/"], 1), (["x"], 2)])
def test_exit_codes(arguments: list[str], code: int) -> None:
    line = [sys.executable, "-m", "lateen.cli.main", "explain", "route", "GET", *arguments, "--from", "orders"]
    done = subprocess.run([*line, "-f", str(EXAMPLE)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
