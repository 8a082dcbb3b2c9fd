"""Plays that nobody wrote: any bytes against the connection and the header layer, and a real HTTP/2 library as the client."""

import random
from collections.abc import Callable

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lateen.wire.call import Call
from lateen.wire.connection import Cancelled, Connection
from lateen.wire.limits import Limits
from tests.fuzzing import examples
from tests.wire import frames, fuzzed
from tests.wire.script import all_plays, sent

pytestmark = pytest.mark.fuzz

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(deadline=None, max_examples=examples(1000), suppress_health_check=SLOW)
@given(st.binary(max_size=600))
def test_any_play_keeps_the_rules(data: bytes) -> None:
    fuzzed.play(data)


@settings(deadline=None, max_examples=examples(1000), suppress_health_check=SLOW)
@given(st.integers(0, 255), st.binary(max_size=200))
def test_any_bytes_of_frames(first: int, data: bytes) -> None:
    fuzzed.frame_bytes(bytes([first]) + data)


FRAME = st.builds(
    frames.frame,
    st.integers(0, 11),
    st.integers(0, 6),
    st.binary(max_size=30),
    st.integers(0, 255),
)


@settings(deadline=None, max_examples=examples(1000), suppress_health_check=SLOW)
@given(st.integers(0, 255), st.lists(FRAME, max_size=8))
def test_any_frames(first: int, sent_frames: list[bytes]) -> None:
    fuzzed.frame_bytes(bytes([first]) + b"".join(sent_frames))


MOVE = st.one_of(
    st.builds(lambda kind, flags, stream, body: bytes([1, kind, flags, stream, len(body)]) + body, st.integers(0, 10), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=30)),
    st.builds(lambda stream, which: bytes([3, stream, which]), st.sampled_from([1, 3, 5, 7, 9, 11]), st.integers(0, 255)),
    st.builds(lambda stream, size: bytes([6, stream, size]), st.sampled_from([1, 3, 5, 7, 9, 11]), st.integers(0, 255)),
    st.builds(lambda op, argument: bytes([op, argument]), st.sampled_from([8, 12, 13, 14, 15]), st.integers(0, 255)),
    st.builds(lambda op, a, b: bytes([op, a, b]), st.sampled_from([10, 11]), st.integers(0, 11), st.integers(0, 255)),
)  # fmt: skip


@settings(deadline=None, max_examples=examples(1000), suppress_health_check=SLOW)
@given(st.integers(0, 3), st.lists(MOVE, max_size=60))
def test_any_play_of_whole_moves_keeps_the_rules(first: int, moves: list[bytes]) -> None:
    fuzzed.play(bytes([first]) + b"".join(moves))


@settings(deadline=None, max_examples=examples(1000), suppress_health_check=SLOW)
@given(st.binary(max_size=300))
def test_any_header_blocks(data: bytes) -> None:
    fuzzed.header_blocks(data)


PLAYED = [
    frames.PREFACE + frames.settings() + frames.settings(ack=True) + b"".join(sent(line, frames.Coder()) for line in play.lines if line.mark == ">")
    for play in all_plays()
    if not play.raw
]  # fmt: skip


@settings(deadline=None, max_examples=examples(500), suppress_health_check=SLOW)
@given(
    st.sampled_from(PLAYED),
    st.lists(st.integers(1, 400), max_size=30),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3),
)
def test_however_the_bytes_are_cut_the_same_happens(
    data: bytes, cuts: list[int], changes: list[tuple[int, int]]
) -> None:
    changed = bytearray(data)
    for at, value in changes:
        if at < len(changed):
            changed[at] = value
    whole, parts = Connection(Limits()), Connection(Limits())
    expected = [str(event) for event in whole.receive(bytes(changed))]
    found, rest = [], bytes(changed)
    for cut in [*cuts, len(rest)]:
        found += [str(event) for event in parts.receive(rest[:cut])]
        rest = rest[cut:]
    assert (found, parts.data_to_send(), parts.closed) == (expected, whole.data_to_send(), whole.closed)


class Client:
    """The `h2` library on the other side of a connection of ours: it raises on anything we say that HTTP/2 does not allow."""

    def __init__(self, chance: random.Random) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.server = Connection(Limits(concurrent_streams=50))
        self.chance = chance
        self.sent: dict[int, bytes] = {}  # what each call asks, while we expect an answer
        self.unsent: dict[int, bytes] = {}
        self.received: dict[int, bytes] = {}
        self.done: dict[int, dict[str, str]] = {}
        self.waiting: dict[int, bytes] = {}
        self.h2.initiate_connection()
        self.exchange()

    def exchange(self) -> None:
        """Bytes both ways until there are none, in pieces of any size."""
        while (data := self.h2.data_to_send()) or (back := self.server.data_to_send()):
            if data:
                self.to_server(data)
                continue
            while back:
                cut = self.chance.randint(1, len(back))
                for event in self.h2.receive_data(back[:cut]):
                    self.note(event)
                back = back[cut:]

    def to_server(self, data: bytes) -> None:
        while data:
            cut = self.chance.randint(1, len(data))
            for event in self.server.receive(data[:cut]):
                if isinstance(event, Call):
                    assert event.message == self.sent.get(event.stream_id, event.message)
                    self.waiting[event.stream_id] = event.message
                elif isinstance(event, Cancelled):
                    del self.waiting[event.stream_id]
            data = data[cut:]
        assert self.server.closed is None, self.server.closed

    def note(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                self.done.setdefault(event.stream_id, {}).update(
                    (str(name), str(value)) for name, value in event.headers or []
                )
            case h2.events.DataReceived():
                self.received[event.stream_id] = self.received.get(event.stream_id, b"") + event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamReset():
                assert event.stream_id not in self.sent, event
                self.unsent.pop(event.stream_id, None)

    def call(self, size: int) -> None:
        if self.h2.open_outbound_streams >= 40:
            return
        stream = self.h2.get_next_available_stream_id()
        padding = (("x-pad", "p" * self.chance.choice([0, 10, 9000])), ("x-trace", str(self.chance.random())))
        self.h2.send_headers(stream, frames.request_fields("/t.T/Echo", *padding))
        self.sent[stream] = self.chance.randbytes(size)
        self.unsent[stream] = frames.message(self.sent[stream])

    def push_data(self) -> None:
        """Some more of every message, as far as the windows allow."""
        for stream, rest in list(self.unsent.items()):
            most = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(rest))
            size = self.chance.randint(0, max(0, most))
            last = size == len(rest)
            if size or last:
                self.h2.send_data(
                    stream,
                    rest[:size],
                    end_stream=last,
                    pad_length=self.chance.choice([None, None, 0, 7]) if size + 8 < most else None,
                )
            if last:
                del self.unsent[stream]
            else:
                self.unsent[stream] = rest[size:]

    def reset(self) -> None:
        if self.sent:
            stream = self.chance.choice(list(self.sent))
            if stream not in self.done:
                self.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
                del self.sent[stream]
                self.unsent.pop(stream, None)

    def answer(self) -> None:
        if self.waiting:
            stream = self.chance.choice(list(self.waiting))
            self.server.answer(stream, self.waiting.pop(stream))

    def change_window(self) -> None:
        window = self.chance.choice([0, 1, 100, 65_535, 1_000_000])
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})

    def ping(self) -> None:
        self.h2.ping(b"12345678")


@settings(deadline=None, max_examples=examples(60), suppress_health_check=SLOW)
@given(
    st.integers(0, 2**32),
    st.lists(
        st.sampled_from(["call", "data", "data", "answer", "answer", "reset", "window", "ping"]),
        min_size=5,
        max_size=60,
    ),
)
def test_a_real_client_gets_every_answer(seed: int, moves: list[str]) -> None:
    chance = random.Random(seed)
    client = Client(chance)
    does: dict[str, Callable[[], None]] = {
        "call": lambda: client.call(chance.choice([0, 1, 100, 20_000, 70_000, 300_000])),
        "data": client.push_data,
        "answer": client.answer,
        "reset": client.reset,
        "window": client.change_window,
        "ping": client.ping,
    }
    for move in moves:
        does[move]()
        if chance.random() < 0.7:
            client.exchange()
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1_000_000})
    client.exchange()
    for _ in range(10_000):
        if not client.unsent and not client.waiting:
            break
        client.push_data()
        client.answer()
        client.exchange()
    assert not client.unsent
    for stream, message in client.sent.items():
        assert client.done[stream]["grpc-status"] == "0"
        assert client.received[stream] == frames.message(message)
    assert client.server.open_streams == 0
