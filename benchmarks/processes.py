"""CPU time of the processes of a mesh, from /proc: who spent how much while a load ran."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


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


class Meter:
    """CPU of a group of processes between `start` and `stop`, by kind."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = tuple(processes)
        self._before: dict[int, float] = {}

    def start(self) -> None:
        """Begin."""
        self._before = {p.pid: read_cpu(p.pid) for p in self._processes}

    def stop(self) -> dict[str, float]:
        """CPU seconds since `start`."""
        spent: dict[str, float] = {}
        for process in self._processes:
            spent[process.kind] = spent.get(process.kind, 0.0) + read_cpu(process.pid) - self._before[process.pid]
        return spent


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
