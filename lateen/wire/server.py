"""The asyncio side: sockets, TLS and tasks around `Connection`. Handlers that need not wait are answered without a task."""

import asyncio
import contextlib
import os
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from lateen.wire.call import Call
from lateen.wire.carriers import Carriers
from lateen.wire.headers import HeaderCache
from lateen.wire.limits import Limits
from lateen.wire.pump import Pump

Handler = Callable[[Call, bytes], bytes | Awaitable[bytes]]

_BACKLOG: Final = 1024
_READ_BYTES: Final = 64 * 1024
_LAST_SECONDS: Final = 1.0  # for what was cut off to notice
_TIMER_SECONDS: Final = 0.01  # deadlines are met to within this
_REST: Final = 4  # times as long as looking at deadlines took, it is not done again


@dataclass(slots=True)
class Stats:
    """Counts since the start."""

    connections: int = 0  # accepted
    open_connections: int = 0
    calls: int = 0  # handed to a handler
    in_flight: int = 0  # in asynchronous handlers
    refused: dict[str, int] = field(default_factory=dict)  # by reason: calls, streams and connections


class Server:
    """A gRPC server of unary methods: handlers by path ("/package.Service/Method"). Use it within one event loop."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Nothing is opened before `start`."""
        self.limits = limits or Limits()
        self.tls = tls
        self.stats = Stats()
        self.handlers: dict[str, Handler] = dict(handlers)
        self.cache = HeaderCache(self.limits)
        self.read_buffer = bytearray(_READ_BYTES)  # shared: it is emptied before the next read
        self.pumps: set[Pump] = set()
        self.held = 0  # bytes that all of them hold
        self.carriers = Carriers()
        self._listener: asyncio.Server | None = None
        self._socket_path: Path | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._timer_rests = 0.0  # until then
        self._empty = asyncio.Event()
        self.log = structlog.get_logger()

    async def start(self, address: str, *, reuse_port: bool = False) -> str:
        """Listen on `host:port` or `unix:/path`; returns the address, with the port that was chosen if it was 0."""
        loop = asyncio.get_running_loop()
        if address.startswith("unix:"):
            path = Path(address.removeprefix("unix:"))
            _remove_stale_socket(path)
            # Bound here: asyncio would take the place of a server that is in use.
            listener = socket.socket(socket.AF_UNIX)
            try:
                listener.bind(os.fspath(path))
            except OSError as error:
                listener.close()
                raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
            self._listener = await loop.create_unix_server(self._accept, sock=listener, backlog=_BACKLOG)
            self._socket_path = path
            return address
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        self._listener = await loop.create_server(
            self._accept, host or None, int(port), reuse_port=reuse_port or None, backlog=_BACKLOG
        )
        bound = self._listener.sockets[0].getsockname()
        return f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"

    async def stop(self, grace_seconds: float) -> None:
        """Take no new connection, let calls end for `grace_seconds`, then close what is left."""
        if self._listener is not None:
            self._listener.close()
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)
        for pump in list(self.pumps):
            pump.drain(grace_seconds)
        await self._until_empty(grace_seconds)
        for pump in list(self.pumps):
            pump.abort()
        await self._until_empty(_LAST_SECONDS)
        await self.carriers.stop(_LAST_SECONDS)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _until_empty(self, seconds: float) -> None:
        """Wait for the last connection to go, but no longer than that."""
        if self.pumps:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)

    def _accept(self) -> Pump:
        return Pump(self)

    # For pumps.

    def opened(self, pump: Pump) -> bool:
        """Whether there is room for one more connection."""
        self.stats.connections += 1
        if len(self.pumps) >= self.limits.connections:
            self.count("connections")
            return False
        self.pumps.add(pump)
        self.stats.open_connections = len(self.pumps)
        return True

    def gone(self, pump: Pump) -> None:
        """A connection is over."""
        self.pumps.discard(pump)
        self.stats.open_connections = len(self.pumps)
        if not self.pumps:
            self._empty.set()

    def count(self, reason: str) -> None:
        """Count something refused."""
        self.stats.refused[reason] = self.stats.refused.get(reason, 0) + 1

    def age(self) -> float:
        """How old a connection may become: varied, so that clients do not all come back at once."""
        return self.limits.connection_age * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret

    def wake(self, when: float) -> None:
        """See to it that something due at `when` is looked at."""
        if self._timer is not None and self._timer_at <= when:
            return
        now = time.monotonic()
        when = max(when, now + _TIMER_SECONDS, self._timer_rests)
        if self._timer is not None:
            if self._timer_at <= when:  # else a busy server would put it off for ever
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = asyncio.get_running_loop().call_later(when - now, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        now = time.monotonic()
        due = None
        for pump in list(self.pumps):
            when = pump.on_time(now)
            if when is not None and (due is None or when < due):
                due = when
        # Many streams that are each due at another moment must not take all the time there is.
        spent = time.monotonic() - now
        self._timer_rests = now + (1 + _REST) * spent
        if due is not None:
            self.wake(due)


def _remove_stale_socket(path: Path) -> None:
    """A socket that nobody listens on is left over from a crash."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_LAST_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return  # binding will say what is wrong
