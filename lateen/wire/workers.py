"""Several processes of one service on one port: each binds it with SO_REUSEPORT, and the kernel shares connections out.

The supervisor starts them, starts them again when they die, serves their pages as one, and stops them. A worker is an ordinary process
of the service with a number; it stops by itself when its supervisor is gone.
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, slots=True)
class Service:
    """What to run: `python -m MODULE ARGUMENTS`, `count` times."""

    module: str
    arguments: Sequence[str]
    count: int
    http_address: str
    grace_seconds: float  # after SIGTERM, before SIGKILL

    def command(self, number: int, socket: Path) -> list[str]:
        """The command line of one worker; what is appended wins over the same flags before."""
        own = ("--workers", "1", "--worker", str(number), "--http-address", f"unix:{socket}")
        return [sys.executable, "-m", self.module, *self.arguments, *own]


def parse_workers(text: str) -> int:
    """The number in `--workers`; ValueError if it makes no sense."""
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_WORKERS:
        raise ValueError(f'the number of workers "{text}" must be between 1 and {_MOST_WORKERS}')
    return int(text)


async def run_workers(service: Service) -> None:
    """Run until SIGTERM or SIGINT, then stop the workers and return."""
    stopped = asyncio.Event()
    for sort in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sort, stopped.set)
    running: dict[int, Running] = {}
    with tempfile.TemporaryDirectory(prefix="lateen-workers-") as directory:
        web = web_server(front(lambda: running, service.count))
        serving = asyncio.create_task(web.serve(sockets=[listen_on(service.http_address)]))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(service.count):
                    socket = Path(directory) / f"{number}.sock"
                    group.create_task(_keep_running(service, number, socket, running, stopped))
        finally:
            web.should_exit = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(serving, timeout=1.0)


async def _keep_running(
    service: Service, number: int, socket: Path, running: dict[int, Running], stopped: asyncio.Event
) -> None:
    delay, starts = _FIRST_DELAY, 0
    log = structlog.get_logger().bind(service=service.module, worker=number)
    while not stopped.is_set():
        started = time.monotonic()
        # The pipe to its standard input ends when we do, whatever ends us.
        process = await asyncio.create_subprocess_exec(*service.command(number, socket), stdin=asyncio.subprocess.PIPE)
        starts += 1
        running[number] = Running(socket, starts)
        log.info("worker started", pid=process.pid)
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            await _stop(process, ended, service.grace_seconds)
            return
        stopping.cancel()
        running.pop(number, None)
        delay = _FIRST_DELAY if time.monotonic() - started > _STABLE_SECONDS else min(delay * 2, _LONGEST_DELAY)
        log.error("worker died, it is started again", exit_code=process.returncode, retry_in=delay)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), delay)


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
