"""An authority and an agent for each test that asks."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.harness import Agent, Authority


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: unix sockets allow 107 bytes, pytest's own folders are longer than that in places."""
    with tempfile.TemporaryDirectory(prefix="ltn-") as path:
        yield Path(path)


@pytest.fixture
def authority(folder: Path) -> Iterator[Authority]:
    started = Authority(folder)
    started.start()
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
def agent(folder: Path, authority: Authority) -> Iterator[Agent]:
    started = Agent(folder, authority)
    started.start()
    try:
        yield started
    finally:
        started.stop()
