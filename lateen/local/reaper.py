"""The process that starts every process of a run and outlives none of them.

`lateen up` starts this file with `python -I -S reaper.py SOCKET_FD RUN_DIR RUN_ID HELD_FDS` before anything else. It is a subreaper:
whatever its children leave behind becomes its child. It obeys JSON lines on its socket ({"op": "start"|"stop", ...}) and answers with
events ({"event": "started"|"failed"|"exited", ...}). When the socket closes, however the runner ended, it ends every process of the
run, undoes what `cleanup.json` names, and exits; HELD_FDS (locks) are given back by that. Should this process be killed instead, its
children get SIGKILL by their parent-death signal and the runner, a subreaper too, sweeps the rest with the same functions.

Only the standard library, and as little of it as possible: it must start in milliseconds and have nothing to fail on.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
MARKER = "LATEEN_RUN_ID"
GRACE_SECONDS = 3.0
KILL_SECONDS = 5.0
POLL_SECONDS = 0.02
MAX_LINE = 4 << 20

_LIBC = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Orphaned descendants become children of this process."""
    if _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def process_table() -> dict[int, int]:
    """Each living process' parent. Zombies do not count."""
    table: dict[int, int] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  (names, not paths)
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123  (hot loop without pathlib)
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] not in (b"Z", b"X"):
            table[int(entry)] = int(fields[1])
    return table


def descendants(root: int, table: dict[int, int]) -> set[int]:
    """Every living process below `root`."""
    children: dict[int, list[int]] = {}
    for pid, parent in table.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    pending = [root]
    while pending:
        for pid in children.get(pending.pop(), ()):
            if pid not in found:
                found.add(pid)
                pending.append(pid)
    return found


def marked(run_id: str, pids: Iterable[int]) -> set[int]:
    """The processes that were started with the mark of this run in their environment."""
    needle = f"{MARKER}={run_id}".encode()
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            if needle in file.read().split(b"\0"):
                found.add(pid)
    return found


def processes_of(run_id: str) -> set[int]:
    """What must go: our descendants and everything marked with the run."""
    table = process_table()
    return (descendants(os.getpid(), table) | marked(run_id, table)) - {os.getpid()}


def reap_zombies() -> list[tuple[int, int]]:
    """Collect the status of each child that has ended: (pid, wait status)."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended.append((pid, status))
    return ended


def sweep(run_id: str) -> set[int]:
    """End every process of the run: SIGTERM, then SIGKILL. Returns what refused to die (nothing, short of kernel trouble)."""
    _signal_all(processes_of(run_id), signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while (left := processes_of(run_id)) and time.monotonic() < deadline:
        reap_zombies()
        time.sleep(POLL_SECONDS)
    deadline = time.monotonic() + KILL_SECONDS
    while (left := processes_of(run_id)) and time.monotonic() < deadline:
        _signal_all(left, signal.SIGKILL)
        reap_zombies()
        time.sleep(POLL_SECONDS)
    reap_zombies()
    return left


def _signal_all(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            if number == signal.SIGTERM:
                os.kill(pid, signal.SIGCONT)  # a stopped process would not see it


def clean_up(run_dir: str) -> None:
    """Undo what the run made outside of its processes, as `cleanup.json` says; then remove the run's directory."""
    duties: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError), open(f"{run_dir}/cleanup.json", encoding="utf-8") as file:  # noqa: PTH123
        duties = json.load(file)
    for command in duties.get("commands", ()):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, check=False, timeout=10, stdin=subprocess.DEVNULL, capture_output=True)
    for path in duties.get("remove", ()):
        shutil.rmtree(path, ignore_errors=True)
    keep = duties.get("keep_logs")
    if keep:
        shutil.rmtree(keep, ignore_errors=True)
        with contextlib.suppress(OSError, shutil.Error):
            shutil.move(f"{run_dir}/logs", keep)
    shutil.rmtree(run_dir, ignore_errors=True)


def spawn(argv: list[str], env: dict[str, str], cwd: str | None, log: str, owner: int | None) -> int:
    """Start a process in a session of its own, with its output appended to `log`. OSError when it cannot be executed."""
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    log_fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if owner is not None:
        os.fchown(log_fd, owner, owner)  # Envoy opens /dev/stdout anew, as the user it runs as
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            _LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log_fd, 1)
            os.dup2(log_fd, 2)
            if cwd:
                os.chdir(cwd)
            os.execvpe(argv[0], argv, env)  # noqa: S606  (a list of arguments, no shell)
        except BaseException as error:  # noqa: BLE001  (whatever it is, the parent must hear of it)
            with contextlib.suppress(OSError):
                reason = error.strerror if isinstance(error, OSError) else str(error)
                os.write(report_write, f"{argv[0]}: {reason}".encode())
        finally:
            os._exit(127)
    os.close(report_write)
    os.close(log_fd)
    with os.fdopen(report_read, "rb") as report:
        problem = report.read()
    if problem:
        os.waitpid(pid, 0)
        raise OSError(problem.decode(errors="replace"))
    return pid


class Reaper:
    """The loop: commands in, events out."""

    def __init__(self, channel: socket.socket, run_dir: str, run_id: str) -> None:
        self._channel = channel
        self._run_dir = run_dir
        self._run_id = run_id
        self._names: dict[int, str] = {}
        self._kill_at: dict[int, float] = {}
        self._buffer = b""
        self._done = False

    def run(self) -> None:
        """Serve until the runner is gone or says so, then leave nothing."""
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._stop)
        channel_fd = self._channel.fileno()
        while not self._done:
            ready, _, _ = select.select([channel_fd, wake_read], [], [], self._timeout())
            if wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 4096)
            for pid, status in reap_zombies():
                self._exited(pid, status)
            self._kill_the_late()
            if channel_fd in ready:
                self._read()
        sweep(self._run_id)
        clean_up(self._run_dir)

    def _stop(self, *_: object) -> None:
        self._done = True

    def _timeout(self) -> float | None:
        return max(0.0, min(self._kill_at.values()) - time.monotonic()) if self._kill_at else None

    def _kill_the_late(self) -> None:
        now = time.monotonic()
        for pid in [pid for pid, at in self._kill_at.items() if at <= now]:
            del self._kill_at[pid]
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def _read(self) -> None:
        chunk = b""
        with contextlib.suppress(ConnectionError):
            chunk = self._channel.recv(1 << 16)
        if not chunk or len(self._buffer) > MAX_LINE:
            self._done = True
            return
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, message: dict[str, Any]) -> None:
        if message["op"] == "start":
            self._start(message)
        elif message["op"] == "stop":
            for pid in [pid for pid, name in self._names.items() if name == message["id"]]:
                _signal_all((pid,), signal.SIGTERM)
                self._kill_at[pid] = time.monotonic() + float(message["grace"])

    def _start(self, message: dict[str, Any]) -> None:
        env = {**message["env"], MARKER: self._run_id}
        try:
            pid = spawn(message["argv"], env, message.get("cwd"), message["log"], message.get("owner"))
        except OSError as error:
            self._tell({"event": "failed", "id": message["id"], "error": str(error)})
            return
        self._names[pid] = message["id"]
        self._tell({"event": "started", "id": message["id"], "pid": pid})

    def _exited(self, pid: int, status: int) -> None:
        name = self._names.pop(pid, None)
        if name is None:
            return  # an orphan that became ours
        self._kill_at.pop(pid, None)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # what it left behind in its session
        self._tell({"event": "exited", "id": name, "pid": pid, "code": os.waitstatus_to_exitcode(status)})

    def _tell(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the runner is gone: the socket's end of file says so next
            self._channel.sendall(json.dumps(event).encode() + b"\n")


def main() -> None:
    """Entry of the process; the arguments are described at the top."""
    channel_fd, run_dir, run_id, held = sys.argv[1:5]
    for fd in (int(channel_fd), *(int(fd) for fd in held.split(",") if fd)):
        os.set_inheritable(fd, False)  # noqa: FBT003  (positional only)
    become_subreaper()
    channel = socket.socket(fileno=int(channel_fd))
    Reaper(channel, run_dir, run_id).run()


if __name__ == "__main__":
    main()
