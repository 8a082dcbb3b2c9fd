"""One payments mesh for the whole session, on loopback."""

import time
from collections.abc import Iterator

import pytest

from tests.e2e.running import PAYMENTS, RunningMesh, copy_of, start, wait_for_end


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """The example, running. Tests that edit its YAML put it back."""
    home = tmp_path_factory.mktemp("mesh")
    running = start(copy_of(PAYMENTS, home), home)
    yield running
    processes = running.command_lines()
    assert running.stop() == 0
    wait_for_end(processes)


@pytest.fixture
def fresh_window() -> None:
    """Begin a test early in a second: rate limits count in windows of one."""
    time.sleep(1.02 - time.time() % 1)
