"""One payments mesh for the whole session, on loopback."""

import json
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.running import PAYMENTS, RunningMesh, copy_of, start, wait_for_end

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test's time has the start of the mesh in it, and a wait that fails says why, which the timeout of others would cut short."""
    for item in items:
        if item.path.parent == HERE and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """The example, running. Tests that edit its YAML put it back."""
    home = tmp_path_factory.mktemp("mesh")
    running = start(copy_of(PAYMENTS, home), home)
    yield running
    processes = running.command_lines()
    assert running.stop() == 0
    wait_for_end(processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say with a failure how the mesh stood at that moment: what is not in sync, and what its control plane logged last."""
    report = yield
    running = getattr(item, "funcargs", {}).get("mesh")
    if report.failed and isinstance(running, RunningMesh):
        report.sections.append(("the mesh", standing(running)))
    return report


def standing(mesh: RunningMesh) -> str:
    """Every proxy that is not in sync, the plugins, and the end of the control plane's log."""
    try:
        proxies = {name: entry for name, entry in mesh.proxies().items() if not entry["synced"]}
        state = {"not in sync": proxies, "plugins": mesh.api("/v1/plugins")["plugins"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        state = {"the control plane does not answer": repr(error)}
    log = mesh.log("controlplane").splitlines()[-25:]
    return "\n".join([json.dumps(state, indent=1)[:6000], *(line[:400] for line in log)])


@pytest.fixture
def fresh_window() -> None:
    """Begin a test early in a second: rate limits count in windows of one."""
    time.sleep(1.02 - time.time() % 1)
