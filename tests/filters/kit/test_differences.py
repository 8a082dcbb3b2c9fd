"""docs/filters-differences.md: each statement that a test can show, in the module (the fake host is your own Python)."""

from pathlib import Path
from typing import Any

import pytest

from filters.toolchain.imports import read_imports
from lateen_filter.testing import FilterHostFactory
from tests.filters.kit.cases import Awaiting, Differences
from tests.filters.kit.conftest import ENVOY

pytestmark = [*ENVOY]
PAGE = Path(__file__).parents[3] / "docs" / "filters-differences.md"
SAID = [
    ("files", "FileNotFoundError", "opening one raises FileNotFoundError"),
    ("environment", [], "`os.environ` is empty"),
    ("later_import", "ModuleNotFoundError", "raises ModuleNotFoundError"),
    ("bundled_import", "colorsys", "is found in the source and included"),
    ("thread", "RuntimeError", "a thread that is started raises RuntimeError"),
    ("sleep", True, "`time.sleep` returns at once"),
    ("module_level", True, "runs once, when the module is built"),
    ("randomness", False, "`random` is seeded anew"),
    ("zone", ["UTC", "UTC"], "The time zone is UTC"),
    ("exit", "SystemExit", "`sys.exit` is an exception like others"),
]


@pytest.mark.parametrize(("case", "result", "statement"), SAID, ids=[case for case, _, _ in SAID])
def test_what_the_page_says(envoy_filter_host: FilterHostFactory, case: str, result: Any, statement: str) -> None:
    assert statement in " ".join(PAGE.read_text(encoding="utf-8").split())
    assert envoy_filter_host(Differences).request("GET", f"/{case}").json() == result


def test_the_version_the_page_names(envoy_filter_host: FilterHostFactory) -> None:
    version = str(envoy_filter_host(Differences).request("GET", "/python").json())
    assert f"CPython {version.rpartition('.')[0]}" in PAGE.read_text(encoding="utf-8")


def test_objects_stay_between_requests_and_not_between_vms(envoy_filter_host: FilterHostFactory) -> None:
    host = envoy_filter_host(Differences)
    assert [host.request("GET", "/kept").json() for _ in range(3)] == [1, 2, 3]
    host.close()
    assert envoy_filter_host(Differences).request("GET", "/kept").json() == 1


def test_only_bodies_and_calls_can_be_awaited(envoy_filter_host: FilterHostFactory) -> None:
    host = envoy_filter_host(Awaiting)
    assert host.request("GET", "/").status == 500
    assert "a filter cannot await what gives str (" in host.logs[-1]
    assert "cases.py:" in host.logs[-1]


def test_the_build_names_the_line_of_what_cannot_work(tmp_path: Path) -> None:
    source = tmp_path / "gate.py"
    source.write_text("import lateen_filter\n\nimport socket\nimport asyncio\nimport lateen_filter.testing\n")
    findings = read_imports([("gate", source)]).findings
    assert [(finding.line, finding.module) for finding in findings] == [
        (3, "socket"),
        (4, "asyncio"),
        (5, "lateen_filter.testing"),
    ]
