"""One HTTP/2 connection with a gRPC client, as a state machine: bytes in, events out; answers in, bytes out. No I/O, no clock.

An error of the connection ends it with GOAWAY, one of a stream with RST_STREAM, one of a call with a gRPC status; section numbers
are RFC 9113's. Everything a client can make us hold or do is bounded by `Limits`.
"""

import math
from dataclasses import dataclass
from typing import Final

from lateen.wire import frames, responses
from lateen.wire.call import Call, StatusCode
from lateen.wire.frames import ErrorCode, Setting
from lateen.wire.headers import CompressionError, HeaderCache, HeaderDecoder
from lateen.wire.limits import Limits
from lateen.wire.rates import Rate
from lateen.wire.refusals import NO_ROOM, TOO_LATE, TOO_SLOW, Refusal
from lateen.wire.sending import Sending
from lateen.wire.streams import Recent, Stream, problem

_NEVER: Final = math.inf
_FRAME_HEADER_BYTES: Final = 9
_SMALL_DATA_BYTES: Final = 64
_SETTINGS_COST: Final = 10  # each may change the window of every stream
_DRAIN_PING: Final = b"drainlat"
_KEEPALIVE_PING: Final = b"alivelat"
_DRAIN_SECONDS: Final = 1.0  # for the answer to the PING between the two GOAWAYs


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client gave a call up, or its deadline has passed: what a handler returns is not sent."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over, and every call on it: send what is left, then close the transport."""

    reason: str


Event = Call | Cancelled | Closed


class _ConnectionError(Exception):
    """An error of the connection."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Connection:
    """The server's side of one connection. Times are monotonic seconds, given with each call."""

    def __init__(
        self,
        limits: Limits,
        now: float = 0.0,
        *,
        cache: HeaderCache | None = None,
        peer_identity: str | None = None,
        refused: dict[str, int] | None = None,
        age: float | None = None,
    ) -> None:
        """`cache` and `refused` (counts by reason) may be shared by all connections of a server; `age` varies the limit."""
        self.closed: str | None = None  # why, once it is over
        self.opened = 0  # streams
        self.answered = 0  # calls
        self.peer_identity = peer_identity
        self.refused = refused if refused is not None else {}
        self._limits = limits
        self._now = now
        self._decoder = HeaderDecoder(cache if cache is not None else HeaderCache(limits), limits)
        self._sending = Sending()
        self._out = self._sending.out
        self._streams: dict[int, Stream] = {}
        self._last_id = 0
        self._reset_by_us = Recent(max(limits.concurrent_streams, 16))
        self._partial = bytearray()
        self._need = len(frames.PREFACE)
        self._partial_since = _NEVER
        self._greeted = False  # the preface was read
        self._configured = False  # the client's first SETTINGS were read
        self._acknowledged = False  # the client has acknowledged ours
        self._block: bytearray | None = None  # a header block that is not complete
        self._block_stream = self._block_flags = self._block_frames = 0
        self._credit = limits.connection_window
        self._held = 0  # bytes of incomplete requests
        self._controls = Rate(limits.control_frames, limits.control_frames_per_call, now)
        self._resets = Rate(limits.resets, 1, now)
        self._drain_step = 0  # 1 after the first GOAWAY, 2 after the last
        self._drain_since = self._drain_until = _NEVER
        self._age = limits.connection_age if age is None else age
        self._started = self._heard = self._last_call = now
        self._pinged = _NEVER
        self._stalled = _NEVER
        self._next = now + min(limits.preface_timeout, limits.keepalive_interval, limits.idle_timeout, self._age)
        self._greet()

    # What the transport tells.

    def receive(self, data: bytes, now: float | None = None) -> list[Event]:
        """Bytes of the client; without `now`, no time has passed. Nothing happens once the connection is closed."""
        if now is not None:
            self._now = now
        self._heard = self._now
        events: list[Event] = []
        if self.closed is None:
            try:
                self._parse(data, events)
            except CompressionError as error:
                self._end(ErrorCode.COMPRESSION_ERROR, str(error), events)
            except _ConnectionError as fault:
                self._end(fault.code, fault.reason, events)
        return events

    def data_to_send(self) -> bytes:
        """Every frame ready for the transport; they are handed out once."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def writing(self, *, stalled: bool, now: float) -> None:
        """Whether the transport has stopped taking bytes: a client that never reads is given up after `send_timeout`."""
        self._stalled = now if stalled else _NEVER
        if stalled:
            self._wake(now + self._limits.send_timeout)

    # What the server decides.

    def answer(self, stream_id: int, message: bytes) -> None:
        """Answer a call; nothing happens if it was cancelled or answered before."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.answered:
            return
        sending = self._sending
        size = len(message) + responses.PREFIX_BYTES
        if size <= sending.frame_size and size <= stream.window and size <= sending.window:
            sending.window -= size
            self._out.append(responses.whole_answer(stream_id, message))
            self._finish(stream)
        elif size > self._limits.response_bytes:
            self.fail(stream_id, StatusCode.RESOURCE_EXHAUSTED, "the answer is larger than this server sends")
        elif size + sending.held > self._limits.output_bytes:
            self.fail(stream_id, StatusCode.RESOURCE_EXHAUSTED, "too many answers on this connection wait to be read")
        else:
            headers, trailers = responses.answer_headers(stream_id), responses.answer_trailers(stream_id)
            self._send_slowly(stream, headers, responses.answer_body(message), trailers)

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
        if self._drain_step or self.closed is not None:
            return
        if not self._configured:
            self.closed = "drained"
            return
        self._drain_step = 1
        self._drain_since = self._now
        self._drain_until = self._now + (self._limits.connection_grace if grace is None else grace)
        self._out.append(frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR))
        self._out.append(frames.ping(_DRAIN_PING, ack=False))
        self._wake(min(self._now + _DRAIN_SECONDS, self._drain_until))

    def abort(self, code: ErrorCode, reason: str) -> list[Event]:
        """End the connection at once with an error."""
        events: list[Event] = []
        self._end(code, reason, events)
        return events

    # Time.

    @property
    def open_streams(self) -> int:
        """Streams that are open in either direction."""
        return len(self._streams)

    def next_deadline(self) -> float | None:
        """When `on_time` should be called next, at the latest."""
        return self._next if self.closed is None and self._next < _NEVER else None

    def on_time(self, now: float) -> list[Event]:
        """Do what is due: deadlines, timeouts, keepalive, the connection's age."""
        self._now = now
        events: list[Event] = []
        if self.closed is None:
            self._next = _NEVER
            try:
                self._check_progress(now)
                self._check_age(now)
                self._check_streams(now, events)
            except _ConnectionError as fault:
                self._end(fault.code, fault.reason, events)
            self._report_closed(events)
        return events

    def _report_closed(self, events: list[Event]) -> None:
        """Tell of an end that no error brought about."""
        if self.closed is not None and not (events and isinstance(events[-1], Closed)):
            events.append(Closed(self.closed))

    def _wake(self, when: float) -> None:
        self._next = min(self._next, when)

    def _check_progress(self, now: float) -> None:
        """A client that says nothing, stops halfway, does not read, or is gone."""
        limits = self._limits
        if not self._acknowledged:
            if now >= self._started + limits.preface_timeout:
                code = ErrorCode.SETTINGS_TIMEOUT if self._configured else ErrorCode.PROTOCOL_ERROR
                raise _ConnectionError(code, "no preface and settings in time")
            self._wake(self._started + limits.preface_timeout)
        if now >= self._partial_since + limits.header_timeout:
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "a frame or header block took too long")
        self._wake(self._partial_since + limits.header_timeout)
        if now >= self._stalled + limits.send_timeout:
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "nothing is read")
        self._wake(self._stalled + limits.send_timeout)
        if self._heard > self._pinged:
            self._pinged = _NEVER
        if now >= self._pinged + limits.keepalive_timeout:
            raise _ConnectionError(ErrorCode.NO_ERROR, "no answer to ping")
        if self._pinged < _NEVER:
            self._wake(self._pinged + limits.keepalive_timeout)
        elif now >= self._heard + limits.keepalive_interval:
            if self._configured:
                self._out.append(frames.ping(_KEEPALIVE_PING, ack=False))
            self._pinged = now
            self._wake(now + limits.keepalive_timeout)
        else:
            self._wake(self._heard + limits.keepalive_interval)

    def _check_age(self, now: float) -> None:
        limits = self._limits
        if self._drain_step == 0:
            idle_until = self._last_call + limits.idle_timeout if not self._streams else _NEVER
            until = min(idle_until, self._started + self._age)
            if now < until:
                self._wake(until if until < _NEVER else self._started + self._age)
                return
            self.drain(now)
        if self._drain_step == 1 and now >= self._drain_since + _DRAIN_SECONDS:
            self._drain_finally()
        if now >= self._drain_until and self.closed is None:
            self._streams.clear()
            self.closed = "drained, with calls in flight"
        self._wake(self._drain_until if self._drain_step > 1 else self._drain_since + _DRAIN_SECONDS)

    def _check_streams(self, now: float, events: list[Event]) -> None:
        limits = self._limits
        for stream in list(self._streams.values()):
            if stream.answered:
                until = stream.since + limits.send_timeout
                if now >= until:
                    self._reset(stream.id, ErrorCode.CANCEL, events)
                    continue
            else:
                until = stream.deadline if stream.ended else min(stream.deadline, stream.since + limits.request_timeout)
                if now >= until:
                    if stream.called:
                        events.append(Cancelled(stream.id))
                    self._refuse(stream, TOO_LATE if now >= stream.deadline else TOO_SLOW, events)
                    continue
            self._wake(until)

    # Frames.

    def _greet(self) -> None:
        limits = self._limits
        self._out.append(
            frames.settings(
                {
                    Setting.HEADER_TABLE_SIZE: 0,
                    Setting.MAX_CONCURRENT_STREAMS: limits.concurrent_streams,
                    Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
                    Setting.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
                    Setting.NO_RFC7540_PRIORITIES: 1,
                }
            )
        )
        if limits.connection_window > frames.DEFAULT_WINDOW:
            self._out.append(frames.window_update(0, limits.connection_window - frames.DEFAULT_WINDOW))

    def _parse(self, data: bytes, events: list[Event]) -> None:
        partial = self._partial
        if partial:
            partial += data
            if len(partial) < self._need and self._greeted:
                return
            data = bytes(partial)
            partial.clear()
        at, end = 0, len(data)
        if not self._greeted:
            start = data[: len(frames.PREFACE)]
            if not frames.PREFACE.startswith(start):
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "not an http/2 client")
            if len(start) < len(frames.PREFACE):
                partial += start
                return
            self._greeted = True
            at = len(start)
        unpack = frames.FRAME_HEADER.unpack_from
        need = _FRAME_HEADER_BYTES
        while end - at >= _FRAME_HEADER_BYTES:
            high, low, kind, flags, stream_id = unpack(data, at)
            size = high << 8 | low
            if size > frames.DEFAULT_FRAME_SIZE:
                raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a frame larger than 16384 bytes")
            start_at = at + _FRAME_HEADER_BYTES
            stop = start_at + size
            if stop > end:
                need = stop - at
                break
            at = stop
            payload = data[start_at:stop]
            if self._block is not None and (kind != frames.CONTINUATION or stream_id != self._block_stream):
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a header block with other frames in it")
            if kind == frames.DATA:
                self._on_data(flags, stream_id, payload, events)
            elif kind == frames.HEADERS:
                self._on_headers(flags, stream_id, payload, events)
            else:
                self._on_other(kind, flags, stream_id, payload, events)
            if self.closed is not None:
                events.append(Closed(self.closed))
                return
        if at < end:
            partial += data[at:] if at else data
            self._need = need
            if at or self._partial_since == _NEVER:
                self._partial_since = self._now
                self._wake(self._now + self._limits.header_timeout)
        elif self._block is None:
            self._partial_since = _NEVER

    def _on_headers(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if flags & (frames.PADDED | frames.HAS_PRIORITY):
            if flags & frames.PADDED:
                payload = _unpad(payload)
            if flags & frames.HAS_PRIORITY:
                self._check_priority(stream_id, payload)
                payload = payload[5:]
        if not self._configured:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "the first frame is not settings")
        if flags & frames.END_HEADERS:
            self._on_block(flags, stream_id, payload, events)
            return
        if not stream_id & 1:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "headers on a stream that is not the client's")
        self._block = bytearray(payload)
        self._block_stream, self._block_flags, self._block_frames = stream_id, flags, 0
        self._partial_since = self._now
        self._wake(self._now + self._limits.header_timeout)

    def _on_continuation(self, flags: int, payload: bytes, events: list[Event]) -> None:
        block = self._block
        if block is None:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "continuation without headers")
        block += payload
        self._block_frames += 1
        limits = self._limits
        if len(block) > limits.header_block_bytes or self._block_frames > limits.continuation_frames:
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "a header block that is too long")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(self._block_flags, self._block_stream, bytes(block), events)

    def _on_block(self, flags: int, stream_id: int, block: bytes, events: list[Event]) -> None:
        """A whole header block: a request begins, or ends with trailers."""
        limits = self._limits
        if len(block) > limits.header_block_bytes:
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "a header block that is too long")
        if stream_id <= self._last_id:
            self._on_trailers(flags, stream_id, block, events)
            return
        if not stream_id & 1:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "headers on a stream that is not the client's")
        head = self._decoder.head(block)
        if self._drain_step > 1:
            return  # the GOAWAY has said that this stream will not be served
        self._last_id = stream_id
        self.opened += 1
        if len(self._streams) >= limits.concurrent_streams:
            self._count("streams")
            self._reset(stream_id, ErrorCode.REFUSED_STREAM, events)
            return
        now = self._now
        deadline = _NEVER if head.timeout is None else now + head.timeout
        stream = Stream(stream_id, head, limits.stream_window, self._sending.initial_window, deadline, now)
        self._streams[stream_id] = stream
        stream.ended = bool(flags & frames.END_STREAM)
        due = min(deadline, now + limits.request_timeout)
        self._next = min(self._next, due)
        if head.refusal is not None:
            self._refuse(stream, head.refusal, events)
        elif stream.ended:
            self._complete(stream, b"", events)

    def _on_trailers(self, flags: int, stream_id: int, block: bytes, events: list[Event]) -> None:
        good = self._decoder.are_trailers(block) and bool(flags & frames.END_STREAM)
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id in self._reset_by_us:
                self._spend(1)
                return
            raise _ConnectionError(ErrorCode.STREAM_CLOSED, "headers on a closed stream")
        if stream.ended:
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
                raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "data beyond the connection's window")
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
            payload = _unpad(payload)
        if flags & frames.END_STREAM:
            stream.ended = True
            self._complete(stream, payload, events)
            return
        if size < _SMALL_DATA_BYTES:
            self._spend(1)
        if stream.answered:
            return
        if stream.body is None:
            stream.body = bytearray()
        stream.body += payload
        stream.received += len(payload)
        self._held += len(payload)
        wrong = NO_ROOM if self._held > limits.input_bytes else problem(stream.body, limits.request_bytes)
        if wrong is not None:
            self._refuse(stream, wrong, events)
        elif stream.credit < limits.stream_window >> 1:
            self._out.append(frames.window_update(stream_id, limits.stream_window - stream.credit))
            stream.credit = limits.stream_window

    def _on_late_data(self, stream_id: int, events: list[Event]) -> None:
        if stream_id > self._last_id or not stream_id & 1:
            if self._drain_step > 1 and stream_id & 1:
                return
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "data on an idle stream")
        self._spend(1)
        if stream_id not in self._reset_by_us:
            self._reset(stream_id, ErrorCode.STREAM_CLOSED, events)

    def _complete(self, stream: Stream, payload: bytes, events: list[Event]) -> None:
        """The client has sent its last byte on this stream."""
        if stream.answered:
            return
        if stream.received:
            self._held -= stream.received
            stream.received = 0
        message = stream.message(payload, self._limits.request_bytes)
        stream.body = None
        if isinstance(message, Refusal):
            self._refuse(stream, message, events)
        elif stream.deadline <= self._now:
            self._refuse(stream, TOO_LATE, events)
        else:
            stream.called = True
            self._last_call = self._now
            deadline = stream.deadline if stream.deadline < _NEVER else None
            events.append(Call(stream.id, stream.head, message, deadline, self.peer_identity))

    def _on_other(self, kind: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if kind == frames.CONTINUATION:
            self._on_continuation(flags, payload, events)
            return
        if not self._configured and (kind != frames.SETTINGS or flags & frames.ACK):
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "the first frame is not settings")
        if kind == frames.RST_STREAM:
            self._on_reset(stream_id, payload, events)
            return
        self._spend(_SETTINGS_COST if kind == frames.SETTINGS else 1)
        if kind == frames.WINDOW_UPDATE:
            self._on_window_update(stream_id, payload, events)
        elif kind == frames.PING:
            self._on_ping(flags, stream_id, payload)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, stream_id, payload)
        elif kind == frames.PRIORITY:
            _check_size(payload, 5)
            self._check_priority(stream_id, payload)
        elif kind == frames.GOAWAY:
            if stream_id:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "goaway on a stream")
        elif kind == frames.PUSH_PROMISE:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _on_reset(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        _check_size(payload, 4)
        if stream_id > self._last_id or not stream_id & 1:
            if self._drain_step > 1 and stream_id & 1:
                return
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a reset of an idle stream")
        stream = self._streams.get(stream_id)
        if stream is None:
            self._spend(1)
            return
        self._drop(stream, events)
        self._spend_reset()

    def _on_window_update(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        _check_size(payload, 4)
        increment = frames.u32(payload)
        sending = self._sending
        if stream_id == 0:
            if increment == 0:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a window update of nothing")
            done = sending.grow(increment)
            if done is None:
                raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the window overflows")
            for answered in done:
                self._finish(answered)
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id > self._last_id or not stream_id & 1:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a window update of an idle stream")
            return
        if increment == 0:
            self._reset(stream_id, ErrorCode.PROTOCOL_ERROR, events)
            return
        stream.window += increment
        if stream.window > frames.MAX_WINDOW:
            self._reset(stream_id, ErrorCode.FLOW_CONTROL_ERROR, events)
        elif stream.answered:
            self._advance(stream)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check_size(payload, 8)
        if stream_id:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "ping on a stream")
        if not flags & frames.ACK:
            self._out.append(frames.ping(payload, ack=True))
        elif payload == _DRAIN_PING and self._drain_step == 1:
            self._drain_finally()

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "settings on a stream")
        if flags & frames.ACK:
            _check_size(payload, 0)
            self._acknowledged = True
            self._decoder.acknowledged()
            return
        if len(payload) % 6:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "settings of a wrong size")
        self._configured = True
        sending = self._sending
        for key, value in frames.parse_settings(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                if value > frames.MAX_WINDOW:
                    raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the initial window is too large")
                self._change_windows(value - sending.initial_window)
                sending.initial_window = value
            elif key == Setting.MAX_FRAME_SIZE:
                if not frames.DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                    raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a frame size out of range")
                sending.frame_size = value
            elif key == Setting.ENABLE_PUSH and value > 1:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "enable_push is neither 0 nor 1")
        self._out.append(frames.SETTINGS_ACK)

    def _change_windows(self, delta: int) -> None:
        for stream in list(self._streams.values()):
            stream.window += delta
            if stream.window > frames.MAX_WINDOW:
                raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the window of a stream overflows")
            if stream.answered:
                self._advance(stream)

    # Ends.

    def _send_slowly(self, stream: Stream, headers: bytes, body: bytes, trailers: bytes) -> None:
        stream.answered = True
        stream.since = self._now
        self._wake(self._now + self._limits.send_timeout)
        if self._sending.start(stream, headers, body, trailers):
            self._finish(stream)

    def _advance(self, stream: Stream) -> None:
        stream.since = self._now
        if self._sending.advance(stream):
            self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        """The last frame of an answer is on its way."""
        stream_id = stream.id
        del self._streams[stream_id]
        self.answered += 1
        if not stream.ended:
            self._held -= stream.received
            self._out.append(frames.rst_stream(stream_id, ErrorCode.NO_ERROR))
            self._reset_by_us.add(stream_id)
        if self._drain_step > 1 and not self._streams:
            self.closed = "drained"

    def _drop(self, stream: Stream, events: list[Event]) -> None:
        """The stream is over before its answer."""
        del self._streams[stream.id]
        self._held -= stream.received
        self._sending.forget(stream)
        if stream.called and not stream.answered:
            events.append(Cancelled(stream.id))
        if self._drain_step > 1 and not self._streams:
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
        self._drain_step = 2
        self._out.append(frames.goaway(self._last_id, ErrorCode.NO_ERROR))
        if not self._streams:
            self.closed = "drained"

    def _end(self, code: ErrorCode, reason: str, events: list[Event]) -> None:
        if self.closed is None:
            self._count(f"connection_{code.name.lower()}")
            self._out.append(frames.goaway(self._last_id, code, reason))
            self.closed = reason
            self._streams.clear()
            self._partial.clear()
            self._block = None
            events.append(Closed(reason))

    def _count(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def _spend(self, amount: int) -> None:
        if not self._controls.spend(amount, self._now, self.opened):
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames")

    def _spend_reset(self) -> None:
        if not self._resets.spend(1, self._now, self.answered):
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many streams are reset")

    @staticmethod
    def _check_priority(stream_id: int, payload: bytes) -> None:
        """Priorities mean nothing to us, and must be well formed."""
        if len(payload) < 5:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a priority cut short")
        if stream_id == 0 or frames.u32(payload[:4]) == stream_id:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself, or on no stream")


def _unpad(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def _check_size(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a frame of a wrong size")
