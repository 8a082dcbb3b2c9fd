"""Keeps the processes of a run alive: the runner's side of `reaper`.

The reaper forks and waits; the policy is here: what restarts and after how long. Nothing is given up: what crashes again and again
is tried again ever more rarely, so that it comes back by itself when its reason has gone.
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from lateen.local import reaper
from lateen.local.rundir import RunDir

BACKOFF_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_SECONDS = 20.0
CRASHING_FAILURES = 3
STOP_GRACE_SECONDS = 3.0
MAX_LOG_BYTES = 16 << 20
LOG_CHECK_SECONDS = 5.0
MAX_EVENTS = 1000
TAIL_LINES = 12
# Its own graces, and the commands that remove namespaces.
REAPER_SECONDS = reaper.GRACE_SECONDS + reaper.KILL_SECONDS + 60.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to run. `id` names it in events and is the stem of its log file; `owner` is the user it will run as, if not ours."""

    id: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    owner: int | None = None
    before_start: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class ProcessState:
    """How a process stands. `pid` is 0 while it does not run; `failures` since it last ran for a while; `detail`: how it ended."""

    pid: int = 0
    failures: int = 0
    detail: str = ""
    seconds: float = 0.0
    """Since it was started; 0 while it does not run."""

    @property
    def crashing(self) -> bool:
        """Whether it has failed too often to expect that it stays up."""
        return self.failures >= CRASHING_FAILURES


class EventKind(StrEnum):
    STARTED = "started"
    EXITED = "exited"
    CRASHING = "crashing"
    """Said once: it has failed again and again, or cannot be executed. It is still tried, and later failures are not events."""
    REAPER_LOST = "reaper lost"


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """Something that happened to a process; `detail` is for people."""

    kind: EventKind
    id: str
    detail: str = ""


@dataclass(slots=True)
class _Process:
    spec: ProcessSpec
    pid: int = 0
    started: float = 0.0
    failures: int = 0
    detail: str = ""
    stopping: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Starts, restarts and stops processes through the reaper. Use within one event loop."""

    def __init__(self, run: RunDir, held_fds: Iterable[int]) -> None:
        self._run = run
        self._held = tuple(held_fds)
        self._processes: dict[str, _Process] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reaper: asyncio.subprocess.Process | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self.events: deque[ProcessEvent] = deque(maxlen=MAX_EVENTS)
        self.changed = asyncio.Event()

    async def open(self) -> None:
        """Start the reaper. From here on nothing of the run can outlive both of us."""
        reaper.become_subreaper()
        ours, theirs = socket.socketpair()
        held = ",".join(map(str, self._held))
        arguments = [str(theirs.fileno()), str(self._run.path), self._run.id, held]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", reaper.__file__, *arguments),
            pass_fds=(theirs.fileno(), *self._held),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._reaper = process
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._spawn_task(self._follow(reader, process))
        self._spawn_task(self._bound_logs())

    @property
    def reaper_pid(self) -> int:
        return self._reaper.pid if self._reaper else 0

    def pid(self, name: str) -> int:
        """The process id, 0 while it does not run."""
        process = self._processes.get(name)
        return process.pid if process else 0

    def state(self, name: str) -> ProcessState:
        """How a process stands now."""
        process = self._processes.get(name)
        if process is None:
            return ProcessState()
        seconds = time.monotonic() - process.started if process.pid else 0.0
        failures = 0 if seconds >= STABLE_SECONDS else process.failures
        return ProcessState(process.pid, failures, process.detail if failures else "", seconds)

    def log_of(self, name: str) -> Path:
        """Where the process' output goes."""
        return self._run.logs / f"{name}.log"

    def start(self, spec: ProcessSpec) -> None:
        """Start a process and keep it running until `stop`."""
        self._processes[spec.id] = _Process(spec)
        self._send_start(self._processes[spec.id])

    async def stop(self, name: str) -> None:
        """End a process for good: SIGTERM, then SIGKILL."""
        process = self._processes.get(name)
        if process is None:
            return
        process.stopping = True
        if not process.gone.is_set():
            self._send({"op": "stop", "id": name, "grace": STOP_GRACE_SECONDS})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.gone.wait(), STOP_GRACE_SECONDS * 2)
        self._processes.pop(name, None)

    async def close(self) -> None:
        """End everything and wait for it. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        if self._writer is not None:
            self._writer.close()
        if self._reaper is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reaper.wait(), REAPER_SECONDS)
        for task in self._tasks:
            task.cancel()
        # The reaper was the first to end things; if it was killed half way, this finds what is left, else nothing.
        await asyncio.to_thread(reaper.sweep, self._run.id)
        await asyncio.to_thread(reaper.clean_up, str(self._run.path))

    def _send(self, message: Mapping[str, object]) -> None:
        if self._writer is not None and not self._closing:
            self._writer.write(json.dumps(message).encode() + b"\n")

    def _send_start(self, process: _Process) -> None:
        process.gone.clear()
        spec = process.spec
        log = str(self.log_of(spec.id))
        message = {"op": "start", "id": spec.id, "argv": spec.argv, "env": dict(spec.env), "cwd": spec.cwd, "log": log}
        self._send({**message, "owner": spec.owner})

    def _record(self, kind: EventKind, name: str, detail: str = "") -> None:
        self.events.append(ProcessEvent(kind, name, detail))
        self.changed.set()

    def _spawn_task(self, work: "Awaitable[None]") -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, reader: asyncio.StreamReader, process: asyncio.subprocess.Process) -> None:
        while line := await reader.readline():
            self._on_event(json.loads(line))
        await process.wait()
        if not self._closing:
            self._record(EventKind.REAPER_LOST, "reaper", "the process that guards the mesh was killed")

    def _on_event(self, event: Mapping[str, str | int]) -> None:
        process = self._processes.get(str(event["id"]))
        if process is None:
            return
        name = process.spec.id
        if event["event"] == "started":
            process.pid, process.started = int(event["pid"]), time.monotonic()
            self._record(EventKind.STARTED, name)
            return
        process.pid = 0
        process.gone.set()
        if process.stopping or self._closing:
            return
        if event["event"] == "exited" and time.monotonic() - process.started >= STABLE_SECONDS:
            process.failures = 0
        if event["event"] == "failed":  # it cannot be executed: no need to count
            process.failures, process.detail = (
                max(process.failures, CRASHING_FAILURES - 1),
                f"cannot be started: {event['error']}",
            )
        else:
            process.detail = describe_exit(int(event["code"]))
        process.failures += 1
        if process.failures <= CRASHING_FAILURES:
            crashing = process.failures == CRASHING_FAILURES
            self._record(EventKind.CRASHING if crashing else EventKind.EXITED, name, process.detail)
        self.changed.set()
        self._spawn_task(self._restart(process))

    async def _restart(self, process: _Process) -> None:
        await asyncio.sleep(BACKOFF_SECONDS[min(process.failures - 1, len(BACKOFF_SECONDS) - 1)])
        if process.spec.before_start is not None:
            # What it prepares may need a service that restarts as well; the process then copes without it.
            with contextlib.suppress(OSError, ValueError):
                await process.spec.before_start()
        if not process.stopping and self._processes.get(process.spec.id) is process:
            self._send_start(process)

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_SECONDS)
            for path in self._run.logs.glob("*.log"):
                with contextlib.suppress(OSError):
                    bound_log(path)


def describe_exit(code: int) -> str:
    """An exit code in words."""
    return f"exited with status {code}" if code >= 0 else f"was killed by signal {-code}"


def bound_log(path: Path, limit: int = MAX_LOG_BYTES) -> None:
    """Keep the last half of a log that has grown over `limit` as `.1`, and empty it: its writers append."""
    size = path.stat().st_size
    if size <= limit:
        return
    old = path.with_name(path.name + ".1")
    with path.open("rb") as source, old.open("wb") as target:
        source.seek(size - limit // 2)
        source.readline()
        while chunk := source.read(1 << 20):
            target.write(chunk)
    os.truncate(path, 0)


def log_tail(path: Path) -> str:
    """The last lines of a log, for a message that says why something did not work."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (TAIL_LINES << 9)))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
    return ""
