"""CPU time of the processes of a mesh, from /proc: who spent how much while a load ran."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MARKER = "LATEEN_RUN_ID"


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


def processes_with(name: str, value: str) -> dict[int, tuple[str, ...]]:
    """Command lines of this user's processes that were started with `name=value` in their environment."""
    needle = f"{name}={value}".encode()
    found: dict[int, tuple[str, ...]] = {}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if needle in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = arguments_of((entry / "cmdline").read_bytes())
        except OSError:
            continue  # ended, or somebody else's
    return found


def arguments_of(cmdline: bytes) -> tuple[str, ...]:
    """The arguments in /proc/PID/cmdline."""
    return tuple(part.decode(errors="replace") for part in cmdline.rstrip(b"\0").split(b"\0"))


def kind_of(arguments: Sequence[str], replicas: Mapping[str, str]) -> tuple[str, str]:
    """What a process of a run is for, from its command line: (kind, replica).

    `replicas` maps the name of each replica to `gateway` or `sidecar`; the bootstrap file of an Envoy is named for its replica.
    """
    words = set(arguments)
    for module, kind in (("extauthz", "ext_authz"), ("ratelimit", "rate limit")):
        if module in words:
            return kind, ""
    program = arguments[0].rpartition("/")[2] if arguments else ""
    if program.startswith("redis-server"):
        return "redis", ""
    if program == "envoy":
        if "fast-app" in words:
            return "app", ""
        config = next((b for a, b in zip(arguments, arguments[1:], strict=False) if a in ("-c", "--config-path")), "")
        stem = config.rpartition("/")[2]
        owner = max((name for name in replicas if name in stem), key=len, default="")
        return replicas.get(owner, "other"), owner
    return "other", ""
