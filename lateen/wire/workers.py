"""Several processes of one service on one port: each binds it with SO_REUSEPORT, and the kernel shares connections out.

The supervisor starts them, starts them again when they die, serves their pages as one, and stops them. A worker is an ordinary process
of the service with a number; it stops by itself when its supervisor is gone.
"""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from lateen.web import listen_on, web_server
from lateen.wire.front import Running, front

WORKERS_HELP: Final = "processes that share the port; with more than one, a supervisor serves their pages as one"
_MOST_WORKERS: Final = 64
_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 10.0
_STABLE_SECONDS: Final = 10.0
_LAST_SECONDS: Final = 0.5  # of the grace: to end by itself before it is killed

Serve = Callable[[asyncio.Event], Coroutine[None, None, None]]
"""Serves until the event is set, then drains and returns."""


@dataclass(frozen=True, slots=True)
class Service:
    """What to run: `python -m MODULE ARGUMENTS`, `count` times."""

    module: str
    arguments: Sequence[str]
    count: int
    address: str  # host:port that the workers share
    http_address: str
    grace_seconds: float  # after SIGTERM, before SIGKILL

    def command(self, number: int, address: str, page_socket: Path) -> list[str]:
        """The command line of one worker; what is appended wins over the same flags before."""
        own = ("--workers", "1", "--worker", str(number), "--address", address, "--http-address", f"unix:{page_socket}")
        return [sys.executable, "-m", self.module, *self.arguments, *own]


def parse_workers(text: str) -> int:
    """The number in `--workers`; ValueError if it makes no sense."""
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_WORKERS:
        raise ValueError(f'the number of workers "{text}" must be between 1 and {_MOST_WORKERS}')
    return int(text)


def run_service(service: Service, serve: Serve, *, is_worker: bool) -> None:
    """Run the service until SIGTERM or Ctrl-C, in this process if it has one worker; SystemExit(1) when it cannot run."""
    with contextlib.suppress(KeyboardInterrupt):
        try:
            if service.count > 1:
                asyncio.run(run_workers(service))
            else:
                asyncio.run(_until_stopped(serve, service.grace_seconds - _LAST_SECONDS, is_worker=is_worker))
        except (OSError, RuntimeError) as error:
            structlog.get_logger().error("the service cannot run", error=str(error))
            sys.exit(1)


async def _until_stopped(serve: Serve, grace_seconds: float, *, is_worker: bool) -> None:
    stopped = asyncio.Event()
    for sort in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sort, stopped.set)
    if is_worker:
        stop_with_supervisor(stopped.set)
    running = asyncio.create_task(serve(stopped))
    stopping = asyncio.create_task(stopped.wait())
    # What still waits (for a certificate, which may be long in coming) does not look at `stopped`: it is cancelled in the end.
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    try:
        async with asyncio.timeout(grace_seconds):
            await running
    except TimeoutError:
        structlog.get_logger().warning("stopped before everything was drained")


async def run_workers(service: Service) -> None:
    """Run until SIGTERM or SIGINT, then stop the workers and return. OSError when a port is taken or cannot be shared."""
    stopped = asyncio.Event()
    for sort in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sort, stopped.set)
    running: dict[int, Running] = {}
    with (
        _reserved(service.address) as address,
        tempfile.TemporaryDirectory(prefix="lateen-workers-") as directory,
        contextlib.closing(listen_on(service.http_address)) as pages,
    ):
        web = web_server(front(lambda: running, service.count))
        serving = asyncio.create_task(web.serve(sockets=[pages]))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(service.count):
                    worker = _Worker(service, number, address, Path(directory))
                    group.create_task(worker.keep_running(running, stopped))
        finally:
            web.should_exit = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(serving, timeout=1.0)


@contextlib.contextmanager
def _reserved(address: str) -> Iterator[str]:
    """Keep a port for the workers without listening on it; gives the address with the port that was chosen if it was 0.

    Whoever binds a port with SO_REUSEPORT shares it with whoever did so before: a second supervisor must not take half the connections.
    """
    host, _, port = address.rpartition(":")
    if address.startswith("unix:") or not port.isdecimal():
        raise OSError(errno.EINVAL, f'several workers cannot share "{address}": give host:port, or one worker')
    host = host.removeprefix("[").removesuffix("]")
    family, _, _, _, place = socket.getaddrinfo(
        host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with contextlib.ExitStack() as stack:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            reserved = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            reserved.setsockopt(socket.SOL_SOCKET, option, 1)
            try:
                reserved.bind(place)
            except OSError as error:
                raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
            chosen: int = reserved.getsockname()[1]
            place = (place[0], chosen, *place[2:])
            if option == socket.SO_REUSEADDR:
                reserved.close()  # nobody had it
        yield f"{address.rpartition(':')[0]}:{chosen}"


class _Worker:
    """One of the processes, and those that take its place."""

    def __init__(self, service: Service, number: int, address: str, directory: Path) -> None:
        self._service = service
        self._number = number
        self._address = address
        self._directory = directory
        self._starts = 0
        self._log = structlog.get_logger().bind(service=service.module, worker=number)

    async def keep_running(self, running: dict[int, Running], stopped: asyncio.Event) -> None:
        """Start it, start it again when it ends, stop it when the service is to stop."""
        delay = _FIRST_DELAY
        stopping = asyncio.create_task(stopped.wait())
        while not stopped.is_set():
            started = time.monotonic()
            process = await self._start(running)
            if process is not None:
                ended = asyncio.create_task(process.wait())
                await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    await _stop(process, ended, self._service.grace_seconds)
                    return
                running.pop(self._number, None)
            ran = time.monotonic() - started
            delay = _FIRST_DELAY if ran > _STABLE_SECONDS else min(delay * 2, _LONGEST_DELAY)
            code = process.returncode if process is not None else None
            self._log.error("worker ended, it is started again", exit_code=code, retry_in=delay)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), delay)

    async def _start(self, running: dict[int, Running]) -> asyncio.subprocess.Process | None:
        """A new process, with a socket of its own for its pages: an answer on it is this process's and no earlier one's."""
        socket_of = [self._directory / f"{self._number}-{start}.sock" for start in (self._starts, self._starts + 1)]
        self._starts += 1
        socket_of[0].unlink(missing_ok=True)
        command = self._service.command(self._number, self._address, socket_of[1])
        try:
            # The pipe to its standard input ends when we do, whatever ends us.
            process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
        except OSError as error:
            self._log.error("a worker cannot be started", error=str(error))
            return None
        running[self._number] = Running(socket_of[1], self._starts)
        self._log.info("worker started", pid=process.pid)
        return process


async def _stop(process: asyncio.subprocess.Process, ended: "asyncio.Task[int]", grace: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(asyncio.shield(ended), grace)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await ended


def stop_with_supervisor(stop: Callable[[], None]) -> None:
    """In a worker: call `stop` once the supervisor is gone, however it went. Call it within the event loop."""
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def ended() -> None:
        if not os.read(descriptor, 1024):
            loop.remove_reader(descriptor)
            stop()

    loop.add_reader(descriptor, ended)


def worker_name(name: str, number: int | None) -> str:
    """The name by which a worker asks for its configuration: the first one keeps the replica's."""
    return f"{name}-w{number}" if number else name
