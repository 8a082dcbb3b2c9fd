"""What must hold whatever a client sends: frames, header blocks, and plays of a whole connection, each made of any bytes.

Hypothesis writes the bytes in the suite, atheris in `make fuzz`. Nothing here needs more than the standard library and hpack.
"""

from typing import Final

from hpack import Decoder, Encoder, HPACKDecodingError

from lateen.wire.call import Call, RpcError
from lateen.wire.connection import Cancelled, Connection, Event
from lateen.wire.frames import ErrorCode, Http2Error
from lateen.wire.headers import HeaderCache, HeaderDecoder
from lateen.wire.limits import Limits
from tests.wire import frames

# Small, so that they are met.
LIMITS: Final = Limits(
    concurrent_streams=4,
    request_bytes=300,
    response_bytes=100_000,
    input_bytes=500,
    output_bytes=2_000,
    connection_window=70_000,
    stream_window=400,
    header_block_bytes=400,
    header_list_bytes=800,
    header_count=10,
    continuation_frames=3,
    control_frames=60,
    control_frames_per_call=2,
    resets=6,
    connection_age=500.0,
)
_WITH_TABLE: Final = Limits(header_table_bytes=4096, concurrent_streams=4, connection_age=500.0)
_ENTRIES: Final = 16
_OPENING: Final = frames.PREFACE + frames.settings() + frames.settings(ack=True)
_MOST_STEPS: Final = 400


def _blocks() -> tuple[bytes, ...]:
    encoder = Encoder()
    encoder.header_table_size = 0
    variants = (
        frames.request_fields("/t.T/Echo"),
        frames.request_fields("/t.T/Echo", ("grpc-timeout", "50m")),
        frames.request_fields("/t.T/Echo", ("x-a", "b"), ("x-a", "c"), ("content-length", "10")),
        frames.request_fields("/", (":method", "GET"), ("content-type", "")),
        frames.request_fields("/t.T/Echo", ("grpc-encoding", "gzip")),
        [("x-trailer", "1")],
    )
    return tuple(bytes(encoder.encode(fields)) for fields in variants)


BLOCKS: Final = _blocks()


_NO_TABLE: Final = b"\x20"


class Play:
    """A client's moves, each some bytes of the input, against a connection; raises AssertionError when a rule is broken."""

    def __init__(self, data: bytes) -> None:
        """`data` is all that happens."""
        self._data = data
        self._at = 0
        self._now = 0.0
        first = self._byte()
        self._cache = HeaderCache(LIMITS, _ENTRIES)
        limits = LIMITS if first & 2 else _WITH_TABLE
        self._connection = Connection(limits, cache=self._cache)
        self._open: dict[int, Call] = {}  # calls that were handed over and not answered
        self._called: set[int] = set()
        self._in = self._answers = 0
        self._out = 0
        self._rest = bytearray()
        if first & 1:
            self._receive(_OPENING)
        if first & 13 == 1:  # and the table was given up already: from there on things are quick
            self._receive(frames.headers(1, _NO_TABLE + BLOCKS[0]) + frames.rst_stream(1))

    def run(self) -> None:
        """To the end of the data, or of the connection."""
        for _ in range(_MOST_STEPS):
            if self._at >= len(self._data) or self._connection.closed is not None:
                break
            self._step()
            self._check()
        self._finish()

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def _bytes(self) -> bytes:
        size = self._byte()
        self._at += size
        return self._data[self._at - size : self._at]

    def _step(self) -> None:
        connection = self._connection
        match self._byte() & 15:
            case 0:
                self._receive(self._bytes())
            case 1 | 2:
                kind, flags, stream = self._byte(), self._byte(), self._byte()
                self._receive(frames.frame(kind % 11, stream, self._bytes(), flags))
            case 3 | 4 | 5:
                stream, which = self._byte(), self._byte()
                flags = frames.END_HEADERS if which & 128 else frames.END_HEADERS | frames.END_STREAM
                self._receive(frames.frame(frames.HEADERS, stream, BLOCKS[which % len(BLOCKS)], flags))
            case 6 | 7:
                stream, size = self._byte(), self._byte()
                self._receive(frames.data(stream, frames.message(b"x" * size), end=size % 2 == 0))
            case 8 | 9:
                self._answer(self._byte())
            case 10:
                stream, increment = self._byte(), self._byte()
                self._receive(frames.window_update(stream, increment * increment))
            case 11:
                window, size = self._byte(), self._byte() % 3
                values = {"INITIAL_WINDOW_SIZE": window * window, "MAX_FRAME_SIZE": 16_384 + size}
                self._receive(frames.settings(values))
            case 12:
                self._now += (self._byte() / 8) ** 2
                self._note(connection.on_time(self._now))
                due = connection.next_deadline()
                assert due is None or due > self._now, "time would stand still"
            case 13:
                connection.drain(self._now, self._byte() / 8)
            case 14:
                connection.writing(stalled=bool(self._byte() & 1), now=self._now)
            case 15:
                self._receive(frames.rst_stream(self._byte()))

    def _receive(self, data: bytes) -> None:
        self._in += len(data)
        self._note(self._connection.receive(data, self._now))

    def _note(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Call):
                assert event.stream_id not in self._called, "called twice"
                assert len(event.message) <= 4 * 1024 * 1024
                self._called.add(event.stream_id)
                self._open[event.stream_id] = event
            elif isinstance(event, Cancelled):
                assert self._open.pop(event.stream_id, None) is not None, "cancelled without a call"

    def _answer(self, how: int) -> None:
        if not self._open:
            return
        stream, call = self._open.popitem() if how & 1 else (next(iter(self._open)), None)
        call = call or self._open.pop(stream)
        if how & 2:
            self._connection.fail(stream, how % 17, "ä%" * (how & 7))
        else:
            message = bytes(how) * (how & 60)
            self._answers += len(message)
            self._connection.answer(stream, message)

    def _check(self) -> None:
        connection = self._connection
        assert len(connection._streams) <= 4
        assert connection._held <= max(LIMITS.input_bytes, 0) + 16_384 or connection._limits is not LIMITS
        assert connection._held >= 0
        assert connection._open_bytes == sum(stream.weight for stream in connection._streams.values())
        assert len(connection._partial) <= 16_384 + 9
        assert connection._sending.held >= 0
        assert len(self._cache) <= 4 * _ENTRIES
        self._take()

    def _take(self) -> None:
        sent = self._connection.data_to_send()
        self._out += len(sent)
        self._rest += sent
        for frame in frames.read_frames(self._rest):
            assert frame.type < 10
            assert len(frame.payload) <= 16_386
        assert not self._rest, "half a frame"
        # Whatever the client does, we do not say much more than it did.
        assert self._out <= 2_000 + 40 * self._in + 2 * self._answers + 200 * len(self._called)

    def _finish(self) -> None:
        """However it stands: time ends it, and nothing is left."""
        for _ in range(50):
            due = self._connection.next_deadline()
            if due is None:
                break
            self._now = max(self._now, due) + 0.001
            self._note(self._connection.on_time(self._now))
            self._take()
        assert self._connection.closed is not None, "the connection outlives its age"
        self._take()
        assert self._connection.receive(b"\0" * 100, self._now) == []
        assert self._connection.data_to_send() == b""


def play(data: bytes) -> None:
    """One connection."""
    Play(data).run()


_PLAIN: Final = bytes((0x83, 0x86, 0x04, 2)) + b"/a" + bytes((0x0F, 0x10, 16)) + b"application/grpc"
_CALLS: Final = (
    frames.headers(1, _NO_TABLE + _PLAIN),  # one whose message is still to come
    frames.data(1, b"\0\0"),
    frames.headers(3, _PLAIN),
    frames.data(3, frames.message(b"x"), end=True),
)
_CACHE: Final = HeaderCache(LIMITS)


def frame_bytes(data: bytes) -> None:
    """What a client sends as it is. The first byte: whether the connection is open and has calls, and where the rest is cut in two."""
    if not data:
        return
    first, sent = data[0], data[1:]
    connection = Connection(LIMITS, cache=_CACHE)
    begun = 0
    if first & 1:
        opening = _OPENING if first & 2 else _OPENING + b"".join(_CALLS)
        connection.receive(opening)
        begun = len(connection.data_to_send())
    cut = first >> 2
    events = connection.receive(sent[:cut]) if cut else []
    events += connection.receive(sent[cut:])
    out = connection.data_to_send()
    assert len(out) <= 200 + 40 * len(sent), "we say more than the client"
    assert begun or len(connection._partial) <= max(len(data), 24)
    assert len(connection._partial) <= 16_384 + 9
    assert 0 <= connection._held <= LIMITS.input_bytes
    assert connection.open_streams <= LIMITS.concurrent_streams
    assert connection._open_bytes == sum(stream.weight for stream in connection._streams.values())
    called = {event.stream_id for event in events if isinstance(event, Call)}
    assert len(called) <= LIMITS.concurrent_streams
    if connection.closed is not None:
        assert connection.receive(sent) == []
        assert connection.data_to_send() == b""
        return
    for stream in sorted(called):
        connection.answer(stream, b"a")
    due = connection.next_deadline()
    assert due is not None
    connection.drain(0.0, 1.0)
    connection.on_time(2.0)
    assert connection.closed is not None, "it outlives its drain"


_NEVER_CHANGES: Final = Decoder(max_header_list_size=LIMITS.header_list_bytes)
_NEVER_CHANGES.max_allowed_table_size = 0
_NEVER_CHANGES.header_table_size = 0


def header_blocks(data: bytes) -> None:
    """Header blocks one after the other on one connection, and what `hpack` says of each. The first byte: whether there is a table."""
    if not data:
        return
    cache = HeaderCache(LIMITS, _ENTRIES)
    ours: HeaderCache | HeaderDecoder = cache
    theirs = _NEVER_CHANGES
    if not data[0] & 1:
        ours = HeaderDecoder(cache, LIMITS)
        theirs = Decoder(max_header_list_size=LIMITS.header_list_bytes)
    at = 1
    while at < len(data):
        size = data[at]
        block = data[at + 1 : at + 1 + size]
        at += 1 + size
        try:
            expected = [(bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True)]
        except (HPACKDecodingError, IndexError):
            expected = None
        try:
            head = ours.head(block)
            found = {name: head.values(name) for name in head.names}
        except RpcError:
            continue  # a value that no text can be made of
        except Http2Error as error:
            if error.code not in (ErrorCode.COMPRESSION_ERROR, ErrorCode.ENHANCE_YOUR_CALM):
                raise AssertionError("an error that is none of header blocks") from error
            return
        assert len(cache) <= 4 * _ENTRIES
        if expected is None:
            return  # hpack looks at values that nobody asks us for
        for name, values in found.items():
            wanted = [value for key, value in expected if key == name.encode("latin-1")]
            assert list(values) == [_text(value) for value in wanted], (name, values, wanted)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
