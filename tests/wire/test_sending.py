"""What goes out: answers in one piece, answers that wait for windows, rates, and the ids remembered."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lateen.wire import responses
from lateen.wire.call import Call, StatusCode
from lateen.wire.connection import Connection
from lateen.wire.limits import Limits
from lateen.wire.rates import Rate
from lateen.wire.streams import Recent
from tests.wire import frames
from tests.wire.frames import Coder, Frame


def open_connection(limits: Limits, **their_settings: int) -> tuple[Connection, Coder]:
    connection = Connection(limits)
    assert connection.receive(frames.PREFACE + frames.settings(their_settings) + frames.settings(ack=True)) == []
    connection.data_to_send()
    return connection, Coder()


def sent(connection: Connection) -> list[Frame]:
    return list(frames.read_frames(bytearray(connection.data_to_send())))


def test_an_answer_in_one_piece_is_the_one_in_parts() -> None:
    parts = responses.answer_headers(7), frames.data(7, responses.answer_body(b"abc")), responses.answer_trailers(7)
    assert responses.whole_answer(7, b"abc") == b"".join(parts)


def test_what_an_answer_says() -> None:
    connection, coder = open_connection(Limits())
    (call,) = connection.receive(coder.call(1, "/a.B/C", b"question"))
    assert isinstance(call, Call)
    assert call.message == b"question"
    connection.answer(1, b"answer")
    head, body, trailers = sent(connection)
    assert coder.read(head.payload) == [(":status", "200"), ("content-type", "application/grpc")]
    assert body.payload == frames.message(b"answer")
    assert coder.read(trailers.payload) == [("grpc-status", "0")]
    assert [frame.ends_stream for frame in (head, body, trailers)] == [False, False, True]
    connection.answer(1, b"again")
    connection.fail(1, StatusCode.INTERNAL, "again")
    assert sent(connection) == []


@pytest.mark.parametrize(
    ("message", "encoded"),
    [("plain text", b"plain text"), ("100 %", b"100 %25"), ("ä\n", b"%C3%A4%0A"), ("\ud800", b"?"), ("", b"")],
)
def test_messages_are_percent_encoded(message: str, encoded: bytes) -> None:
    assert responses.percent_encode(message) == encoded


def test_messages_are_cut() -> None:
    assert len(responses.percent_encode("ä" * 100_000)) <= 3 * 1024


@settings(deadline=None, max_examples=150)
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=6),
    initial=st.integers(0, 500),
    grants=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 900)), max_size=60),
)
def test_windows_are_kept_and_everything_arrives(sizes: list[int], initial: int, grants: list[tuple[int, int]]) -> None:
    """However windows grow, no more goes out than they allow; once they are wide, every answer is whole."""
    connection, coder = open_connection(Limits(), INITIAL_WINDOW_SIZE=initial)
    stream_ids = [2 * i + 1 for i in range(len(sizes))]
    for stream_id in stream_ids:
        connection.receive(coder.call(stream_id, "/a.B/C", b""))
    allowed = {0: 65_535} | dict.fromkeys(stream_ids, initial)
    bodies = dict.fromkeys(stream_ids, b"")
    ended: set[int] = set()

    def look() -> None:
        for frame in sent(connection):
            if frame.type == frames.DATA:
                bodies[frame.stream] += frame.payload
                allowed[frame.stream] -= len(frame.payload)
                allowed[0] -= len(frame.payload)
                assert min(allowed[0], allowed[frame.stream]) >= 0
            if frame.ends_stream:
                assert frame.stream not in ended
                ended.add(frame.stream)

    for stream_id, size in zip(stream_ids, sizes, strict=True):
        connection.answer(stream_id, bytes([stream_id]) * size)
        look()
    for index, increment in [*grants, *((i, 70_000) for i in range(len(sizes) + 1))]:
        stream_id = ([0, *stream_ids])[index % (len(sizes) + 1)]
        connection.receive(frames.window_update(stream_id, increment))
        allowed[stream_id] += increment
        look()
    assert ended == set(stream_ids)
    for stream_id, size in zip(stream_ids, sizes, strict=True):
        assert bodies[stream_id] == frames.message(bytes([stream_id]) * size)
    assert connection.open_streams == 0


def test_a_smaller_initial_window_makes_a_debt() -> None:
    connection, coder = open_connection(Limits(), INITIAL_WINDOW_SIZE=10)
    connection.receive(coder.call(1, "/a.B/C", b""))
    connection.answer(1, b"x" * 20)
    assert [len(frame.payload) for frame in sent(connection) if frame.type == frames.DATA] == [10]
    connection.receive(frames.settings({"INITIAL_WINDOW_SIZE": 4}))
    connection.receive(frames.window_update(1, 6))
    assert [frame.type for frame in sent(connection)] == [frames.SETTINGS]
    connection.receive(frames.window_update(1, 1))
    assert [len(frame.payload) for frame in sent(connection)] == [1]


def test_waiting_answers_take_turns() -> None:
    connection, coder = open_connection(Limits(), INITIAL_WINDOW_SIZE=1_000_000)
    for stream_id in (1, 3):
        connection.receive(coder.call(stream_id, "/a.B/C", b""))
        connection.answer(stream_id, b"x" * 200_000)
    sent(connection)
    turns = []
    for _ in range(4):
        connection.receive(frames.window_update(0, 1000))
        turns += [frame.stream for frame in sent(connection)]
    assert sorted(turns[:2]) == sorted(turns[2:]) == [1, 3]


def test_answers_that_nobody_reads_are_bounded() -> None:
    connection, coder = open_connection(Limits(output_bytes=100_000), INITIAL_WINDOW_SIZE=0)
    for stream_id in range(1, 41, 2):
        connection.receive(coder.call(stream_id, "/a.B/C", b""))
        connection.answer(stream_id, b"x" * 20_000)
    refused = [frame.stream for frame in sent(connection) if frame.ends_stream]
    assert 15 <= len(refused) <= 17
    connection.receive(frames.window_update(1, 100_000))
    connection.receive(frames.window_update(0, 100_000))
    assert any(frame.ends_stream and frame.stream == 1 for frame in sent(connection))


def test_small_answers_to_a_stalled_transport_are_bounded_too() -> None:
    connection, coder = open_connection(Limits(output_bytes=100_000))
    connection.writing(stalled=True, now=1.0)
    for stream_id in range(1, 401, 2):
        connection.receive(coder.call(stream_id, "/a.B/C", b""))
        connection.answer(stream_id, b"x" * 10_000)
    assert len(connection.data_to_send()) < 400_000


def test_an_answer_that_is_too_large_is_an_error() -> None:
    connection, coder = open_connection(Limits(response_bytes=100))
    connection.receive(coder.call(1, "/a.B/C", b""))
    connection.answer(1, b"x" * 101)
    (frame,) = sent(connection)
    assert ("grpc-status", str(StatusCode.RESOURCE_EXHAUSTED.value)) in coder.read(frame.payload)


def test_a_rate_allows_so_much_a_second_and_more_for_each_call() -> None:
    rate = Rate(10, 2, now=0.0)
    assert all(rate.spend(1, 0.5, calls=0) for _ in range(10))
    assert not rate.spend(1, 0.9, calls=0)
    assert rate.spend(1, 1.0, calls=0)
    assert all(rate.spend(1, 1.1, calls=5) for _ in range(19))
    assert not rate.spend(1, 1.2, calls=5)


def test_a_long_time_of_calls_saves_up_nothing() -> None:
    rate = Rate(10, 2, now=0.0)
    assert all(rate.spend(1, 0.1, calls=0) for _ in range(5))
    spent = 0
    while rate.spend(1, 1000.0, calls=1_000_000) and spent < 100:
        spent += 1
    assert spent <= 20


def test_recent_ids_are_known_and_old_ones_forgotten() -> None:
    recent = Recent(10)
    for number in range(1000):
        recent.add(number)
        assert all(known in recent for known in range(max(0, number - 9), number + 1))
    assert sum(number in recent for number in range(1000)) <= 20
