"""Attacks by clients: the connection ends with the right error, in bounded memory and time, and the others notice nothing.

A server process of its own meets each attack on one connection while a well-behaved client goes on calling on another one.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import grpc
import pytest

from tests.wire import frames, handlers
from tests.wire.frames import Coder
from tests.wire.running import PATIENCE, Process, Raw, method, server
from tests.wire.serve import Options

MEGABYTE = 1024 * 1024
# Generous: the process itself takes some 40 MB, and an allocator gives little back.
MOST_GROWTH = 64 * MEGABYTE
MOST_CPU = 20.0
SHORT: dict[str, float] = {"header_timeout": 1.0, "preface_timeout": 1.0, "request_timeout": 1.5, "send_timeout": 1.5}


@pytest.fixture(scope="module")
def victim() -> Iterator[Process]:
    """A server with the default limits, but for its patience."""
    with server(Options(limits=dict(SHORT))) as running:
        yield running


@contextlib.asynccontextmanager
async def neighbour(process: Process) -> AsyncIterator[None]:
    """Somebody else's calls all the while: none may fail, and memory and processor time stay within bounds."""
    async with grpc.aio.insecure_channel(process.address) as channel:
        echo = method(channel, handlers.ECHO)
        assert await echo(b"before", timeout=PATIENCE) == b"before"
        memory, cpu = process.memory(), process.cpu()
        calls = 0
        stopped = asyncio.Event()

        async def go_on_calling() -> None:
            nonlocal calls
            while not stopped.is_set():
                assert await echo(b"during", timeout=PATIENCE) == b"during"
                calls += 1
                await asyncio.sleep(0.01)

        calling = asyncio.create_task(go_on_calling())
        yield
        stopped.set()
        await calling
        assert calls
        for _ in range(3):
            assert await echo(b"after", timeout=PATIENCE) == b"after"
    assert process.memory() - memory < MOST_GROWTH
    assert process.cpu() - cpu < MOST_CPU


async def flood(raw: Raw, data: bytes, times: int) -> str:
    """Write the same bytes many times, or until the server has enough; how it ended the connection."""
    writing = asyncio.create_task(_write(raw, data, times))
    try:
        return await raw.end()
    finally:
        writing.cancel()


async def _write(raw: Raw, data: bytes, times: int) -> None:
    for _ in range(times):
        if not await raw.send(data):
            return


Attack = Callable[[Raw], Awaitable[str]]


async def rapid_reset(raw: Raw) -> str:
    """CVE-2023-44487: streams opened and reset at once."""
    block = raw.coder.request(handlers.WAIT)
    streams = range(1, 200_001, 2)
    data = b"".join(frames.headers(i, block) + frames.rst_stream(i) for i in streams)
    return await flood(raw, data, 1)


async def rapid_reset_of_whole_calls(raw: Raw) -> str:
    """The same with calls that reach their handler."""
    block, body = raw.coder.request(handlers.WAIT), frames.message(b"")
    calls = (
        frames.headers(i, block) + frames.data(i, body, end=True) + frames.rst_stream(i) for i in range(1, 100_001, 2)
    )
    return await flood(raw, b"".join(calls), 1)


async def resets_by_provocation(raw: Raw) -> str:
    """CVE-2025-8671: make the server reset its streams, by errors of the client."""
    block = raw.coder.request(handlers.WAIT)
    streams = range(1, 200_001, 2)
    data = b"".join(frames.headers(i, block) + frames.window_update(i, 0) for i in streams)
    return await flood(raw, data, 1)


async def malformed_requests(raw: Raw) -> str:
    """The same by requests that are not even well formed."""
    block = raw.coder.block([(":method", "POST"), ("Upper", "case")])
    return await flood(raw, b"".join(frames.headers(i, block, end=True) for i in range(1, 200_001, 2)), 1)


async def continuation_flood(raw: Raw) -> str:
    """CVE-2024-27316: a header block without an end."""
    await raw.send(frames.headers(1, raw.coder.request(handlers.ECHO), done=False))
    return await flood(raw, frames.continuation(1, raw.coder.block([("x-a", "b" * 8000)]), done=False), 100_000)


async def empty_continuation_flood(raw: Raw) -> str:
    """The same without bytes."""
    await raw.send(frames.headers(1, raw.coder.request(handlers.ECHO), done=False))
    return await flood(raw, frames.continuation(1, b"", done=False) * 1000, 1000)


async def settings_flood(raw: Raw) -> str:
    """CVE-2019-9515: each asks for an acknowledgement."""
    return await flood(raw, frames.settings() * 1000, 1000)


async def settings_that_move_windows(raw: Raw) -> str:
    """Each changes the window of every stream."""
    block = raw.coder.request(handlers.WAIT)
    await raw.send(b"".join(frames.headers(i, block) for i in range(1, 1999, 2)))
    data = frames.settings({"INITIAL_WINDOW_SIZE": 1}) + frames.settings({"INITIAL_WINDOW_SIZE": 2})
    return await flood(raw, data * 500, 1000)


async def ping_flood(raw: Raw) -> str:
    """CVE-2019-9512."""
    return await flood(raw, frames.ping() * 1000, 1000)


async def ping_flood_unread(raw: Raw) -> str:
    """The same by a client that does not read the answers."""
    await _write(raw, frames.ping() * 1000, 1000)
    return await raw.end()


async def empty_data_flood(raw: Raw) -> str:
    """CVE-2019-9518: frames without payload and without end."""
    await raw.send(frames.headers(1, raw.coder.request(handlers.ECHO)))
    return await flood(raw, frames.data(1, b"") * 1000, 1000)


async def small_data_flood(raw: Raw) -> str:
    """A message byte by byte."""
    await raw.send(
        frames.headers(1, raw.coder.request(handlers.ECHO)) + frames.data(1, frames.message(b"", length=4_000_000))
    )
    return await flood(raw, frames.data(1, b"x") * 1000, 1000)


async def priority_flood(raw: Raw) -> str:
    """CVE-2019-9513."""
    return await flood(raw, frames.frame(frames.PRIORITY, 1, b"\0\0\0\3\1") * 1000, 1000)


async def window_update_flood(raw: Raw) -> str:
    """One byte at a time."""
    return await flood(raw, frames.window_update(0, 1) * 1000, 1000)


async def unknown_frame_flood(raw: Raw) -> str:
    """Frames of types that mean nothing."""
    return await flood(raw, frames.frame(0xBE, 0, b"") * 1000, 1000)


async def giant_frame(raw: Raw) -> str:
    """A frame that says it has 16 MB."""
    return await flood(raw, frames.frame(frames.DATA, 1, b"x" * 60_000, length=0xFFFFFF), 1)


async def giant_header_block(raw: Raw) -> str:
    """As large as a frame may be, and then some."""
    block = raw.coder.block([*frames.request_fields(handlers.ECHO), ("x-a", "~" * 16_000)])
    return await flood(
        raw, frames.headers(1, block[:16_000], done=False) + frames.continuation(1, block[16_000:], done=True), 1
    )


ENDS: dict[Attack, str] = {
    rapid_reset: "ENHANCE_YOUR_CALM",
    rapid_reset_of_whole_calls: "ENHANCE_YOUR_CALM",
    resets_by_provocation: "ENHANCE_YOUR_CALM",
    malformed_requests: "ENHANCE_YOUR_CALM",
    continuation_flood: "ENHANCE_YOUR_CALM",
    empty_continuation_flood: "ENHANCE_YOUR_CALM",
    settings_flood: "ENHANCE_YOUR_CALM",
    settings_that_move_windows: "ENHANCE_YOUR_CALM",
    ping_flood: "ENHANCE_YOUR_CALM",
    ping_flood_unread: "ENHANCE_YOUR_CALM",
    empty_data_flood: "ENHANCE_YOUR_CALM",
    small_data_flood: "ENHANCE_YOUR_CALM",
    priority_flood: "ENHANCE_YOUR_CALM",
    window_update_flood: "ENHANCE_YOUR_CALM",
    unknown_frame_flood: "ENHANCE_YOUR_CALM",
    giant_frame: "FRAME_SIZE_ERROR",
    giant_header_block: "ENHANCE_YOUR_CALM",
}


@pytest.mark.parametrize("attack", ENDS, ids=lambda attack: attack.__name__)
async def test_the_attacker_is_told_to_go(victim: Process, attack: Attack) -> None:
    async with neighbour(victim), await Raw.open(victim.address) as raw:
        assert await attack(raw) == ENDS[attack]


async def test_a_client_cannot_hold_more_than_its_share_of_unfinished_messages(victim: Process) -> None:
    """Many streams, each with a large message that never ends: within the windows that is allowed, up to a bound, and for a while."""
    async with neighbour(victim), await Raw.open(victim.address) as raw:
        block = raw.coder.request(handlers.ECHO)
        for i in range(1, 1999, 2):
            await raw.send(frames.headers(i, block) + frames.data(i, frames.message(b"", length=4_000_000)))
        chunk = b"x" * 16_000
        sent, credit, refused = 0, 65_535, set()
        streams = dict.fromkeys(range(1, 1999, 2), 65_535)
        ended = time.monotonic() + PATIENCE
        while streams and time.monotonic() < ended:
            for i in list(streams):
                if credit >= len(chunk) and streams[i] >= len(chunk):
                    await raw.send(frames.data(i, chunk))
                    credit, streams[i], sent = credit - len(chunk), streams[i] - len(chunk), sent + len(chunk)
            frame = await raw.receive()
            assert frame is not None
            if frame.type == frames.WINDOW_UPDATE:
                increment = int.from_bytes(frame.payload, "big")
                credit += increment if not frame.stream else 0
                if frame.stream in streams:
                    streams[frame.stream] += increment
            elif frame.type == frames.HEADERS and frame.ends_stream:
                fields = dict(raw.coder.read(frame.payload))
                assert fields["grpc-status"] in ("8", "4"), fields
                refused.add(frame.stream)
                streams.pop(frame.stream, None)
        assert len(refused) == 999


async def test_what_all_connections_hold_together_is_bounded() -> None:
    """Each is far below its own bounds: beyond the server's, none holds more than its share, and small calls go on."""
    limits = {"server_bytes": 8 * MEGABYTE, "share_bytes": 64 * 1024, **SHORT, "request_timeout": 20.0}
    with server(Options(limits=limits)) as process:
        async with neighbour(process), contextlib.AsyncExitStack() as stack:
            raws = [await stack.enter_async_context(await Raw.open(process.address)) for _ in range(60)]

            async def hold(raw: Raw) -> str:
                """Send three megabytes of a message that has four, as fast as the server lets us; what becomes of it."""
                await raw.send(frames.headers(1, raw.coder.request(handlers.ECHO)))
                await raw.send(frames.data(1, frames.message(b"", length=4_000_000)))
                credit, sent = 250_000, 0
                while sent < 3_000_000:
                    while credit >= 16_000 and sent < 3_000_000:
                        await raw.send(frames.data(1, b"x" * 16_000))
                        credit, sent = credit - 16_000, sent + 16_000
                    if sent < 3_000_000:
                        frame = await raw.until(frames.WINDOW_UPDATE, frames.HEADERS)
                        if frame.type == frames.HEADERS:
                            return dict(raw.coder.read(frame.payload))["grpc-status"]
                        credit += int.from_bytes(frame.payload, "big") if frame.stream else 0
                return "held"

            ends = await asyncio.gather(*(hold(raw) for raw in raws))
            assert ends.count("held") * 3_000_000 <= 12 * MEGABYTE
            assert set(ends) == {"held", "8"}
            # Whoever asks for no more than its share is served, on these connections too.
            for raw in raws:
                await raw.send(raw.coder.call(3, handlers.ECHO, b"x" * 10_000))
                assert len((await raw.answer(3))[0]) == 10_000


async def test_what_open_calls_take_themselves_is_bounded() -> None:
    """Header blocks of calls whose messages never come, on several connections."""
    limits = {"server_bytes": 2 * MEGABYTE, "share_bytes": 64 * 1024, **SHORT, "request_timeout": 60.0}
    with server(Options(limits=limits)) as process:
        async with neighbour(process), contextlib.AsyncExitStack() as stack:
            raws = [await stack.enter_async_context(await Raw.open(process.address)) for _ in range(4)]

            async def open_calls(raw: Raw) -> int:
                """How many of 300 calls were refused; the last one says when all were looked at."""
                for number in range(300):
                    long = b"\x00\x05x-pad\x7f\xc1\x3d" + b"%04d" * 2000 % (
                        (number,) * 2000
                    )  # 8000 bytes, without a Huffman code
                    await raw.send(frames.headers(2 * number + 1, raw.coder.request(handlers.ECHO) + long))
                await raw.send(frames.ping(b"all sent"))
                refused = 0
                while (frame := await raw.until(frames.RST_STREAM, frames.PING)).type == frames.RST_STREAM:
                    assert frame.error == "REFUSED_STREAM"
                    refused += 1
                return refused

            found = await asyncio.gather(*(open_calls(raw) for raw in raws))
            # Some 8.6 kB each: every share takes seven, the server's two megabytes 240.
            assert 100 < 4 * 300 - sum(found) < 300


async def test_messages_of_calls_that_wait_are_bounded() -> None:
    """A handler that waits holds its message: beyond the server's bound, calls are refused and small ones served."""
    limits = {"server_bytes": 8 * MEGABYTE, "share_bytes": 64 * 1024, **SHORT, "request_timeout": 20.0}
    with server(Options(limits=limits)) as process:
        async with neighbour(process), grpc.aio.insecure_channel(process.address) as channel:
            wait = method(channel, handlers.WAIT)
            held: list[grpc.aio.UnaryUnaryCall[bytes, bytes]] = []
            for _ in range(12):
                call = wait(b"x" * 2 * MEGABYTE, timeout=PATIENCE)
                await asyncio.sleep(0.1)
                held.append(call)
            async with asyncio.timeout(PATIENCE):
                while sum(call.done() for call in held) < 8:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert {await call.code() for call in held if call.done()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            small = wait(b"small", timeout=0.5)
            assert await small.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            for call in held:
                call.cancel()


HPACK_BOMBS: dict[str, Callable[[Coder], bytes]] = {
    "one huge entry, referred to again and again": lambda coder: coder.block([("x-a", "b" * 3000)]) + b"\xbe" * 12_000,
    "many fields": lambda coder: coder.block(frames.request_fields(handlers.ECHO)) + b"\x88" * 15_000,
    "a long Huffman string": lambda coder: coder.block([*frames.request_fields(handlers.ECHO), ("x-a", "0" * 24_000)]),
    "an integer without end": lambda _: b"\x7f" + b"\xff" * 10_000,
    "table sizes": lambda _: b"\x20\x3f\xe1\x1f" * 3_000,
}


@pytest.mark.parametrize("first", [True, False], ids=["while the table is in use", "without a table"])
@pytest.mark.parametrize("bomb", HPACK_BOMBS)
async def test_an_hpack_bomb(victim: Process, bomb: str, first: bool) -> None:
    """A small block that means much: refused as a whole connection or a call, never unpacked."""
    async with neighbour(victim), await Raw.open(victim.address, opened=False) as raw:
        opening = frames.PREFACE + frames.settings()
        await raw.send(opening if first else opening + frames.settings(ack=True))
        coder = Coder(4096 if first else 0)
        stream = 1
        if not first:
            await raw.send(coder.call(1, handlers.ECHO, b"x"))
            assert (await raw.answer(1))[0] == b"x"
            stream = 3
        block = HPACK_BOMBS[bomb](coder)
        for _ in range(50):
            pieces = [block[i : i + 16_000] for i in range(0, len(block), 16_000)]
            await raw.send(frames.headers(stream, pieces[0], end=True, done=len(pieces) == 1))
            for piece in pieces[1:]:
                await raw.send(frames.continuation(stream, piece, done=piece is pieces[-1]))
            stream += 2
        await raw.send(frames.ping())
        while (frame := await raw.receive()) is not None and frame.type != frames.PING:
            if frame.type == frames.GOAWAY:
                # A loaded machine may not come to it before the time to acknowledge our SETTINGS is over.
                late = ("SETTINGS_TIMEOUT",) if first else ()
                assert frame.error in ("COMPRESSION_ERROR", "ENHANCE_YOUR_CALM", "PROTOCOL_ERROR", *late)
            elif frame.type == frames.HEADERS:
                assert dict(raw.coder.read(frame.payload))["grpc-status"] != "0"


async def test_a_slow_writer_is_not_waited_for(victim: Process) -> None:
    """A preface, a frame, a header block, a message: whatever stops in the middle is given up."""
    async with neighbour(victim), contextlib.AsyncExitStack() as stack:
        block = Coder().request(handlers.ECHO)
        half_open = [await stack.enter_async_context(await Raw.open(victim.address, opened=False)) for _ in range(5)]
        for raw, begun in zip(
            half_open,
            (b"", frames.PREFACE[:5], frames.PREFACE, frames.PREFACE + frames.settings(), frames.PREFACE + b"\0\0"),
            strict=True,
        ):
            await raw.send(begun)
        frame_begun, block_begun = [await stack.enter_async_context(await Raw.open(victim.address)) for _ in range(2)]
        await frame_begun.send(frames.frame(frames.PING, 0, b"123", length=8))
        await block_begun.send(frames.headers(1, block, done=False))
        message_begun = await stack.enter_async_context(await Raw.open(victim.address))
        await message_begun.send(frames.headers(1, block) + frames.data(1, frames.message(b"", length=100)))
        assert (await message_begun.answer(1))[1]["grpc-status"] == "4"
        ends = [await raw.end() for raw in (*half_open, frame_begun, block_begun)]
        assert ends == ["PROTOCOL_ERROR"] * 3 + ["SETTINGS_TIMEOUT", "PROTOCOL_ERROR"] + ["ENHANCE_YOUR_CALM"] * 2


async def test_a_slow_reader_of_the_window_is_given_up(victim: Process) -> None:
    """Answers that wait for a window that never opens: each stream is reset, and the client may go on."""
    async with neighbour(victim), await Raw.open(victim.address) as raw:
        await raw.send(frames.settings({"INITIAL_WINDOW_SIZE": 0}))
        for i in range(1, 41, 2):
            await raw.send(raw.coder.call(i, handlers.MANY, b"1000000"))
        for i in range(1, 41, 2):
            assert (await raw.until(frames.RST_STREAM, stream=i)).error == "CANCEL"
        await raw.send(frames.settings({"INITIAL_WINDOW_SIZE": 65_535}) + raw.coder.call(41, handlers.ECHO, b"x"))
        assert (await raw.answer(41))[0] == b"x"


async def test_a_reader_that_does_not_read_is_given_up(victim: Process) -> None:
    """Windows wide open, and nothing read from the socket: the connection ends, and what waited for it is freed."""
    async with neighbour(victim), await Raw.open(victim.address) as raw:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a transport that reads
        await raw.send(
            frames.settings({"INITIAL_WINDOW_SIZE": 2**31 - 1}) + frames.window_update(0, 2**31 - 1 - 65_535)
        )
        with contextlib.suppress(OSError):
            for i in range(1, 401, 2):
                raw.writer.write(raw.coder.call(i, handlers.MANY, b"1000000"))
        await descriptors_at_most(victim, before=victim.descriptors() - 1)


async def descriptors_at_most(process: Process, before: int) -> None:
    end = time.monotonic() + PATIENCE
    while process.descriptors() > before:
        assert time.monotonic() < end, "the connection is still open"
        await asyncio.sleep(0.05)


async def test_a_window_opened_byte_by_byte_does_not_last_for_ever(victim: Process) -> None:
    """A reader that lets one byte through now and then makes progress, but pays for it."""
    async with neighbour(victim), await Raw.open(victim.address) as raw:
        await raw.send(frames.settings({"INITIAL_WINDOW_SIZE": 0}) + raw.coder.call(1, handlers.MANY, b"1000000"))
        await raw.until(frames.HEADERS, stream=1)
        assert await flood(raw, frames.window_update(1, 1) * 200, 10_000) == "ENHANCE_YOUR_CALM"


async def test_too_many_streams(victim: Process) -> None:
    """Over the limit they are refused one by one; those within it are served."""
    async with neighbour(victim), await Raw.open(victim.address) as raw:
        block, body = raw.coder.request(handlers.SLEEP), frames.message(b"1")
        for i in range(1, 2401, 2):
            await raw.send(frames.headers(i, block) + frames.data(i, body, end=True))
        answered: set[int] = set()
        refused: set[int] = set()
        while len(answered) + len(refused) < 1200:
            frame = await raw.receive()
            assert frame is not None
            if frame.type == frames.RST_STREAM:
                assert frame.error == "REFUSED_STREAM"
                refused.add(frame.stream)
            elif frame.ends_stream:
                answered.add(frame.stream)
        assert (len(answered), len(refused)) == (1000, 200)


async def test_too_many_connections() -> None:
    """Over the limit they are closed at once; those that are open go on, and a place that is left is given to the next."""
    with server(Options(limits={"connections": 20})) as process:
        async with contextlib.AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(await Raw.open(process.address)) for _ in range(20)]
            for raw in opened:
                await raw.send(raw.coder.call(1, handlers.ECHO, b"x"))
                assert (await raw.answer(1))[0] == b"x"
            for _ in range(200):
                async with await Raw.open(process.address) as raw:
                    assert await raw.end() == "none"
            for raw in opened:
                await raw.send(raw.coder.call(3, handlers.ECHO, b"y"))
                assert (await raw.answer(3))[0] == b"y"
            full = process.descriptors()
            opened[0].writer.close()
            await descriptors_at_most(process, full - 1)
            async with await Raw.open(process.address) as raw:
                await raw.send(raw.coder.call(1, handlers.ECHO, b"z"))
                assert (await raw.answer(1))[0] == b"z"


async def test_too_many_calls_in_flight() -> None:
    """Handlers that wait are bounded over all connections: further calls fail, and none is queued."""
    with server(Options(limits={"calls": 50})) as process, grpc.insecure_channel(process.address):
        async with grpc.aio.insecure_channel(process.address) as channel:
            waiting = [method(channel, handlers.WAIT)(b"") for _ in range(50)]
            while json.loads(await method(channel, handlers.STATE)(b"")).get("waiting", 0) < 50:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(channel, handlers.LATER)(b"one more", timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await method(channel, handlers.ECHO)(b"needs no waiting", timeout=PATIENCE) == b"needs no waiting"
            waiting[0].cancel()
            while json.loads(await method(channel, handlers.STATE)(b""))["waiting"] == 50:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            assert await method(channel, handlers.LATER)(b"room again", timeout=PATIENCE) == b"room again"
            for call in waiting:
                call.cancel()


async def test_connections_come_and_go(victim: Process) -> None:
    """Thousands of short ones, closed in every way: nothing of them stays."""
    async with neighbour(victim):
        before = victim.descriptors()
        for number in range(600):
            raw = await Raw.open(victim.address, opened=number % 3 > 0)
            if number % 3 == 2:
                await raw.send(raw.coder.call(1, handlers.WAIT, b""))
            if number % 2:
                raw.writer.transport.abort()
            else:
                raw.writer.close()
        await descriptors_at_most(victim, before)
