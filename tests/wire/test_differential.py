"""The same handlers on `lateen.wire` and on grpcio: grpcio's clients must not be able to tell which is which."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
import pytest

from tests.wire import handlers
from tests.wire.running import PATIENCE, Process, method

TRANSPORTS = ("wire", "grpcio")


class Question(NamedTuple):
    """A call."""

    path: str
    data: bytes = b""
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    timeout: float = PATIENCE


class Answer(NamedTuple):
    """All that a client sees of the end of a call."""

    code: grpc.StatusCode
    details: str | None
    data: bytes | None


CODES = [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
QUESTIONS = {
    "an empty message": Question(handlers.ECHO),
    "a message": Question(handlers.ECHO, b"hello"),
    "an awaited answer": Question(handlers.LATER, b"hello"),
    "a message as large as a window": Question(handlers.ECHO, b"x" * 65_535),
    "a large message": Question(handlers.ECHO, bytes(range(256)) * 12_000),
    "a large message, awaited": Question(handlers.LATER, bytes(range(256)) * 12_000),
    "a message too large": Question(handlers.ECHO, b"x" * (4 * 1024 * 1024 + 1)),
    "the largest message": Question(handlers.ECHO, b"x" * (4 * 1024 * 1024 - 5)),
    "a small question, a large answer": Question(handlers.MANY, b"3000000"),
    "no such method": Question("/t.T/Nothing", b"hello"),
    "no such service": Question("/no.Such/Echo", b"hello"),
    "our own bug": Question(handlers.BUG, b"hello"),
    "metadata": Question(handlers.METADATA, b"x-a", (("x-a", "one"),)),
    "no metadata of that name": Question(handlers.METADATA, b"x-b", (("x-a", "one"),)),
    "metadata twice": Question(handlers.METADATA, b"x-a", (("x-a", "one"), ("x-b", "two"), ("x-a", "three"))),
    "metadata with everything that is allowed": Question(handlers.METADATA, b"x-a", (("x-a", "".join(map(chr, range(33, 127)))),)),
    "much metadata": Question(handlers.METADATA, b"x-50", tuple((f"x-{i}", f"value {i}" * 10) for i in range(60))),
    "a deadline": Question(handlers.DEADLINE, b"12.5", timeout=12.5),
    "a deadline of days": Question(handlers.DEADLINE, b"1000000", timeout=1_000_000),
    "a deadline that passes": Question(handlers.WAIT, timeout=0.2),
    "messages that need escaping": Question(handlers.FAIL, "NOT_FOUND 100% of nöthing\n\t\x7f — gone".encode()),
    "an error without a message": Question(handlers.FAIL, b"NOT_FOUND"),
    "a long error": Question(handlers.FAIL, b"NOT_FOUND " + b"long " * 200),
    "no client certificate": Question(handlers.PEER),
    **{f"error {code}": Question(handlers.FAIL, f"{code} because".encode()) for code in CODES},
    **{f"awaited error {code}": Question(handlers.FAIL_LATER, f"{code} because".encode()) for code in CODES},
}  # fmt: skip
# What differs on purpose, with the answer of lateen.wire. A handler's exception is not told to the client.
DIFFERENT = {
    "our own bug": Answer(grpc.StatusCode.UNKNOWN, "the handler failed", None),
}


def blocking(address: str, question: Question) -> Answer:
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(question.path)
        ended = call.future(question.data, metadata=question.metadata, timeout=question.timeout)
        code = ended.code()
        return Answer(code, ended.details(), ended.result() if code is grpc.StatusCode.OK else None)


async def awaited(channel: grpc.aio.Channel, question: Question) -> Answer:
    call = method(channel, question.path)
    try:
        metadata = grpc.aio.Metadata(*question.metadata)
        return Answer(grpc.StatusCode.OK, "", await call(question.data, metadata=metadata, timeout=question.timeout))
    except grpc.aio.AioRpcError as error:
        return Answer(error.code(), error.details(), None)


@pytest.fixture(scope="module")
def answers(wire: Process, grpcio: Process) -> dict[str, dict[str, Answer]]:
    """Everything asked of both, at the same time on one connection each."""

    async def ask(address: str) -> dict[str, Answer]:
        async with grpc.aio.insecure_channel(address) as channel:
            found = await asyncio.gather(*(awaited(channel, question) for question in QUESTIONS.values()))
        return dict(zip(QUESTIONS, found, strict=True))

    async def ask_both() -> dict[str, dict[str, Answer]]:
        return {"wire": await ask(wire.address), "grpcio": await ask(grpcio.address)}

    return asyncio.run(ask_both())


@pytest.mark.parametrize("name", QUESTIONS)
def test_both_answer_alike(answers: dict[str, dict[str, Answer]], name: str) -> None:
    ours, theirs = answers["wire"][name], answers["grpcio"][name]
    if name in DIFFERENT:
        assert ours == DIFFERENT[name]
    elif ours.code is grpc.StatusCode.UNIMPLEMENTED or name in ("a message too large", "a deadline that passes"):
        assert (ours.code, ours.data) == (theirs.code, theirs.data), "the words may differ"
    else:
        assert ours == theirs


def test_the_blocking_client_sees_the_same(wire: Process, answers: dict[str, dict[str, Answer]]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda question: blocking(wire.address, question), QUESTIONS.values())
    assert dict(zip(QUESTIONS, found, strict=True)) == answers["wire"]


@pytest.fixture(params=TRANSPORTS)
async def channel(request: pytest.FixtureRequest) -> AsyncIterator[grpc.aio.Channel]:
    running: Process = request.getfixturevalue(request.param)
    async with grpc.aio.insecure_channel(running.address) as opened:
        yield opened


async def test_a_stream_to_an_unknown_method_is_refused_before_it_ends(channel: grpc.aio.Channel) -> None:
    """As tools ask for the reflection service."""
    call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream("/no.Such/Stream")(timeout=20)
    with contextlib.suppress(grpc.aio.AioRpcError):  # it may have ended already
        await call.write(b"a first message, and the stream stays open")
    assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def state(channel: grpc.aio.Channel) -> dict[str, int]:
    found: dict[str, int] = json.loads(await method(channel, handlers.STATE)(b""))
    return found


async def eventually(channel: grpc.aio.Channel, **wanted: int) -> None:
    """Wait until the server's handlers have counted that."""
    end = time.monotonic() + PATIENCE
    while (now := await state(channel)) and any(now.get(name, 0) != count for name, count in wanted.items()):
        assert time.monotonic() < end, (now, wanted)
        await asyncio.sleep(0.02)


async def test_cancelling_reaches_the_handler(channel: grpc.aio.Channel) -> None:
    before = (await state(channel)).get("cancelled", 0)
    waiting = [method(channel, handlers.WAIT)(b"") for _ in range(20)]
    await eventually(channel, waiting=20)
    for call in waiting:
        assert call.cancel()
    await eventually(channel, waiting=0, cancelled=before + 20)
    assert await method(channel, handlers.ECHO)(b"still here") == b"still here"


async def test_a_deadline_that_passes_cancels_the_handler(channel: grpc.aio.Channel) -> None:
    before = (await state(channel)).get("cancelled", 0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(channel, handlers.WAIT)(b"", timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(channel, waiting=0, cancelled=before + 1)


async def test_a_lost_connection_cancels_its_handlers(
    request: pytest.FixtureRequest, channel: grpc.aio.Channel
) -> None:
    address = request.getfixturevalue(str(request.node.callspec.params["channel"])).address
    before = (await state(channel)).get("cancelled", 0)
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as other:
        waiting = [method(other, handlers.WAIT)(b"") for _ in range(5)]
        await eventually(channel, waiting=5)
    assert [call.cancelled() for call in waiting] == [True] * 5
    await eventually(channel, waiting=0, cancelled=before + 5)


async def test_thousands_of_calls_at_once_on_one_connection(wire: Process) -> None:
    """More than the server allows at a time: the client queues the rest, and none fails."""
    async with grpc.aio.insecure_channel(wire.address) as channel:
        echo, later = method(channel, handlers.ECHO), method(channel, handlers.LATER)
        calls = [(echo if i % 2 else later)(b"%d" % i, timeout=PATIENCE * 3) for i in range(5_000)]
        assert await asyncio.gather(*calls) == [b"%d" % i for i in range(5_000)]


async def test_slow_calls_do_not_hold_up_quick_ones(channel: grpc.aio.Channel) -> None:
    slow = [method(channel, handlers.WAIT)(b"", timeout=PATIENCE) for _ in range(200)]
    await eventually(channel, waiting=200)
    assert await method(channel, handlers.ECHO)(b"quick", timeout=PATIENCE) == b"quick"
    for call in slow:
        call.cancel()
    await eventually(channel, waiting=0)


async def test_large_messages_both_ways_at_once(channel: grpc.aio.Channel) -> None:
    bodies = [bytes([i]) * (i * 50_000) for i in range(20)]
    later = method(channel, handlers.LATER)
    assert await asyncio.gather(*(later(body, timeout=PATIENCE) for body in bodies)) == bodies


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_compressed_message_is_refused_by_name(wire: Process, compression: grpc.Compression) -> None:
    """Unlike grpcio, we take no compressed messages; the client learns what we do take."""
    async with grpc.aio.insecure_channel(wire.address, compression=compression) as channel:
        call = method(channel, handlers.ECHO)(b"x" * 1000)
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "compress" in await call.details() or "encoding" in await call.details()


async def test_a_unix_socket(wire: Process) -> None:
    async with grpc.aio.insecure_channel(wire.addresses[1]) as channel:
        assert await method(channel, handlers.ECHO)(b"hello") == b"hello"
        assert await method(channel, handlers.PEER)(b"") == b"none"


def test_many_threads_of_the_blocking_client(wire: Process) -> None:
    wrong: list[object] = []
    with grpc.insecure_channel(wire.address) as channel:
        echo: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(handlers.ECHO)

        def ask(number: int) -> None:
            for i in range(50):
                body = b"%d.%d" % (number, i)
                if (answer := echo(body, timeout=PATIENCE)) != body:
                    wrong.append(answer)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert not wrong
