"""The server around its connections: mutual TLS with a real client, starting, stopping, tasks and what is counted."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import grpc
import pytest

from lateen.wire.call import Call, StatusCode
from lateen.wire.limits import Limits
from lateen.wire.server import Server
from lateen.wire.tls import server_context
from tests.fakes.pki import TestAuthority
from tests.wire import frames
from tests.wire.running import PATIENCE, Raw, method
from tests.wire.test_tls import CLIENT, Material, material

ECHO, WAIT = "/a.B/Echo", "/a.B/Wait"
Handlers = Mapping[str, Callable[[Call, bytes], bytes | Awaitable[bytes]]]


class Waiting:
    """A handler that waits until it is told, and remembers what happened to it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.cancelled = 0
        self.may_go = asyncio.Event()
        self.began = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, call: Call, message: bytes) -> bytes:
        self.calls.append(call)
        self.began.set()
        try:
            await self.may_go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended.set()
        return message


@contextlib.asynccontextmanager
async def running(
    handlers: Handlers, *, limits: Limits | None = None, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1:0"
) -> AsyncIterator[tuple[Server, str]]:
    server = Server(handlers, limits=limits, tls=tls)
    bound = await server.start(address)
    try:
        yield server, bound
    finally:
        await server.stop(0)
        assert not server.carriers.tasks
        assert not server.pumps


async def soon(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), PATIENCE)


async def test_mutual_tls_names_the_client_and_survives_a_rotation() -> None:
    authority = TestAuthority()
    held: list[Material] = [material(authority)]
    handlers: Handlers = {"/a.B/Who": lambda call, _: (call.peer_identity or "").encode()}
    async with running(handlers, tls=server_context(lambda: held[-1])) as (server, address):

        def channel(of: TestAuthority) -> grpc.aio.Channel:
            pair = of.issue(CLIENT)
            roots, key, chain = of.root.encode(), pair.key.encode(), pair.certificate.encode()
            return grpc.aio.secure_channel(
                address,
                grpc.ssl_channel_credentials(roots, key, chain),
                [("grpc.ssl_target_name_override", "server.test"), ("grpc.use_local_subchannel_pool", 1)],
            )

        other = TestAuthority()
        async with channel(authority) as first, channel(other) as second:
            assert await method(first, "/a.B/Who")(b"") == CLIENT.encode()
            held.append(material(other))
            assert await method(second, "/a.B/Who")(b"") == CLIENT.encode()
            assert await method(first, "/a.B/Who")(b"") == CLIENT.encode()
            assert server.stats.open_connections == 2


async def test_a_handshake_that_never_ends_is_ended() -> None:
    held = material(TestAuthority())
    limits = Limits(handshake_timeout=0.05)
    async with running({}, limits=limits, tls=server_context(lambda: held)) as (server, address):
        async with await Raw.open(address, opened=False) as raw:
            await raw.send(b"\x16\x03")
            assert await raw.end() == "none"
        assert server.stats.refused == {"handshake_timeout": 1}


async def test_what_is_no_tls_is_closed() -> None:
    held = material(TestAuthority())
    async with running({}, tls=server_context(lambda: held)) as (server, address):
        async with await Raw.open(address) as raw:
            await asyncio.wait_for(raw.reader.read(), PATIENCE)
        assert server.stats.refused == {"tls": 1}


async def test_stopping_lets_calls_end() -> None:
    waiting = Waiting()
    server = Server({WAIT: waiting})
    address = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(address) as channel:
        call = asyncio.ensure_future(method(channel, WAIT)(b"kept"))
        await soon(waiting.began)
        stopping = asyncio.create_task(server.stop(PATIENCE))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        waiting.may_go.set()
        assert await call == b"kept"
        await asyncio.wait_for(stopping, PATIENCE)
    with pytest.raises(ConnectionRefusedError):
        await Raw.open(address)


async def test_stopping_does_not_wait_for_ever() -> None:
    waiting = Waiting()
    server = Server({WAIT: waiting})
    address = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(address) as channel:
        call = asyncio.ensure_future(method(channel, WAIT)(b""))
        await soon(waiting.began)
        await asyncio.wait_for(server.stop(0.05), PATIENCE)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    assert waiting.cancelled == 1
    assert waiting.calls[0].cancelled
    assert server.stats.in_flight == 0


@pytest.mark.parametrize("how", ["reset", "deadline", "connection"])
async def test_a_call_nobody_waits_for_is_cancelled(how: str) -> None:
    waiting = Waiting()
    async with running({WAIT: waiting}) as (_, address), await Raw.open(address) as raw:
        more = (("grpc-timeout", "50m"),) if how == "deadline" else ()
        await raw.send(raw.coder.call(1, WAIT, b"", *more))
        await soon(waiting.began)
        if how == "reset":
            await raw.send(frames.rst_stream(1))
        elif how == "connection":
            raw.writer.close()
        else:
            _, fields = await raw.answer(1)
            assert fields["grpc-status"] == str(StatusCode.DEADLINE_EXCEEDED.value)
        await soon(waiting.ended)
        assert (waiting.cancelled, waiting.calls[0].cancelled) == (1, True)


async def test_calls_in_flight_are_bounded() -> None:
    waiting = Waiting()
    limits = Limits(calls=2)
    async with running({WAIT: waiting}, limits=limits) as (server, address), await Raw.open(address) as raw:
        for stream_id in (1, 3, 5):
            await raw.send(raw.coder.call(stream_id, WAIT, b"x"))
        _, fields = await raw.answer(5)
        assert fields["grpc-status"] == str(StatusCode.RESOURCE_EXHAUSTED.value)
        assert (server.stats.in_flight, server.stats.refused) == (2, {"calls": 1})
        waiting.may_go.set()
        assert (await raw.answer(1))[0] == b"x"


async def test_connections_are_bounded() -> None:
    limits = Limits(connections=1)
    async with running({ECHO: lambda _, m: m}, limits=limits) as (server, address), await Raw.open(address) as first:
        await first.until(frames.SETTINGS)
        async with await Raw.open(address) as second:
            assert await second.end() == "none"
        assert server.stats.refused == {"connections": 1}
        await first.send(first.coder.call(1, ECHO, b"x"))
        assert (await first.answer(1))[0] == b"x"
        first.writer.close()
        async with asyncio.timeout(PATIENCE):
            while server.stats.open_connections:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        async with await Raw.open(address) as third:
            await third.until(frames.SETTINGS)


async def test_whatever_a_handler_does_ends_its_call_only() -> None:
    async def late_nonsense(_: Call, __: bytes) -> bytes:
        return "text"  # type: ignore[return-value]  # what a handler must not do

    async def gives_up(_: Call, __: bytes) -> bytes:
        raise asyncio.CancelledError

    handlers: Handlers = {
        ECHO: lambda _, m: m,
        "/a.B/Nonsense": lambda _, __: None,  # type: ignore[dict-item,return-value]  # what a handler must not do
        "/a.B/LateNonsense": late_nonsense,
        "/a.B/GivesUp": gives_up,
    }
    async with running(handlers) as (_, address), await Raw.open(address) as raw:
        codes = []
        for path in [*handlers, ECHO]:
            stream_id = raw.next_stream()
            await raw.send(raw.coder.call(stream_id, path, b"x"))
            codes.append((await raw.answer(stream_id))[1]["grpc-status"])
    unknown, cancelled = str(StatusCode.UNKNOWN.value), str(StatusCode.CANCELLED.value)
    assert codes == ["0", unknown, unknown, cancelled, "0"]


async def test_a_badly_coded_value_that_is_asked_for_ends_the_connection() -> None:
    handlers: Handlers = {ECHO: lambda call, _: (call.metadata("x-a") or "").encode()}
    async with running(handlers) as (_, address), await Raw.open(address) as raw:
        await raw.send(raw.coder.call(1, ECHO, b""))
        assert (await raw.answer(1))[1]["grpc-status"] == "0"
        block = raw.coder.request(ECHO) + b"\x00\x03x-a\x82\x18\xc0"
        await raw.send(frames.headers(3, block) + frames.data(3, frames.message(b""), end=True))
        assert await raw.end() == "COMPRESSION_ERROR"


async def test_a_socket_left_over_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    async with running({ECHO: lambda _, m: m}, address=f"unix:{path}") as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            assert await method(channel, ECHO)(b"x") == b"x"
        with pytest.raises(OSError, match="in use"):
            await Server({}).start(address)
    assert not path.exists()


async def test_a_port_can_be_shared_or_not() -> None:
    async with running({}) as (_, address):
        with pytest.raises(OSError, match="in use"):
            await Server({}).start(address)
    first, second = Server({ECHO: lambda _, m: m}), Server({ECHO: lambda _, m: m})
    address = await first.start("127.0.0.1:0", reuse_port=True)
    assert await second.start(address, reuse_port=True) == address
    await first.stop(0)
    async with await Raw.open(address) as raw:
        await raw.send(raw.coder.call(1, ECHO, b"x"))
        assert (await raw.answer(1))[0] == b"x"
    await second.stop(0)


async def test_what_is_counted() -> None:
    async with running({ECHO: lambda _, m: m}) as (server, address), await Raw.open(address) as raw:
        for path in (ECHO, ECHO, "/a.B/Unknown"):
            stream_id = raw.next_stream()
            await raw.send(raw.coder.call(stream_id, path, b""))
            await raw.answer(stream_id)
        stats = server.stats
        assert (stats.connections, stats.open_connections, stats.calls) == (1, 1, 2)
        assert stats.refused == {"unknown_method": 1}
