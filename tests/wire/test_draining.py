"""Draining and ageing under load, TLS and its rotation, unix sockets: in one event loop with grpcio's client."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from lateen.adsclient.tls import TlsMaterial
from lateen.wire.limits import Limits
from lateen.wire.server import Server
from lateen.wire.tls import server_context
from tests.fakes.pki import TestAuthority
from tests.wire import handlers
from tests.wire.running import PATIENCE, Process, Raw, method, server
from tests.wire.serve import Options

NAME = "service.test"
PROXY = "spiffe://cluster.local/ns/payments/sa/payments"


@dataclass
class Load:
    """Calls without pause, from several tasks on one channel."""

    calls: int = 0
    stop: bool = False


async def calling(channel: grpc.aio.Channel, load: Load) -> None:
    echo, later = method(channel, handlers.ECHO), method(channel, handlers.LATER)
    while not load.stop:
        body = b"%d" % load.calls
        assert await (later if load.calls % 2 else echo)(body, timeout=PATIENCE) == body
        load.calls += 1


async def test_connections_reach_their_age_under_load_without_a_failed_call() -> None:
    """Each is asked to go after a fraction of a second; the client connects anew and no call notices."""
    carrier = Server(handlers.test_handlers(), limits=Limits(connection_age=0.25, connection_grace=5))
    address = await carrier.start("127.0.0.1:0")
    load = Load()
    async with grpc.aio.insecure_channel(address) as channel:
        tasks = [asyncio.create_task(calling(channel, load)) for _ in range(20)]
        async with asyncio.timeout(PATIENCE):
            while carrier.stats.connections < 4:  # noqa: ASYNC110 - the clock has to run
                await asyncio.sleep(0.05)
        load.stop = True
        await asyncio.gather(*tasks)
    await carrier.stop(1)
    assert load.calls > 100
    assert carrier.held == 0


async def test_deadlines_are_kept_however_busy_the_server_is() -> None:
    """Each answer asks for time to be looked at: that must not put off the look that is due."""
    carrier = Server(handlers.test_handlers())
    address = await carrier.start("127.0.0.1:0")
    stop, started = False, time.monotonic()

    async def be_busy() -> None:
        while not stop:
            carrier.wake(started)  # due since then
            await asyncio.sleep(0)

    async with await Raw.open(address) as raw:
        busy = asyncio.create_task(be_busy())
        await raw.send(raw.coder.call(1, handlers.WAIT, b"", ("grpc-timeout", "50m")))
        assert (await raw.answer(1))[1]["grpc-status"] == "4"
        stop = True
        await busy
    await carrier.stop(1)


async def test_a_server_that_is_replaced_under_load_loses_no_call(tmp_path: Path) -> None:
    """The next one listens on the same port before the first one drains, as in a rolling restart."""
    first, second = Server(handlers.test_handlers()), Server(handlers.test_handlers())
    address = await first.start("127.0.0.1:0", reuse_port=True)
    load = Load()
    async with grpc.aio.insecure_channel(address) as channel:
        tasks = [asyncio.create_task(calling(channel, load)) for _ in range(20)]
        slow = method(channel, handlers.SLEEP)(b"0.3", timeout=PATIENCE)
        while load.calls < 50:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await second.start(address, reuse_port=True)
        await first.stop(5)
        assert await slow == b"0.3"
        before = load.calls
        while load.calls < before + 50:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        load.stop = True
        await asyncio.gather(*tasks)
    assert second.stats.calls > 50
    await second.stop(1)


async def test_stopping_waits_for_calls_only_as_long_as_it_should() -> None:
    carrier = Server(handlers.test_handlers())
    address = await carrier.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(address) as channel:
        waiting = method(channel, handlers.WAIT)(b"")
        async with asyncio.timeout(PATIENCE):
            while not carrier.stats.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        async with asyncio.timeout(PATIENCE):
            await carrier.stop(0.2)
        assert await waiting.code() is grpc.StatusCode.UNAVAILABLE
    assert carrier.stats.in_flight == carrier.stats.open_connections == carrier.held == 0


@dataclass
class Rotating:
    """What the agent does: a new pair now and then, of an authority that may change too."""

    authority: TestAuthority
    current: TlsMaterial

    def rotate(self, authority: TestAuthority | None = None) -> None:
        self.authority = authority or self.authority
        self.current = material(self.authority)

    def channel(
        self, address: str, authority: TestAuthority, identity: str = PROXY, *, certified: bool = True
    ) -> grpc.aio.Channel:
        """A client with a certificate of `authority`, that trusts the server's."""
        pair = authority.issue(identity)
        own = (pair.key.encode(), pair.certificate.encode()) if certified else (None, None)
        credentials = grpc.ssl_channel_credentials(self.authority.root.encode(), *own)
        options = [("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(address, credentials, options)


def material(authority: TestAuthority) -> TlsMaterial:
    pair = authority.issue("spiffe://cluster.local/ns/istio-system/sa/service", NAME)
    return TlsMaterial(pair.certificate.encode(), pair.key.encode(), authority.root.encode())


@pytest.fixture
async def secure() -> AsyncIterator[tuple[Server, str, Rotating]]:
    authority = TestAuthority()
    identity = Rotating(authority, material(authority))
    carrier = Server(handlers.test_handlers(), tls=server_context(lambda: identity.current))
    address = await carrier.start("127.0.0.1:0")
    yield carrier, address, identity
    await carrier.stop(0)


async def test_the_peer_is_its_certificate(secure: tuple[Server, str, Rotating]) -> None:
    _, address, identity = secure
    async with identity.channel(address, identity.authority) as channel:
        assert await method(channel, handlers.PEER)(b"", timeout=PATIENCE) == PROXY.encode()
        large = bytes(range(256)) * 8000
        assert await method(channel, handlers.LATER)(large, timeout=PATIENCE) == large
        assert await asyncio.gather(*(method(channel, handlers.ECHO)(b"%d" % i) for i in range(500))) == [
            b"%d" % i for i in range(500)
        ]
    async with identity.channel(address, identity.authority, "") as channel:
        assert await method(channel, handlers.PEER)(b"", timeout=PATIENCE) == b"none"


async def test_strangers_do_not_get_in(secure: tuple[Server, str, Rotating]) -> None:
    carrier, address, identity = secure
    for channel in (
        identity.channel(address, TestAuthority()),
        identity.channel(address, identity.authority, certified=False),
    ):
        async with channel:
            call = method(channel, handlers.PEER)(b"", timeout=PATIENCE)
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
    async with await Raw.open(address) as raw:  # plain text
        assert await raw.end() == "none"
    async with await Raw.open(address, opened=False) as raw:  # a handshake that goes wrong in the middle
        await raw.send(b"\x16\x03\x01\x00\xff" + b"\x00" * 300)
        assert await raw.end() == "none"
    assert carrier.stats.calls == 0
    assert carrier.stats.refused["tls"] >= 4


async def test_another_protocol_than_http2_is_refused(secure: tuple[Server, str, Rotating]) -> None:
    carrier, address, identity = secure
    context = ssl.create_default_context(cadata=identity.authority.root)
    context.check_hostname = False
    pair = identity.authority.issue(PROXY)
    folder = Path("/dev/shm")
    (folder / f"wire-test-{id(carrier)}.pem").write_text(pair.certificate + pair.key)
    try:
        context.load_cert_chain(folder / f"wire-test-{id(carrier)}.pem")
    finally:
        (folder / f"wire-test-{id(carrier)}.pem").unlink()
    host, _, port = address.rpartition(":")
    for protocols in (["http/1.1"], []):
        if protocols:
            context.set_alpn_protocols(protocols)
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=NAME)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        writer.close()
    assert carrier.stats.refused["alpn"] == 2


async def test_a_rotated_certificate_is_shown_at_the_next_handshake(secure: tuple[Server, str, Rotating]) -> None:
    """Connections made before live on; the next ones see the new pair, and only clients of the new roots get in."""
    _, address, identity = secure
    old = identity.authority
    async with identity.channel(address, old) as before:
        assert await method(before, handlers.ECHO)(b"1", timeout=PATIENCE) == b"1"
        identity.rotate()
        async with identity.channel(address, old) as renewed:
            assert await method(renewed, handlers.ECHO)(b"2", timeout=PATIENCE) == b"2"
        identity.rotate(TestAuthority())
        assert await method(before, handlers.ECHO)(b"3", timeout=PATIENCE) == b"3"
        async with identity.channel(address, identity.authority) as after:
            assert await method(after, handlers.PEER)(b"", timeout=PATIENCE) == PROXY.encode()
        async with identity.channel(address, old) as stranger:
            assert await method(stranger, handlers.ECHO)(b"", timeout=PATIENCE).code() is grpc.StatusCode.UNAVAILABLE
        good = identity.current
        identity.current = TlsMaterial(b"no certificate", b"no key", good.roots_pem)
        async with identity.channel(address, identity.authority) as kept:
            assert await method(kept, handlers.ECHO)(b"4", timeout=PATIENCE) == b"4"


async def test_a_handshake_that_never_ends_is_given_up() -> None:
    authority = TestAuthority()
    pair = material(authority)
    carrier = Server(handlers.test_handlers(), limits=Limits(handshake_timeout=0.3), tls=server_context(lambda: pair))
    address = await carrier.start("127.0.0.1:0")
    async with await Raw.open(address, opened=False) as raw:
        assert await raw.end() == "none"
    assert carrier.stats.refused["handshake_timeout"] == 1
    await carrier.stop(0)


async def test_a_unix_socket_left_behind_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/w.sock"
    with server(Options(addresses=(address,))) as killed:
        assert isinstance(killed, Process)
    assert (tmp_path / "w.sock").is_socket()
    first, second = Server(handlers.test_handlers()), Server(handlers.test_handlers())
    await first.start(address)
    with pytest.raises(OSError, match="in use"):
        await second.start(address)
    async with grpc.aio.insecure_channel(address) as channel:
        assert await method(channel, handlers.ECHO)(b"x", timeout=PATIENCE) == b"x"
    await first.stop(0)
    assert not (tmp_path / "w.sock").exists()


async def test_an_address_in_use_is_an_error() -> None:
    first, second = Server(handlers.test_handlers()), Server(handlers.test_handlers())
    address = await first.start("127.0.0.1:0")
    with pytest.raises(OSError, match="in use"):
        await second.start(address)
    await first.stop(0)
