"""One transport: moves bytes between it and its `Connection`, and calls between the connection and the handlers."""

import asyncio
import ssl
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, cast

from lateen.wire.call import Call, RpcError, StatusCode
from lateen.wire.carriers import CANCELLED, Carrier
from lateen.wire.connection import Cancelled, Connection, Event
from lateen.wire.fields import CompressionError
from lateen.wire.frames import ErrorCode
from lateen.wire.tls import TlsSession

if TYPE_CHECKING:
    from lateen.wire.server import Server

_HIGH_WATER: Final = 256 * 1024
_LINGER_SECONDS: Final = 1.0


class Pump(asyncio.BufferedProtocol):
    """The protocol of one connection. The buffer it reads into is the server's: idle connections hold none."""

    __slots__ = (
        "_awaited",
        "_carriers",
        "_connection",
        "_flushing",
        "_held",
        "_lingering",
        "_loop",
        "_paused",
        "_server",
        "_since",
        "_tls",
        "_transport",
        "_view",
    )

    def __init__(self, server: "Server") -> None:
        """One of `server`'s connections."""
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._view = memoryview(server.read_buffer)
        self._carriers: dict[int, Carrier] = {}  # of calls that are awaited, by stream
        self._tls: TlsSession | None = None
        self._connection: Connection | None = None
        self._transport: asyncio.Transport | None = None
        self._since = 0.0
        self._awaited = 0  # bytes of messages of calls that are awaited
        self._held = 0  # what the server was told that we hold
        self._paused = self._flushing = self._lingering = False

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or refuse to."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.opened(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(_HIGH_WATER)
        self._since = time.monotonic()
        if self._server.tls is None:
            self._begin(None)
        else:
            self._tls = TlsSession(self._server.tls)
            self._server.wake(self._since + self._server.limits.handshake_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone, and with it every call."""
        self._transport = None
        self._end_tasks()
        self._connection = None
        self._report(0)
        self._server.gone(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes were read."""
        if self._lingering:
            return
        data = bytes(self._view[:nbytes])
        if self._tls is not None:
            plain = self._decrypt(data)
            if plain is None:
                return
            data = plain
        connection = self._connection
        if connection is not None and data:
            self._flushing = True  # below, for all that is answered at once
            self._handle(connection, connection.receive(data, time.monotonic()))
            self._flush()

    def eof_received(self) -> bool:
        """The client sends no more: it does not wait for answers either."""
        return False

    def pause_writing(self) -> None:
        """The client does not read: neither do we."""
        self._paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        if self._connection is not None:
            self._connection.writing(stalled=True, now=time.monotonic())
            self._arm(self._connection)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        if self._connection is not None:
            self._connection.writing(stalled=False, now=time.monotonic())
            self._flush()

    # From the server.

    def on_time(self, now: float) -> float | None:
        """Do what is due; returns when there is something to do next."""
        connection = self._connection
        if connection is None:
            until = self._since + self._server.limits.handshake_timeout
            if now < until:
                return until
            self._server.count("handshake_timeout")
            self.abort()
            return None
        due = connection.next_deadline()
        if due is not None and due <= now:
            self._handle(connection, connection.on_time(now))
            self._flush()
            due = connection.next_deadline()
        return due

    def drain(self, grace: float) -> None:
        """Ask the client to go; the calls in flight may end."""
        if self._connection is None:
            self.abort()
        else:
            self._connection.drain(time.monotonic(), grace)
            self._flush()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # Bytes.

    def _begin(self, peer_identity: str | None) -> None:
        server = self._server
        self._connection = Connection(
            server.limits,
            self._since,
            cache=server.cache,
            peer_identity=peer_identity,
            refused=server.stats.refused,
            age=server.age(),
            room=self._has_room,
            serves=server.handlers,
        )
        self._flush()

    def _decrypt(self, data: bytes) -> bytes | None:
        tls, transport = self._tls, self._transport
        if tls is None or transport is None:
            return None
        try:
            plain = tls.receive(data)
        except ssl.SSLError:
            self._server.count("tls")
            transport.write(tls.pending())
            self._linger()
            return None
        pending = tls.pending()
        if pending:
            transport.write(pending)
        if tls.ready and self._connection is None:
            if not tls.speaks_http2:
                self._server.count("alpn")
                self._linger()
                return None
            self._since = time.monotonic()
            self._begin(tls.peer_identity())
        if tls.ended:
            transport.close()
        return plain

    def _flush_soon(self) -> None:
        """After whatever else happens in this turn of the loop: one write for all of it."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _held_now(self) -> int:
        """Bytes that wait here for the client, or for a handler; below the high water mark, the transport's do not count."""
        waiting = self._transport.get_write_buffer_size() if self._paused and self._transport is not None else 0
        return waiting + self._awaited + (self._connection.held if self._connection is not None else 0)

    def _has_room(self, size: int) -> bool:
        """Whether this connection may hold `size` bytes more, beyond its share, with all that others hold."""
        server = self._server
        return server.held - self._held + self._held_now() + size <= server.limits.server_bytes

    def _report(self, held: int) -> None:
        self._server.held += held - self._held
        self._held = held

    def _flush(self) -> None:
        self._flushing = False
        connection, transport = self._connection, self._transport
        if connection is None or transport is None or self._lingering:
            return
        if not self._paused:
            data = connection.data_to_send()
            if data:
                try:
                    transport.write(data if self._tls is None else self._tls.encrypt(data))
                except ssl.SSLError:  # the client has shut its side down in the meantime
                    transport.abort()
                    return
        if connection.closed is not None:
            self._linger()
        else:
            self._arm(connection)
        self._report(self._held_now())

    def _arm(self, connection: Connection) -> None:
        due = connection.next_deadline()
        if due is not None:
            self._server.wake(due)

    def _linger(self) -> None:
        """Say no more, and pass over what still comes: a reset would destroy the GOAWAY on its way."""
        transport = self._transport
        if self._lingering or transport is None:
            return
        self._lingering = True
        self._end_tasks()
        self._loop.call_later(_LINGER_SECONDS, self.abort)
        if not transport.is_closing():
            transport.write_eof()
            if self._paused:
                transport.resume_reading()

    # Calls.

    def _handle(self, connection: Connection, events: list[Event]) -> None:
        server = self._server
        handlers, stats = server.handlers, server.stats
        for event in events:
            if type(event) is Call:
                handler = handlers.get(event.path)
                if handler is None:
                    server.count("unknown_method")
                    connection.fail(event.stream_id, StatusCode.UNIMPLEMENTED, "unknown method")
                    continue
                stats.calls += 1
                try:
                    result = handler(event, event.message)
                    if type(result) is bytes:
                        connection.answer(event.stream_id, result)
                    else:
                        self._run(connection, event, cast("Awaitable[bytes]", result))
                except Exception as error:  # noqa: BLE001 - whatever a handler raises ends its call only
                    self._fail(connection, event, error)
            elif type(event) is Cancelled:
                self._cancel(event.stream_id)
            else:
                self._end_tasks()

    def _run(self, connection: Connection, call: Call, result: Awaitable[bytes]) -> None:
        server = self._server
        carriers = server.carriers
        size, limits = len(call.message), server.limits
        if carriers.busy >= limits.calls or (self._awaited + size > limits.share_bytes and not self._has_room(size)):
            server.count("calls")
            connection.fail(call.stream_id, StatusCode.RESOURCE_EXHAUSTED, "too many calls in flight")
            if asyncio.iscoroutine(result):
                result.close()
            return
        begun = carriers.run(self, call, result)
        if type(begun) is bytes:
            connection.answer(call.stream_id, begun)
        else:
            self._carriers[call.stream_id] = cast("Carrier", begun)
            self._awaited += size
            server.stats.in_flight = carriers.busy

    def ended(self, call: Call, answer: bytes | None, error: BaseException | None) -> None:
        """A handler that was awaited is done."""
        server, connection = self._server, self._connection
        if self._carriers.pop(call.stream_id, None) is not None:
            self._awaited -= len(call.message)
        server.stats.in_flight = server.carriers.busy
        if connection is None:
            return
        if answer is not None:
            connection.answer(call.stream_id, answer)
        elif isinstance(error, asyncio.CancelledError):
            connection.fail(call.stream_id, StatusCode.CANCELLED, CANCELLED)
        elif error is not None:
            self._fail(connection, call, error)
        self._flush_soon()

    def _fail(self, connection: Connection, call: Call, error: BaseException) -> None:
        if isinstance(error, RpcError):
            connection.fail(call.stream_id, error.code, error.message)
        elif isinstance(error, CompressionError):
            self._handle(connection, connection.abort(ErrorCode.COMPRESSION_ERROR, str(error)))
        else:
            self._server.log.error("a handler failed", path=call.path, exc_info=error)
            connection.fail(call.stream_id, StatusCode.UNKNOWN, "the handler failed")

    def _end_tasks(self) -> None:
        for stream_id in list(self._carriers):
            self._cancel(stream_id)

    def _cancel(self, stream_id: int) -> None:
        carrier = self._carriers.pop(stream_id, None)
        if carrier is not None:
            self._awaited -= len(carrier.call.message) if carrier.call is not None else 0
            carrier.cancel()
