"""CPU time of the processes of a mesh, from /proc: who spent how much while a load ran."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
LOAD, ELSEWHERE = "load", "elsewhere"


class ProcessGoneError(Exception):
    """A process that was being measured has ended."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process: `kind` is what it is for, `name` which of them."""

    pid: int
    kind: str
    name: str = ""


def cpu_seconds(stat: str, ticks_per_second: int) -> float:
    """User and system time in a line of /proc/PID/stat. The command in it may hold spaces and parentheses."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / ticks_per_second


def read_cpu(pid: int) -> float:
    """CPU seconds of a living process so far, all threads together, in steps of 10 ms."""
    try:
        return cpu_seconds((PROC / str(pid) / "stat").read_text(encoding="utf-8"), os.sysconf("SC_CLK_TCK"))
    except OSError as error:
        raise ProcessGoneError(f"process {pid} ended during the measurement") from error


def machine_seconds(stat: str, ticks_per_second: int) -> float:
    """CPU seconds that were spent on anything, by all CPUs together since boot, from /proc/stat: neither idle nor waiting for a disk."""
    first = stat.partition("\n")[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in first[1:9])
    return (user + nice + system + irq + softirq + steal) / ticks_per_second


def _read_machine() -> float:
    return machine_seconds((PROC / "stat").read_text(encoding="utf-8"), os.sysconf("SC_CLK_TCK"))


def _read_own() -> float:
    """This process and the children it has waited for: the load generator."""
    return sum(os.times()[:4])


@contextmanager
def apart(pid: int) -> Iterator[None]:
    """Until the block ends, all threads of `pid` run on one CPU, and this process and what it starts on the others.

    Without it the load that is measured and the load that is made push each other from one CPU to another, and each pays for that with
    cold caches. Where this process may use one CPU only, nothing changes.
    """
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        yield
        return
    reserved = {min(allowed)}
    for task in (PROC / str(pid) / "task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has ended in between
            os.sched_setaffinity(int(task.name), reserved)
    os.sched_setaffinity(0, allowed - reserved)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class Meter:
    """CPU between `start` and `stop`: of a group of processes by kind, of the load (LOAD), and of everything else (ELSEWHERE)."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = tuple(processes)
        self._before: dict[int, float] = {}
        self._machine = self._own = 0.0

    def start(self) -> None:
        """Begin."""
        self._machine, self._own = _read_machine(), _read_own()
        self._before = {p.pid: read_cpu(p.pid) for p in self._processes}

    def stop(self) -> dict[str, float]:
        """CPU seconds since `start`."""
        spent: dict[str, float] = {}
        for process in self._processes:
            spent[process.kind] = spent.get(process.kind, 0.0) + read_cpu(process.pid) - self._before[process.pid]
        own, machine = _read_own() - self._own, _read_machine() - self._machine
        return {**spent, LOAD: own, ELSEWHERE: max(0.0, machine - own - sum(spent.values()))}


@dataclass(frozen=True, slots=True)
class Found:
    """What /proc says about a process."""

    pid: int
    arguments: tuple[str, ...]
    environ: Mapping[str, str]


def processes_with(name: str, value: str, directory: str) -> list[Found]:
    """This user's processes that were started with `name=value` in their environment, or name `directory` on their command line.

    The second for those that overwrite their environment with a title of their own, as Redis does.
    """
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environ = dict(part.partition("=")[::2] for part in _words((entry / "environ").read_bytes()))
            arguments = _words((entry / "cmdline").read_bytes())
        except OSError:
            continue  # ended, or somebody else's
        if environ.get(name) == value or any(directory in word for word in arguments):
            found.append(Found(int(entry.name), arguments, environ))
    return found


def _words(data: bytes) -> tuple[str, ...]:
    return tuple(part.decode(errors="replace") for part in data.rstrip(b"\0").split(b"\0"))


def identify(process: Found, envoys: Mapping[str, tuple[str, str]]) -> Process:
    """What a process of a run is for, from its command line.

    `envoys` says which replica (kind, name) has which address, by the address' last byte: the bootstrap of its Envoy is `NUMBER.json`.
    """
    arguments = process.arguments
    for module, kind in (("extauthz", "ext_authz"), ("ratelimit", "rate limit")):
        if module in arguments:
            return Process(process.pid, kind)
    program = arguments[0].partition(" ")[0].rpartition("/")[2]
    if program == "redis-server":
        return Process(process.pid, "redis")
    if program == "envoy":
        if "fast-app" in arguments:
            return Process(process.pid, "app", process.environ.get("REPLICA", ""))
        kind, name = envoys.get(Path(option(arguments, "--config-path")).stem, ("other", ""))
        return Process(process.pid, kind, name)
    return Process(process.pid, "other")


def option(arguments: Sequence[str], name: str, default: str = "") -> str:
    """The word after `name`."""
    return next((after for word, after in itertools.pairwise(arguments) if word == name), default)
