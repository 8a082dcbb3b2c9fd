"""Load on an HTTP/1.1 server: `wrk` where there is one, else a small generator of our own. Every answer must be 200.

Both keep N connections busy, each with one request at a time (a closed loop): latency and throughput belong together, and neither says
what would happen under an arrival rate that does not wait.
"""

import contextlib
import gc
import re
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.statistics import Load, percentile

ANSWER_TIMEOUT_SECONDS = 5.0
MAX_ANSWER_BYTES = 1 << 20
_HTTP_OK = 200
_UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


class LoadError(Exception):
    """A sample that cannot be used: an answer other than 200, or none; the text says which."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send which request: always GET."""

    address: str
    port: int
    host: str
    path: str = "/v1/items"
    headers: tuple[tuple[str, str], ...] = ()

    def request(self) -> bytes:
        """The request as it goes over the wire."""
        lines = [f"GET {self.path} HTTP/1.1", f"host: {self.host}", *(f"{n}: {v}" for n, v in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Generator(Protocol):
    """A way to make load."""

    description: str
    shortest: float
    """Seconds of the shortest run it can make."""

    def run(self, target: Target, connections: int, seconds: float) -> Load: ...


class AnswerReader:
    """Finds the ends of answers in what a connection delivers. Sans I/O; understands content-length only."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[int]:
        """The statuses of the answers that are complete now; LoadError for anything that is not such an answer."""
        self._buffer += data
        statuses = []
        while (head_end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:head_end].lower()
            if not head.startswith(b"http/1.1 ") or not head[9:12].isdigit():
                raise LoadError(f"not an HTTP/1.1 answer: {head[:40]!r}")
            length_at = head.find(b"\r\ncontent-length:")
            if length_at < 0:
                raise LoadError("an answer without content-length")
            length = int(head[length_at + 17 :].partition(b"\r\n")[0])
            end = head_end + 4 + length
            if len(self._buffer) < end:
                break
            statuses.append(int(head[9:12]))
            self._buffer = self._buffer[end:]
        if len(self._buffer) > MAX_ANSWER_BYTES:
            raise LoadError("an answer of more than 1 MiB")
        return statuses


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    reader: AnswerReader
    sent: float = 0.0


class PythonGenerator:
    """One thread and an epoll loop: sub-second runs, but tens of us of Python CPU a request, which count as latency of everybody."""

    description = "the Python generator of benchmarks/load.py (one thread; its own CPU is part of every latency)"
    shortest = 0.1

    def run(self, target: Target, connections: int, seconds: float) -> Load:
        """Send requests for `seconds`."""
        request = target.request()
        opened = {c.socket.fileno(): c for c in (_connect(target) for _ in range(connections))}
        with polled([connection.socket for connection in opened.values()], target.host) as poll:
            return _closed_loop(request, opened, poll, seconds)


@contextlib.contextmanager
def polled(sockets: Sequence[socket.socket], where: str) -> Iterator[select.epoll]:
    """These sockets to wait for, closed at the end, and no garbage collection meanwhile. What fails is a LoadError that says `where`."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with select.epoll() as poll:
            for each in sockets:
                poll.register(each.fileno(), select.EPOLLIN)
            yield poll
    except OSError as error:
        raise LoadError(f"{where}: {error}") from error
    finally:
        if collecting:
            gc.enable()
        for each in sockets:
            each.close()


def load_of(latencies: list[float], seconds: float) -> Load:
    """What was measured, of latencies in seconds; LoadError without any."""
    if not latencies:
        raise LoadError("no answer in time")
    latencies.sort()
    return Load(len(latencies), seconds, percentile(latencies, 0.5) * 1e6, percentile(latencies, 0.99) * 1e6)


def _connect(target: Target) -> _Connection:
    try:
        opened = socket.create_connection((target.address, target.port), timeout=ANSWER_TIMEOUT_SECONDS)
    except OSError as error:
        raise LoadError(f"{target.address}:{target.port}: {error}") from error
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _Connection(opened, AnswerReader())


def _closed_loop(request: bytes, opened: Mapping[int, _Connection], poll: select.epoll, seconds: float) -> Load:
    clock = time.perf_counter
    latencies: list[float] = []
    start = clock()
    deadline = start + seconds
    for connection in opened.values():
        connection.sent = clock()
        connection.socket.send(request)
    now = start
    while now < deadline:
        ready = poll.poll(ANSWER_TIMEOUT_SECONDS)
        if not ready:
            raise LoadError(f"no answer within {ANSWER_TIMEOUT_SECONDS} s")
        for fd, _ in ready:
            connection = opened[fd]
            data = connection.socket.recv(65536)
            if not data:
                raise LoadError("the server closed a connection")
            for status in connection.reader.feed(data):
                now = clock()
                if status != _HTTP_OK:
                    raise LoadError(f"answered {status}")
                latencies.append(now - connection.sent)
                connection.sent = now
                connection.socket.send(request)
    return load_of(latencies, now - start)


class WrkGenerator:
    """`wrk` with one thread: a few microseconds of CPU a request; runs of whole seconds."""

    shortest = 1.0

    def __init__(self, executable: str) -> None:
        self._executable = executable
        self.description = "wrk, one thread"

    def run(self, target: Target, connections: int, seconds: float) -> Load:
        """Send requests for `seconds`, rounded up."""
        duration = max(1, round(seconds + 0.49))
        headers = [part for n, v in (("Host", target.host), *target.headers) for part in ("-H", f"{n}: {v}")]
        url = f"http://{target.address}:{target.port}{target.path}"
        arguments = ["-t1", f"-c{connections}", f"-d{duration}s", "--latency", "--timeout", "5s", *headers, url]
        result = subprocess.run(
            [self._executable, *arguments], capture_output=True, text=True, check=False, timeout=duration + 30
        )
        if result.returncode:
            raise LoadError(f"wrk: {result.stderr.strip() or result.stdout.strip()}")
        return parse_wrk(result.stdout)


def parse_wrk(text: str) -> Load:
    """What `wrk --latency` printed; LoadError when any request failed."""
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    if bad:
        raise LoadError(f"{bad[1]} answers were neither 2xx nor 3xx")
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    if broken:
        raise LoadError(f"socket errors: connect {broken[1]}, read {broken[2]}, write {broken[3]}, timeout {broken[4]}")
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", text)
    p50 = re.search(r"50%\s+([\d.]+)(us|ms|s|m)", text)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", text)
    if total is None or p50 is None or p99 is None or not int(total[1]):
        raise LoadError(f"wrk said something else than expected: {text[:400]!r}")
    seconds = float(total[2]) * _UNITS[total[3]] / 1e6
    return Load(int(total[1]), seconds, float(p50[1]) * _UNITS[p50[2]], float(p99[1]) * _UNITS[p99[2]])


def find_generator(name: str) -> Generator:
    """`wrk`, `python` or `auto`: wrk where it is installed. LoadError when it is asked for and not there."""
    executable = shutil.which("wrk")
    if name == "python" or (name == "auto" and executable is None):
        return PythonGenerator()
    if executable is None:
        raise LoadError("no wrk on the PATH: apt-get install wrk, or --generator python")
    return WrkGenerator(executable)
