"""Answers on their way out: both windows of the client are kept, and what they hold up is bounded."""

from lateen.wire.frames import (
    DATA,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_STREAM,
    MAX_WINDOW,
    ErrorCode,
    Http2Error,
    frame,
)
from lateen.wire.streams import Stream


class Sending:
    """The client's windows, and the answers that wait for them."""

    __slots__ = ("_ready", "frame_size", "held", "initial_window", "out", "window")

    def __init__(self) -> None:
        """Windows of a client that has not sent its SETTINGS yet."""
        self.out: list[bytes] = []  # frames for the transport
        self.window = DEFAULT_WINDOW  # of the connection
        self.initial_window = DEFAULT_WINDOW  # of a new stream
        self.frame_size = DEFAULT_FRAME_SIZE
        self.held = 0  # bytes of answers that wait for a window
        self._ready: dict[int, Stream] = {}  # streams that wait for the connection's window only

    def start(self, stream: Stream, headers: bytes, body: bytes, trailers: bytes) -> bool:
        """Send as much of an answer as the windows allow; whether that is all. No trailers: the last DATA ends the stream."""
        self.out.append(headers)
        stream.out = body
        stream.trailers = trailers
        self.held += len(body)
        return self.advance(stream)

    def advance(self, stream: Stream) -> bool:
        """Send what the windows allow of an answer begun; whether that is the rest of it."""
        body, at, size = stream.out, stream.sent, len(stream.out)
        while at < size:
            room = min(stream.window, self.window, self.frame_size, size - at)
            if room <= 0:
                break
            part = body[at : at + room]
            at += room
            flags = END_STREAM if at == size and not stream.trailers else 0
            self.out.append(frame(DATA, flags, stream.id, part))
            stream.window -= room
            self.window -= room
            self.held -= room
        stream.sent = at
        if at < size:
            if stream.window > 0:
                self._ready[stream.id] = stream
            else:
                self._ready.pop(stream.id, None)
            return False
        self._ready.pop(stream.id, None)
        if stream.trailers:
            self.out.append(stream.trailers)
        return True

    def forget(self, stream: Stream) -> None:
        """The stream is gone, and what it still had to send."""
        self.held -= len(stream.out) - stream.sent
        stream.sent = len(stream.out)
        self._ready.pop(stream.id, None)

    def grow(self, increment: int) -> list[Stream]:
        """The connection's window grows: the streams whose answers are complete now."""
        self.window += increment
        if self.window > MAX_WINDOW:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window overflows")
        done: list[Stream] = []
        for stream in list(self._ready.values()):
            if self.window <= 0:
                break
            # One that is still not done goes to the end of the queue: each has its turn.
            self._ready.pop(stream.id, None)
            if self.advance(stream):
                done.append(stream)
        return done
