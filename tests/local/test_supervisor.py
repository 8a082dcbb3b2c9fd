"""Real processes under the real reaper: nothing survives, whoever is killed."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lateen.local import reaper
from lateen.local.rundir import create_run_dir
from lateen.local.supervisor import (
    CRASHING_FAILURES,
    EventKind,
    ProcessSpec,
    Supervisor,
    bound_log,
    describe_exit,
    log_tail,
)
from lateen.local.up import clean_up_dead_run

SLEEP = ("sleep", "600")
# Starts a child in a session of its own, which ignores SIGTERM, and forgets it.
DAEMON = ("sh", "-c", "setsid sh -c 'trap \"\" TERM; while :; do sleep 600; done' & exec sleep 600")
ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    run = create_run_dir(tmp_path / "base")
    running = Supervisor(run, [run.lock_fd])
    await running.open()
    yield running
    await running.close()
    os.close(run.lock_fd)


async def _until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def _alive(pid: int) -> bool:
    return pid in reaper.process_table()


def _of(run_id: str) -> set[int]:
    return reaper.marked(run_id, reaper.process_table())


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


async def test_output_goes_to_the_log(supervisor: Supervisor) -> None:
    supervisor.start(ProcessSpec("echo", ("sh", "-c", "echo out; echo err >&2; exec sleep 600"), ENV))
    await _until(lambda: "err" in log_tail(supervisor.log_of("echo")))
    assert log_tail(supervisor.log_of("echo")).splitlines() == ["out", "err"]


async def test_a_crashed_process_starts_again(supervisor: Supervisor) -> None:
    supervisor.start(ProcessSpec("app", SLEEP, ENV))
    await _until(lambda: supervisor.pid("app"))
    first = supervisor.pid("app")
    os.kill(first, signal.SIGKILL)
    await _until(lambda: supervisor.pid("app") not in (0, first))
    kinds = [(event.kind, event.detail) for event in supervisor.events]
    assert (EventKind.EXITED, "was killed by signal 9") in kinds


async def test_a_process_stopped_before_it_was_reported_does_not_stay(supervisor: Supervisor) -> None:
    supervisor.start(ProcessSpec("app", SLEEP, ENV))
    await supervisor.stop("app")
    supervisor.start(ProcessSpec("next", ("sh", "-c", "exec sleep 601"), ENV))
    await _until(lambda: supervisor.pid("next"))
    run = supervisor.log_of("app").parents[1].name
    assert [pid for pid in _of(run) if _command_line(pid) == b"sleep\x00600\x00"] == []


async def test_a_process_that_cannot_stay_up_is_said_once_and_tried_until_it_can(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lateen.local.supervisor.BACKOFF_SECONDS", (0.01,))
    healed = tmp_path / "healed"
    supervisor.start(ProcessSpec("bad", ("sh", "-c", f"test -e {healed} && exec sleep 600; echo sorry; exit 3"), ENV))
    await _until(lambda: supervisor.state("bad").failures > 2 * CRASHING_FAILURES)
    assert supervisor.state("bad").crashing
    assert supervisor.state("bad").detail == "exited with status 3"
    said = [event.kind for event in supervisor.events if event.kind is not EventKind.STARTED]
    assert said == [EventKind.EXITED] * (CRASHING_FAILURES - 1) + [EventKind.CRASHING]
    healed.touch()
    await _until(lambda: _command_line(supervisor.pid("bad")).startswith(b"sleep"))


async def test_a_missing_program_is_said_at_once_and_tried_again(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lateen.local.supervisor.BACKOFF_SECONDS", (0.01,))
    program = tmp_path / "program"
    supervisor.start(ProcessSpec("none", (str(program),), ENV))
    await _until(lambda: supervisor.state("none").failures > CRASHING_FAILURES)
    (event,) = supervisor.events
    assert event.kind is EventKind.CRASHING
    assert event.detail == f"cannot be started: {program}: No such file or directory"
    program.with_suffix(".new").write_text("#!/bin/sh\nexec sleep 600\n")
    program.with_suffix(".new").chmod(0o755)
    program.with_suffix(".new").rename(program)
    await _until(lambda: supervisor.pid("none"))


async def test_what_must_be_prepared_is_prepared_before_each_restart(supervisor: Supervisor) -> None:
    prepared = []

    async def prepare() -> None:
        prepared.append(1)

    supervisor.start(ProcessSpec("agent", SLEEP, ENV, before_start=prepare))
    await _until(lambda: supervisor.pid("agent"))
    first = supervisor.pid("agent")
    os.kill(first, signal.SIGKILL)
    await _until(lambda: supervisor.pid("agent") not in (0, first))
    assert prepared == [1]


async def test_a_stopped_process_stays_stopped(supervisor: Supervisor) -> None:
    supervisor.start(ProcessSpec("app", SLEEP, ENV))
    await _until(lambda: supervisor.pid("app"))
    pid = supervisor.pid("app")
    await supervisor.stop("app")
    assert not _alive(pid)
    assert supervisor.pid("app") == 0


async def test_one_that_ignores_sigterm_is_killed(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lateen.local.supervisor.STOP_GRACE_SECONDS", 0.2)
    supervisor.start(ProcessSpec("app", ("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"), ENV))
    await _until(lambda: log_tail(supervisor.log_of("app")) == "up")
    pid = supervisor.pid("app")
    await supervisor.stop("app")
    assert not _alive(pid)


async def test_closing_leaves_nothing_not_even_daemons(tmp_path: Path) -> None:
    run = create_run_dir(tmp_path / "base")
    running = Supervisor(run, [run.lock_fd])
    await running.open()
    running.start(ProcessSpec("daemon", DAEMON, ENV))
    await _until(lambda: len(_of(run.id)) >= 3)
    await running.close()
    assert _of(run.id) == set()
    assert not run.path.exists()
    os.close(run.lock_fd)


async def test_the_runner_sweeps_when_the_reaper_is_killed(tmp_path: Path) -> None:
    run = create_run_dir(tmp_path / "base")
    running = Supervisor(run, [run.lock_fd])
    await running.open()
    running.start(ProcessSpec("daemon", DAEMON, ENV))
    await _until(lambda: len(_of(run.id)) >= 3)
    os.kill(running.reaper_pid, signal.SIGKILL)
    await _until(lambda: any(e.kind is EventKind.REAPER_LOST for e in running.events))
    await running.close()
    assert _of(run.id) == set()
    assert not run.path.exists()
    os.close(run.lock_fd)


RUNNER = """
import asyncio, json, subprocess, sys
from pathlib import Path
from lateen.local.reaper import MARKER
from lateen.local.rundir import create_run_dir
from lateen.local.supervisor import ProcessSpec, Supervisor

async def main():
    run = create_run_dir(Path(sys.argv[1]))
    (run.path / "cleanup.json").write_text(json.dumps({"commands": [["touch", sys.argv[2]]], "keep_logs": sys.argv[3]}))
    supervisor = Supervisor(run, [run.lock_fd])
    await supervisor.open()
    supervisor.start(ProcessSpec("daemon", tuple(json.loads(sys.argv[4])), {"PATH": "/usr/bin:/bin"}))
    while not supervisor.pid("daemon"):
        await asyncio.sleep(0.01)
    # As the command of --exec: a child of the runner, not of the reaper, with a child of its own.
    subprocess.Popen(["setsid", "sh", "-c", "sleep 600 & exec sleep 600"], env={"PATH": "/usr/bin:/bin", MARKER: run.id})
    print(run.id, supervisor.reaper_pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def _runner(tmp_path: Path) -> tuple["subprocess.Popen[str]", str, int]:
    arguments = [str(tmp_path / "base"), str(tmp_path / "undone"), str(tmp_path / "last-logs"), json.dumps(DAEMON)]
    process = subprocess.Popen([sys.executable, "-c", RUNNER, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run_id, reaper_pid = process.stdout.readline().split()
    return process, run_id, int(reaper_pid)


def _wait(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_survives_a_runner_that_is_killed(tmp_path: Path) -> None:
    process, run_id, reaper_pid = _runner(tmp_path)
    _wait(lambda: len(_of(run_id)) >= 5)
    process.kill()
    process.wait(60)
    _wait(lambda: not _of(run_id) and not _alive(reaper_pid))
    assert not (tmp_path / "base" / run_id).exists()
    assert (tmp_path / "undone").exists(), "what cleanup.json names has been undone"
    assert (tmp_path / "last-logs" / "daemon.log").exists()


def test_children_die_with_a_runner_and_a_reaper_that_are_killed_together(tmp_path: Path) -> None:
    process, run_id, reaper_pid = _runner(tmp_path)
    _wait(lambda: len(_of(run_id)) >= 3)
    os.kill(reaper_pid, signal.SIGSTOP)
    direct = {pid for pid, parent in reaper.process_table().items() if parent == reaper_pid}
    process.kill()
    os.kill(reaper_pid, signal.SIGKILL)
    process.wait(60)
    try:
        _wait(lambda: not direct & reaper.process_table().keys())
    finally:  # the daemon's own daemon is what the next `lateen up` sweeps
        clean_up_dead_run(tmp_path / "base" / run_id)
    assert _of(run_id) == set()
    assert not (tmp_path / "base" / run_id).exists()


@pytest.mark.parametrize(("code", "text"), [(3, "exited with status 3"), (-11, "was killed by signal 11")])
def test_exits_are_described(code: int, text: str) -> None:
    assert describe_exit(code) == text


def test_a_log_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"".join(b"line %d\n" % n for n in range(2000)))
        bound_log(path, limit=10_000)
        writer.write(b"after\n")
    assert path.read_bytes() == b"after\n"
    kept = path.with_name("x.log.1").read_bytes()
    assert len(kept) <= 5_000
    assert kept.endswith(b"line 1999\n")
