"""The supervisor of worker processes, with the smallest service there is; extauthz has a test with the real one."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lateen.wire.workers import parse_workers, worker_name

ROOT = Path(__file__).parents[2]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def supervisor(*arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.wire.tiny_service", *arguments], cwd=ROOT, stderr=subprocess.DEVNULL
    )


def workers(folder: Path) -> list[int]:
    return [int(text) for file in sorted(folder.glob("*.pid")) if (text := file.read_text())]


def is_running(process: int) -> bool:
    return Path(f"/proc/{process}/exe").exists()


@pytest.mark.parametrize("sort", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_supervisor(tmp_path: Path, sort: signal.Signals) -> None:
    """However it ends: nobody must be left on the port with nobody to restart him."""
    process = supervisor(str(tmp_path))
    try:
        until(lambda: len(workers(tmp_path)) == 2)
        started = workers(tmp_path)
        process.send_signal(sort)
        assert process.wait(40) == (-signal.SIGKILL if sort is signal.SIGKILL else 0)
        until(lambda: not any(is_running(worker) for worker in started))
    finally:
        process.kill()
        process.wait()


def test_a_worker_that_cannot_start_is_not_started_without_pause(tmp_path: Path) -> None:
    process = supervisor("--fail", str(tmp_path))
    try:
        until(lambda: (tmp_path / "starts").exists() and len((tmp_path / "starts").read_text()) >= 4)
        time.sleep(1)
        assert len((tmp_path / "starts").read_text()) < 20
        process.terminate()
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("text", ["0", "-1", "65", "two", "", "1.5"])
def test_a_number_of_workers_that_makes_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="between 1 and 64"):
        parse_workers(text)


def test_names_of_workers() -> None:
    assert [worker_name("lateen-extauthz-0", number) for number in (None, 0, 1)] == ["lateen-extauthz-0"] * 2 + [
        "lateen-extauthz-0-w1"
    ]
