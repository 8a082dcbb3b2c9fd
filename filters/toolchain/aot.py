"""The machine code of a module, made ahead of time for one Envoy on one processor.

Envoy's V8 compiles a module with its optimising compiler and keeps the result as one block of bytes, from which every worker makes its
copy. Envoy also takes that block from a custom section of the module instead of compiling (`allow_precompiled` of its VmConfig), but
has no way to write it. So an Envoy is started with the module, the block is read from its memory, and appended as that section. V8
refuses a block of another version, with other flags or for another processor, by the block's head; it does not look at what follows.

`python -m filters.toolchain.aot --envoy ENVOY DIRECTORY`: DIRECTORY holds `bootstrap.json`, which loads `module.wasm` beside it, with
`allow_precompiled`, and has its admin interface on the Unix socket `admin` and a listener for HTTP on `listener`. Writes `made.wasm`, tries
it in such an Envoy, and prints what it saves as JSON; or what is wrong, with status 1.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from filters.toolchain.binary import name, section, unsigned

BOOTSTRAP, MODULE, MADE, LOG = "bootstrap.json", "module.wasm", "made.wasm", "envoy.log"
ADMIN, LISTENER = "admin", "listener"
_TITLE = re.compile(rb"precompiled_wee8_v[0-9.]{3,40}_[a-z0-9_]{3,40}(?=\0)")
_STEP = 16 << 20
_MOST_MEMORY = 2 << 30
"""Bytes of an Envoy's memory that are looked at."""
_MOST_GROWTH = 12
"""Machine code that is larger than so many times the module is none."""
_LEAST_CODE = 28
"""The head of V8's block."""
_POINTER = 8
_SECONDS = 120.0
"""For one Envoy to start."""
_ANSWER_SECONDS = 10.0
_MOST_WORDS = 500


class AotError(Exception):
    """There is no machine code to be had, and why."""


class Region(NamedTuple):
    """A part of an address space, from `start` to before `end`."""

    start: int
    end: int


class Memory(Protocol):
    """The memory of a process that stands still."""

    def regions(self) -> Iterable[Region]:
        """What can be read and may have been written."""
        ...

    def read(self, start: int, size: int) -> bytes:
        """Bytes from an address on; fewer where memory ends."""
        ...


class ProcessMemory:
    """The memory of one of our children, by way of /proc (proc(5)): needs the right to trace it, as a debugger does."""

    def __init__(self, pid: int) -> None:
        """OSError when it may not be read."""
        self._maps = Path(f"/proc/{pid}/smaps")
        self._file = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def regions(self) -> Iterator[Region]:
        """Private memory that is written to and present, neighbours joined."""
        start = end = 0
        found, budget = Region(0, 0), _MOST_MEMORY
        for line in self._maps.read_text().splitlines():
            if line.startswith("Rss:"):
                resident = int(line.split()[1]) * 1024
                if resident == 0 or budget <= 0:
                    continue
                budget -= resident
                if found.end == start:
                    found = Region(found.start, end)
                    continue
                if found.end:
                    yield found
                found = Region(start, end)
            elif match := re.match(r"([0-9a-f]+)-([0-9a-f]+) rw.p \S+ \S+ 0 ", line):
                start, end = int(match[1], 16), int(match[2], 16)
            elif re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                start = end = 0
        if found.end:
            yield found

    def read(self, start: int, size: int) -> bytes:
        """See `Memory`."""
        try:
            return os.pread(self._file, size, start)
        except (OSError, OverflowError):
            return b""

    def close(self) -> None:
        """Let go of the process."""
        os.close(self._file)


def with_machine_code(module: bytes, memory: Memory) -> bytes:
    """The module with a section of machine code, from the memory of an Envoy that runs it; AotError when there is none."""
    title = _section_title(memory)
    return module + section(0, name(title) + _block(module, memory))


def _section_title(memory: Memory) -> str:
    """Envoy's name of the section, with V8's version and the platform: it has been looked for in the module, so it is in memory."""
    for _, buffer in _windows(memory, 256):
        if found := _TITLE.search(buffer):
            return found[0].decode()
    raise AotError("this envoy takes no machine code made ahead of time")


def _block(module: bytes, memory: Memory) -> bytes:
    """The module as V8 has kept it: its length, itself, and the machine code. Its size stands before a pointer to it."""
    head = unsigned(len(module)) + module
    starts = list(_places(memory, head[:256]))
    for start in starts:
        for place in _places(memory, start.to_bytes(_POINTER, "little")):
            size = int.from_bytes(memory.read(place - _POINTER, _POINTER), "little")
            if len(head) + _LEAST_CODE < size <= _MOST_GROWTH * len(module):
                block = memory.read(start, size)
                if len(block) == size and block.startswith(head):
                    return block
    raise AotError(f"the machine code was not found in envoy's memory ({len(starts)} places looked at)")


def _places(memory: Memory, pattern: bytes) -> Iterator[int]:
    seen = -1
    for start, buffer in _windows(memory, len(pattern)):
        at = buffer.find(pattern)
        while at >= 0:
            if start + at > seen:
                seen = start + at
                yield seen
            at = buffer.find(pattern, at + 1)


def _windows(memory: Memory, overlap: int) -> Iterator[tuple[int, bytes]]:
    """All memory in pieces that overlap, so that nothing lies between two."""
    for region in memory.regions():
        at = region.start
        while at < region.end:
            buffer = memory.read(at, min(_STEP + overlap, region.end - at))
            if not buffer:
                break
            yield at, buffer
            at += _STEP


# Running Envoy


class Envoy:
    """An Envoy of our own, without our environment; killed at the end of the `with` block."""

    def __init__(self, envoy: str, directory: Path, *options: str) -> None:
        """Start it with the bootstrap in `directory`."""
        self._directory = directory
        self._end = time.monotonic() + _SECONDS
        for place in (ADMIN, LISTENER):
            (directory / place).unlink(missing_ok=True)
        command = [
            envoy,
            "-c",
            str(directory / BOOTSTRAP),
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "-l",
            "error",
        ]
        with (directory / LOG).open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": os.defpath}
            )

    def __enter__(self) -> Self:
        """Nothing more."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, however it stands."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def wait(self) -> None:
        """Until it is ready, so has loaded the module; AotError when it ends or never is."""
        while not self.ready():
            if self.process.poll() is not None:
                raise AotError(self.ended())
            if time.monotonic() > self._end:
                raise AotError(f"envoy is not ready after {_SECONDS:g} s")
            time.sleep(0.02)

    def ended(self) -> str:
        """How, and what it said last."""
        said = (self._directory / LOG).read_text(errors="replace").strip()[-_MOST_WORDS:]
        return f"envoy has ended with status {self.process.returncode}: {said}"

    def ready(self) -> bool:
        """Whether it says so."""
        try:
            return self.ask(ADMIN, "/ready") == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def ask(self, place: str, path: str) -> int:
        """GET from a Unix socket in the directory: the status."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.settimeout(_ANSWER_SECONDS)
            connection.sock.connect(str(self._directory / place))
            connection.request("GET", path)
            return connection.getresponse().status


def make(envoy: str, directory: Path) -> bytes:
    """Run Envoy once with `module.wasm`, and return the module with its machine code."""
    module = (directory / MODULE).read_bytes()
    with Envoy(envoy, directory) as running:
        running.wait()
        os.kill(running.process.pid, signal.SIGSTOP)
        try:
            memory = ProcessMemory(running.process.pid)
        except OSError as error:
            raise AotError(f"envoy's memory cannot be read: {error.strerror}") from None
        with contextlib.closing(memory):
            return with_machine_code(module, memory)


def try_out(envoy: str, directory: Path) -> None:
    """Validate the bootstrap, then let an Envoy serve a request with it; AotError when it does not stand that."""
    with Envoy(envoy, directory, "--mode", "validate") as validating:
        try:
            validating.process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise AotError(f"envoy --mode validate has not ended after {_SECONDS:g} s") from None
        if validating.process.returncode != 0:
            raise AotError(validating.ended())
    with Envoy(envoy, directory) as running:
        running.wait()
        # What a filter answers is its own business, even that it closes the connection.
        with contextlib.suppress(OSError, http.client.HTTPException):
            running.ask(LISTENER, "/")
        if not running.ready():
            running.process.poll()
            raise AotError(f"serving a request: {running.ended()}")


def main(arguments: Sequence[str]) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m filters.toolchain.aot")
    parser.add_argument("--envoy", required=True)
    parser.add_argument("directory", type=Path)
    given = parser.parse_args(arguments)
    module, made = given.directory / MODULE, given.directory / MADE
    try:
        made.write_bytes(make(given.envoy, given.directory))
        compiling = _cpu_seconds()
        module.unlink()
        module.hardlink_to(made)
        try_out(given.envoy, given.directory)
    except (AotError, OSError) as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return 1
    starting = (_cpu_seconds() - compiling) / 2
    figures = {"bytes": made.stat().st_size, "seconds_before": round(compiling, 2), "seconds_after": round(starting, 2)}
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


def _cpu_seconds() -> float:
    """CPU of all Envoys that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
