"""One HTTP/2 connection with a gRPC client, as a state machine: bytes in, events out; answers in, bytes out. No I/O, no clock.

An error of the connection ends it with GOAWAY, one of a stream with RST_STREAM, one of a call with a gRPC status; section numbers
are RFC 9113's. Everything a client can make us hold or do is bounded by `Limits`.
"""

from collections.abc import Callable, Container
from typing import Final

from lateen.wire import frames
from lateen.wire.call import Call
from lateen.wire.events import Cancelled, Closed, Event
from lateen.wire.frames import ErrorCode, Http2Error, Setting
from lateen.wire.headers import HeaderCache, HeaderDecoder
from lateen.wire.lifetime import NEVER
from lateen.wire.limits import Limits
from lateen.wire.refusals import NO_ROOM, TOO_LATE, UNKNOWN_METHOD, Refusal
from lateen.wire.speaker import DRAIN_PING, Speaker
from lateen.wire.streams import Stream, problem

__all__ = ["Cancelled", "Closed", "Connection", "Event"]

_SMALL_DATA_BYTES: Final = 64
_STREAM_BYTES: Final = 512  # what an open stream takes beside its header block, about
_SETTINGS_COST: Final = 10  # each may change the window of every stream


class Connection(Speaker):
    """The server's side of one connection: this half listens. Times are monotonic seconds, given with each call."""

    def __init__(
        self,
        limits: Limits,
        now: float = 0.0,
        *,
        cache: HeaderCache | None = None,
        peer_identity: str | None = None,
        refused: dict[str, int] | None = None,
        age: float | None = None,
        room: Callable[[int], bool] | None = None,
        serves: Container[str] | None = None,
    ) -> None:
        """`cache` and `refused` (counts by reason) may be shared by all connections of a server; `age` varies the limit.

        `room` says whether the server may hold so many bytes more, beyond each connection's share. `serves`: the paths of the methods
        there are, if known; a call of another need not be complete to be refused, as that of a stream may never be.
        """
        super().__init__(limits, now, age, refused, room)
        self.peer_identity = peer_identity
        self._serves = serves
        self._decoder = HeaderDecoder(cache if cache is not None else HeaderCache(limits), limits)
        self._partial = bytearray()
        self._need = len(frames.PREFACE)
        self._greeted = False  # the preface was read
        self._block: bytearray | None = None  # a header block that is not complete
        self._block_stream = self._block_flags = self._block_frames = 0
        self._credit = limits.connection_window
        self._greet()

    def receive(self, data: bytes, now: float | None = None) -> list[Event]:
        """Bytes of the client; without `now`, no time has passed. Nothing happens once the connection is closed."""
        if now is not None:
            self._now = now
        self._life.heard = self._now
        events: list[Event] = []
        if self.closed is None:
            try:
                self._parse(data, events)
            except Http2Error as error:
                self._end(error.code, error.reason)
            self._report_end(events)
        return events

    def _greet(self) -> None:
        limits = self._limits
        ours = {
            Setting.HEADER_TABLE_SIZE: limits.header_table_bytes,
            Setting.MAX_CONCURRENT_STREAMS: limits.concurrent_streams,
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
            Setting.NO_RFC7540_PRIORITIES: 1,
        }
        self._out.append(frames.settings(ours))
        if limits.connection_window > frames.DEFAULT_WINDOW:
            self._out.append(frames.window_update(0, limits.connection_window - frames.DEFAULT_WINDOW))

    # Frames.

    def _parse(self, data: bytes, events: list[Event]) -> None:
        """Split into frames, and keep what is not complete."""
        partial = self._partial
        if partial:
            partial += data
            if len(partial) < self._need:
                return
            data = bytes(partial)
            partial.clear()
        at, end = 0, len(data)
        if not self._greeted:
            at = len(frames.PREFACE)
            if not frames.PREFACE.startswith(data[:at]):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "not an http/2 client")
            if end < at:
                partial += data
                return
            self._greeted = True
        header_bytes = need = frames.FRAME_HEADER_BYTES
        unpack = frames.FRAME_HEADER.unpack_from
        while end - at >= header_bytes:
            high, low, kind, flags, stream_id = unpack(data, at)
            size = high << 8 | low
            if size > frames.DEFAULT_FRAME_SIZE:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a frame larger than 16384 bytes")
            stop = at + header_bytes + size
            if stop > end:
                need = stop - at
                break
            payload = data[at + header_bytes : stop]
            at = stop
            stream_id &= frames.MAX_STREAM_ID  # without the reserved bit
            if self._block is not None and (kind != frames.CONTINUATION or stream_id != self._block_stream):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a header block with other frames in it")
            if kind == frames.DATA:
                self._on_data(flags, stream_id, payload, events)
            elif kind == frames.HEADERS:
                self._on_headers(flags, stream_id, payload, events)
            else:
                self._on_other(kind, flags, stream_id, payload, events)
            if self.closed is not None:
                return
        life = self._life
        if at < end:
            partial += data[at:] if at else data
            self._need = need
            if at or life.partial_since == NEVER:
                life.partial_since = self._now
                self._wake(self._now + self._limits.header_timeout)
        elif self._block is None:
            life.partial_since = NEVER

    def _on_headers(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if flags & (frames.PADDED | frames.HAS_PRIORITY):
            if flags & frames.PADDED:
                payload = frames.unpad(payload)
            if flags & frames.HAS_PRIORITY:
                frames.check_priority(stream_id, payload)
                payload = payload[frames.PRIORITY_BYTES :]
        if not self._life.configured:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "the first frame is not settings")
        if not stream_id & 1:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "headers on a stream that is not the client's")
        if flags & frames.END_HEADERS:
            self._on_block(flags, stream_id, payload, events)
        else:
            self._block = bytearray(payload)
            self._block_stream, self._block_flags, self._block_frames = stream_id, flags, 0
            self._life.partial_since = self._now
            self._wake(self._now + self._limits.header_timeout)

    def _on_continuation(self, flags: int, payload: bytes, events: list[Event]) -> None:
        block = self._block
        if block is None:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "continuation without headers")
        block += payload
        self._block_frames += 1
        if self._block_frames > self._limits.continuation_frames or len(block) > self._limits.header_block_bytes:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "a header block that is too long")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(self._block_flags, self._block_stream, bytes(block), events)

    def _on_block(self, flags: int, stream_id: int, block: bytes, events: list[Event]) -> None:
        """A whole header block: a request begins, or ends with trailers."""
        limits = self._limits
        if len(block) > limits.header_block_bytes:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "a header block that is too long")
        if stream_id <= self._last_id:
            self._on_trailers(flags, stream_id, block, events)
            return
        head = self._decoder.head(block)
        if self._draining > 1:
            return  # the GOAWAY has said that this stream will not be served
        self._last_id = stream_id
        self.opened += 1
        if len(self._streams) >= limits.concurrent_streams:
            self._count("streams")
            self._reset(stream_id, ErrorCode.REFUSED_STREAM, events)
            return
        weight = len(block) + _STREAM_BYTES
        if self._open_bytes > self._share and not self._server_has_room(weight):
            self._count("memory")
            self._reset(stream_id, ErrorCode.REFUSED_STREAM, events)
            return
        now = self._now
        stream = Stream(stream_id, head, weight, limits.stream_window, self._sending.initial_window, now)
        self._streams[stream_id] = stream
        self._open_bytes += weight
        due = now + limits.request_timeout
        if head.timeout is not None:
            stream.deadline = now + head.timeout
            if stream.deadline < due:  # noqa: PLR1730 - min() takes longer than all the rest of this
                due = stream.deadline
        if due < self._next:  # noqa: PLR1730 - as above
            self._next = due
        if flags & frames.END_STREAM:
            stream.ended = True
        if stream.ended:
            self._complete(stream, b"", events)
        elif head.refusal is not None and head.refusal.http_status is None:
            self._refuse(stream, head.refusal, events)

    def _on_trailers(self, flags: int, stream_id: int, block: bytes, events: list[Event]) -> None:
        good = self._decoder.are_trailers(block) and flags & frames.END_STREAM
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id not in self._reset_by_us:
                raise Http2Error(ErrorCode.STREAM_CLOSED, "headers on a closed stream")
            self._spend(1)
        elif stream.ended:
            self._reset(stream_id, ErrorCode.STREAM_CLOSED, events)
        elif not good:
            self._reset(stream_id, ErrorCode.PROTOCOL_ERROR, events)
        else:
            stream.ended = True
            self._complete(stream, b"", events)

    def _on_data(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        size = len(payload)
        limits = self._limits
        self._credit -= size
        if self._credit < limits.connection_window >> 1:
            if self._credit < 0:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "data beyond the connection's window")
            self._out.append(frames.window_update(0, limits.connection_window - self._credit))
            self._credit = limits.connection_window
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended:
            self._on_late_data(stream_id, events)
            return
        stream.credit -= size
        if stream.credit < 0:
            self._reset(stream_id, ErrorCode.FLOW_CONTROL_ERROR, events)
            return
        if flags & frames.PADDED:
            payload = frames.unpad(payload)
        if flags & frames.END_STREAM:
            stream.ended = True
            self._complete(stream, payload, events)
            return
        if size < _SMALL_DATA_BYTES:
            self._spend(1)
        if not stream.answered:
            self._gather(stream, payload, events)

    def _gather(self, stream: Stream, payload: bytes, events: list[Event]) -> None:
        """A part of a message that is not the last."""
        limits = self._limits
        wrong: Refusal | None = None
        if stream.head.refusal is not None:
            stream.passed_over += len(payload)
        elif self._serves is not None and stream.head.path not in self._serves:
            wrong = UNKNOWN_METHOD
        else:
            if not stream.body:
                stream.body = bytearray()
            stream.body += payload
            self._held += len(payload)
            wrong = problem(stream.body, limits.request_bytes)
            if self._held > limits.input_bytes or not self._server_has_room(len(payload)):
                wrong = NO_ROOM
        if wrong is not None:
            self._refuse(stream, wrong, events)
        elif stream.credit < limits.stream_window >> 1:
            self._out.append(frames.window_update(stream.id, limits.stream_window - stream.credit))
            stream.credit = limits.stream_window

    def _on_late_data(self, stream_id: int, events: list[Event]) -> None:
        self._spend(1)
        if self._is_idle(stream_id):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "data on an idle stream")
        if stream_id <= self._last_id and stream_id not in self._reset_by_us:
            self._reset(stream_id, ErrorCode.STREAM_CLOSED, events)

    def _is_idle(self, stream_id: int) -> bool:
        """Whether the client names a stream that it never opened; after the last GOAWAY we no longer know."""
        return not stream_id & 1 or (stream_id > self._last_id and self._draining < 2)

    def _complete(self, stream: Stream, payload: bytes, events: list[Event]) -> None:
        """The client has sent its last byte on this stream."""
        if stream.answered:
            return
        self._held -= len(stream.body)
        message = stream.message(payload, self._limits.request_bytes)
        if isinstance(message, Refusal):
            self._refuse(stream, message, events)
        elif stream.deadline <= self._now:
            self._refuse(stream, TOO_LATE, events)
        else:
            stream.called = True
            self._life.last_call = self._now
            deadline = stream.deadline if stream.deadline != NEVER else None
            events.append(Call(stream.id, stream.head, message, deadline, self.peer_identity))

    def _on_other(self, kind: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if not self._life.configured and (kind != frames.SETTINGS or flags & frames.ACK):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "the first frame is not settings")
        if kind == frames.CONTINUATION:
            self._on_continuation(flags, payload, events)
            return
        self._spend(_SETTINGS_COST if kind == frames.SETTINGS else 1)
        if kind == frames.WINDOW_UPDATE:
            self._on_window_update(stream_id, frames.parse_u32(payload), events)
        elif kind == frames.RST_STREAM:
            frames.check_size(payload, 4)
            self._on_reset(stream_id, events)
        elif kind == frames.PING:
            self._on_ping(flags, stream_id, payload)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, stream_id, payload)
        elif kind == frames.PRIORITY:
            frames.check_size(payload, frames.PRIORITY_BYTES)
            frames.check_priority(stream_id, payload)
        elif kind == frames.GOAWAY and stream_id:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "goaway on a stream")
        elif kind == frames.PUSH_PROMISE:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _on_reset(self, stream_id: int, events: list[Event]) -> None:
        if self._is_idle(stream_id):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a reset of an idle stream")
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._drop(stream, events)
            self._spend_reset()

    def _on_window_update(self, stream_id: int, increment: int, events: list[Event]) -> None:
        if stream_id == 0:
            if increment == 0:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a window update of nothing")
            for answered in self._sending.grow(increment):
                self._finish(answered)
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a window update of an idle stream")
        elif increment == 0:
            self._reset(stream_id, ErrorCode.PROTOCOL_ERROR, events)
        elif stream.window + increment > frames.MAX_WINDOW:
            self._reset(stream_id, ErrorCode.FLOW_CONTROL_ERROR, events)
        else:
            stream.window += increment
            self._advance(stream)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.check_size(payload, frames.PING_BYTES)
        if stream_id:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "ping on a stream")
        if not flags & frames.ACK:
            self._out.append(frames.ping(payload, ack=True))
        elif payload == DRAIN_PING and self._draining == 1:
            self._drain_finally()

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "settings on a stream")
        if flags & frames.ACK:
            frames.check_size(payload, 0)
            self._life.acknowledged = True
            self._decoder.acknowledged()
            return
        parameters = frames.parse_settings(payload)
        self._out.append(frames.SETTINGS_ACK)  # before what the new windows let go
        self._life.configured = True
        sending = self._sending
        for key, value in parameters:
            if key == Setting.INITIAL_WINDOW_SIZE:
                delta = value - sending.initial_window
                sending.initial_window = value
                for stream in list(self._streams.values()):
                    stream.window += delta
                    if stream.window > frames.MAX_WINDOW:
                        raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "the window of a stream overflows")
                    self._advance(stream)
            elif key == Setting.MAX_FRAME_SIZE:
                sending.frame_size = value
