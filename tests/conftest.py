"""Fixtures for every test: the real Envoy as judge of what we generate, and goldens that can be rewritten."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lateen.envoy_binary import envoy_path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the expected half of golden files: review the diff"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("netns") and not _can_make_namespaces():
        pytest.skip("needs root, ip and iptables")


def _can_make_namespaces() -> bool:
    return os.geteuid() == 0 and all(shutil.which(tool) for tool in ("ip", "iptables"))


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether goldens are to be rewritten rather than compared."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def validate_envoy(tmp_path: Path) -> Callable[[str], None]:
    """A function that fails with Envoy's own words if Envoy would not start with this bootstrap (JSON)."""

    def validate(config_json: str) -> None:
        config = tmp_path / "envoy-bootstrap.json"
        config.write_text(config_json)
        # No hot restart: its shared memory would let two validations on one host meet.
        arguments = [
            "--mode",
            "validate",
            "--config-path",
            str(config),
            "--disable-hot-restart",
            "--log-level",
            "error",
        ]
        result = subprocess.run([envoy_path(), *arguments], capture_output=True, text=True, check=False, timeout=60)
        if result.returncode != 0:
            message = f"envoy refuses the configuration\n{result.stdout}{result.stderr}"
            raise AssertionError(message)

    return validate
