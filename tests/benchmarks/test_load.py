"""Answers are found in a stream however it is cut, wrk's output is read, and no bad answer goes unnoticed."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from benchmarks.load import AnswerReader, LoadError, PythonGenerator, Target, find_generator, parse_wrk

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nserver: envoy\r\n\r\nhello"
DENIED = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"

WRK = """\
Running 1s test @ http://127.0.0.1:8080/v1/items
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.10ms  415.00us  10.77ms   92.13%
    Req/Sec    14.66k     1.21k   16.09k    80.00%
  Latency Distribution
     50%    1.02ms
     75%    1.17ms
     90%    1.36ms
     99%  850.00us
  16045 requests in 1.10s, 3.92MB read
Requests/sec:  14587.59
Transfer/sec:      3.56MB
"""


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_answers_are_found_however_the_stream_is_cut(size: int) -> None:
    stream = ANSWER + DENIED + ANSWER
    reader = AnswerReader()
    found = [status for at in range(0, len(stream), size) for status in reader.feed(stream[at : at + size])]
    assert found == [200, 403, 200]


def test_an_answer_is_not_complete_before_its_body() -> None:
    reader = AnswerReader()
    assert reader.feed(ANSWER[:-1]) == []
    assert reader.feed(ANSWER[-1:]) == [200]


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", id="no content-length"),
        pytest.param(b"SSH-2.0-OpenSSH_9\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"a" * (1 << 20), id="too long"),
    ],
)
def test_anything_else_is_an_error(stream: bytes) -> None:
    with pytest.raises(LoadError):
        AnswerReader().feed(stream)


def test_a_request_carries_host_path_and_headers() -> None:
    target = Target("127.0.0.1", 80, "a.test", "/x", (("authorization", "Bearer t"),))
    assert target.request() == b"GET /x HTTP/1.1\r\nhost: a.test\r\nauthorization: Bearer t\r\n\r\n"


def test_wrk_output_is_read_with_its_units() -> None:
    load = parse_wrk(WRK)
    assert [load.requests, load.seconds, load.p50, load.p99] == pytest.approx([16045, 1.1, 1020, 850])
    assert load.rate == pytest.approx(16045 / 1.1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param("  Non-2xx or 3xx responses: 12\n", "12 answers", id="statuses"),
        pytest.param(
            "  Socket errors: connect 0, read 3, write 0, timeout 1\n", "read 3, write 0, timeout 1", id="sockets"
        ),
    ],
)
def test_wrk_with_failures_is_an_error(line: str, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        parse_wrk(WRK.replace("Requests/sec", f"{line}Requests/sec"))


@pytest.mark.parametrize("text", ["", "unable to connect", WRK.replace("16045 requests", "0 requests")])
def test_wrk_without_figures_is_an_error(text: str) -> None:
    with pytest.raises(LoadError, match="expected"):
        parse_wrk(text)


def test_without_wrk_the_python_generator_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert isinstance(find_generator("auto"), PythonGenerator)
    with pytest.raises(LoadError, match="no wrk"):
        find_generator("wrk")


@contextmanager
def server(answers: list[bytes]) -> Iterator[Target]:
    """A server that gives these answers on each connection, the last one for ever."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        left = list(answers)
        with connection, suppress(ConnectionError):  # a client that is content leaves
            while connection.recv(65536):
                connection.sendall(left.pop(0) if len(left) > 1 else left[0])

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        address, port = listener.getsockname()
        yield Target(address, port, "a.test")
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=5)


def test_the_python_generator_counts_and_times_answers() -> None:
    with server([ANSWER]) as target:
        load = PythonGenerator().run(target, connections=3, seconds=0.1)
    assert load.requests > 3
    assert 0 < load.p50 <= load.p99
    assert load.seconds >= 0.1


def test_one_refused_request_among_many_spoils_the_sample() -> None:
    with server([ANSWER, ANSWER, DENIED, ANSWER]) as target, pytest.raises(LoadError, match="answered 403"):
        PythonGenerator().run(target, connections=2, seconds=5)


def test_nobody_listening_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address, port = listener.getsockname()
    with pytest.raises(LoadError, match=f":{port}"):
        PythonGenerator().run(Target(address, port, "a.test"), connections=1, seconds=5)
