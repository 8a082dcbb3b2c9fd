"""The half of a connection that speaks: answers and their ends, what is due with time, and the bytes that go out.

`connection` is the other half, which listens.
"""

from collections.abc import Callable
from typing import Final

from lateen.wire import frames, responses
from lateen.wire.call import StatusCode
from lateen.wire.events import Cancelled, Closed, Event
from lateen.wire.frames import ErrorCode, Http2Error
from lateen.wire.lifetime import NEVER, Lifetime
from lateen.wire.limits import Limits
from lateen.wire.rates import Rate
from lateen.wire.refusals import TOO_LATE, TOO_SLOW, Refusal
from lateen.wire.sending import Sending
from lateen.wire.streams import Recent, Stream

DRAIN_PING: Final = b"drainlat"
_KEEPALIVE_PING: Final = b"alivelat"


class Speaker:
    """The streams of one connection, and everything the server says on them. Times are monotonic seconds."""

    def __init__(
        self,
        limits: Limits,
        now: float,
        age: float | None,
        refused: dict[str, int] | None,
        room: Callable[[int], bool] | None,
    ) -> None:
        """Nothing is said yet."""
        self._room = room
        self._share = limits.share_bytes
        self.closed: str | None = None  # why, once it is over
        self.opened = 0  # streams
        self.answered = 0  # of them, in any way
        self.refused = refused if refused is not None else {}
        self._limits = limits
        self._now = now
        self._life = Lifetime(limits, now, age)
        self._next = now  # when something may be due
        self._sending = Sending()
        self._out = self._sending.out
        self._unsent = 0  # bytes of answers since the transport last took some
        self._streams: dict[int, Stream] = {}
        self._last_id = 0
        self._reset_by_us = Recent(max(limits.concurrent_streams, 16))
        self._held = 0  # bytes of incomplete requests
        self._open_bytes = 0  # about what the open streams themselves take, with their header blocks
        self._controls = Rate(limits.control_frames, limits.control_frames_per_call, now)
        self._resets = Rate(limits.resets, 1, now)
        self._draining = 0  # 1 after the first GOAWAY, 2 after the last

    # For the transport.

    def data_to_send(self) -> bytes:
        """Every frame ready for the transport; they are handed out once."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._unsent = 0
        return data

    def writing(self, *, stalled: bool, now: float) -> None:
        """Whether the transport has stopped taking bytes: a client that never reads is given up after `send_timeout`."""
        self._life.stalled_since = now if stalled else NEVER
        if stalled:
            self._wake(now + self._limits.send_timeout)

    # For the server.

    @property
    def open_streams(self) -> int:
        """Streams that are open in either direction."""
        return len(self._streams)

    @property
    def held(self) -> int:
        """Bytes of open streams, of unfinished requests, and of answers that the transport has not taken."""
        return self._open_bytes + self._held + self._unsent + self._sending.held

    def answer(self, stream_id: int, message: bytes) -> None:
        """Answer a call; nothing happens if it was cancelled or answered before."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.answered:
            return
        sending = self._sending
        size = len(message) + responses.PREFIX_BYTES
        if len(message) > self._limits.response_bytes:
            self.fail(stream_id, StatusCode.RESOURCE_EXHAUSTED, "the answer is larger than this server sends")
        elif (self._unsent > self._share or self._life.stalled_since != NEVER) and not self._has_room(size):
            self.fail(stream_id, StatusCode.RESOURCE_EXHAUSTED, "too many answers on this connection wait to be read")
        elif size <= stream.window and size <= sending.window and size <= sending.frame_size:
            sending.window -= size
            self._unsent += size
            self._out.append(responses.whole_answer(stream_id, message))
            self._finish(stream)
        elif self._has_room(size):
            headers, trailers = responses.answer_headers(stream_id), responses.answer_trailers(stream_id)
            self._send_slowly(stream, headers, responses.answer_body(message), trailers)
        else:
            self.fail(stream_id, StatusCode.RESOURCE_EXHAUSTED, "too many answers on this connection wait to be read")

    def fail(self, stream_id: int, code: int, message: str) -> None:
        """End a call with an error; nothing happens if it was cancelled or answered before."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.answered:
            self._out.append(responses.trailers_only(stream_id, code, message))
            self._finish(stream)

    def drain(self, now: float | None = None, grace: float | None = None) -> None:
        """Ask the client to go elsewhere: it is told twice, so that no call is lost; then the calls in flight may end."""
        if now is not None:
            self._now = now
        life = self._life
        if self._draining or self.closed is not None:
            return
        if not life.configured:
            self.closed = "drained"
            return
        self._draining = 1
        life.draining_since = self._now
        life.drain_until = self._now + (self._limits.connection_grace if grace is None else grace)
        self._out.append(frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR))
        self._out.append(frames.ping(DRAIN_PING, ack=False))
        self._wake(self._now)

    def abort(self, code: ErrorCode, reason: str) -> list[Event]:
        """End the connection at once with an error."""
        if self.closed is not None:
            return []
        self._end(code, reason)
        return [Closed(reason)]

    # Time.

    def next_deadline(self) -> float | None:
        """When `on_time` should be called next, at the latest."""
        return self._next if self.closed is None else None

    def on_time(self, now: float) -> list[Event]:
        """Do what is due: deadlines, timeouts, keepalive, the connection's age."""
        self._now = now
        events: list[Event] = []
        if self.closed is None:
            try:
                self._check_life(now)
                self._check_streams(now, events)
            except Http2Error as error:
                self._end(error.code, error.reason)
            self._report_end(events)
        return events

    def _report_end(self, events: list[Event]) -> None:
        if self.closed is not None:
            events.append(Closed(self.closed))

    def _wake(self, when: float) -> None:
        self._next = min(self._next, when)

    def _check_life(self, now: float) -> None:
        life = self._life
        life.check(now)
        if life.wants_ping(now):
            if life.configured:
                self._out.append(frames.ping(_KEEPALIVE_PING, ack=False))
            life.pinged = now
        if not self._draining and life.is_old(now, idle=not self._streams):
            self.drain(now)
        if self._draining == 1 and life.drained_enough(now):
            self._drain_finally()
        if now >= life.drain_until and self.closed is None:
            self._forget_streams()
            self.closed = "drained, with calls in flight"
        self._next = life.next_check(idle=not self._streams, draining=self._draining)

    def _check_streams(self, now: float, events: list[Event]) -> None:
        limits = self._limits
        for stream in list(self._streams.values()):
            if stream.answered:
                until = stream.since + limits.send_timeout
            elif stream.ended:
                until = stream.deadline
            else:
                until = min(stream.deadline, stream.since + limits.request_timeout)
            if now < until:
                self._wake(until)
            elif stream.answered:
                self._reset(stream.id, ErrorCode.CANCEL, events)
            else:
                if stream.called:
                    events.append(Cancelled(stream.id))
                self._refuse(stream, TOO_LATE if now >= stream.deadline else TOO_SLOW, events)

    # Ends.

    def _has_room(self, size: int) -> bool:
        """Whether an answer may wait for windows or the transport."""
        return self._unsent + self._sending.held + size <= self._limits.output_bytes and self._server_has_room(size)

    def _server_has_room(self, size: int = 0) -> bool:
        """Whether this connection may hold so much more, with all that others hold."""
        return self.held + size <= self._share or self._room is None or self._room(size)

    def _send_slowly(self, stream: Stream, headers: bytes, body: bytes, trailers: bytes) -> None:
        stream.answered = True
        stream.since = self._now
        self._wake(self._now + self._limits.send_timeout)
        self._unsent += len(body)
        if self._sending.start(stream, headers, body, trailers):
            self._finish(stream)
        self._unsent -= len(stream.out) - stream.sent

    def _advance(self, stream: Stream) -> None:
        """The stream's window has changed."""
        if stream.answered:
            stream.since = self._now
            if self._sending.advance(stream):
                self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        """The last frame of an answer is on its way."""
        stream_id = stream.id
        del self._streams[stream_id]
        self._open_bytes -= stream.weight
        self.answered += 1
        if not stream.ended:
            self._held -= len(stream.body)
            self._out.append(frames.rst_stream(stream_id, ErrorCode.NO_ERROR))
            self._reset_by_us.add(stream_id)
        if self._draining > 1 and not self._streams:
            self.closed = "drained"

    def _drop(self, stream: Stream, events: list[Event]) -> None:
        """The stream is over before its answer."""
        del self._streams[stream.id]
        self._open_bytes -= stream.weight
        if not stream.ended:
            self._held -= len(stream.body)
        self._sending.forget(stream)
        if stream.called and not stream.answered:
            events.append(Cancelled(stream.id))
        if self._draining > 1 and not self._streams:
            self.closed = "drained"

    def _refuse(self, stream: Stream, refusal: Refusal, events: list[Event]) -> None:
        """Answer what is no call we serve."""
        self._count(refusal.reason)
        if refusal.reset is not None:
            self._reset(stream.id, refusal.reset, events)
        elif refusal.http_status is not None:
            headers = responses.http_headers(stream.id, refusal)
            self._send_slowly(stream, headers, refusal.message.encode() + b"\n", b"")
        else:
            self.fail(stream.id, refusal.code, refusal.message)

    def _reset(self, stream_id: int, code: ErrorCode, events: list[Event]) -> None:
        """End a stream for an error of the client: that counts as much as a reset by the client itself."""
        self._out.append(frames.rst_stream(stream_id, code))
        self._reset_by_us.add(stream_id)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._drop(stream, events)
        self._spend_reset()

    def _drain_finally(self) -> None:
        self._draining = 2
        self._out.append(frames.goaway(self._last_id, ErrorCode.NO_ERROR))
        self._wake(self._life.drain_until)
        if not self._streams:
            self.closed = "drained"

    def _end(self, code: ErrorCode, reason: str) -> None:
        self._count(f"connection_{code.name.lower()}")
        self._out.append(frames.goaway(self._last_id, code, reason))
        self.closed = reason
        self._forget_streams()

    def _forget_streams(self) -> None:
        self._streams.clear()
        self._open_bytes = self._held = 0

    def _count(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def _spend(self, amount: int) -> None:
        if not self._controls.spend(amount, self._now, self.opened):
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames")

    def _spend_reset(self) -> None:
        if not self._resets.spend(1, self._now, self.answered):
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "too many streams are reset")
