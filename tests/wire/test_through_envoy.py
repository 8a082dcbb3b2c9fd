"""A real Envoy as the client: gRPC routes through it, over plain text and mutual TLS, and a server that drains behind it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from lateen.adsclient.tls import TlsMaterial
from lateen.envoy_binary import envoy_path
from lateen.wire.limits import Limits
from lateen.wire.server import Server
from lateen.wire.tls import server_context
from tests.fakes.pki import TestAuthority
from tests.wire import handlers
from tests.wire.running import PATIENCE, method

pytestmark = pytest.mark.e2e

NAME = "service.test"
PROXY = "spiffe://cluster.local/ns/payments/sa/payments"
_EXTENSIONS = "type.googleapis.com/envoy.extensions"


def envoy_config(listen: str, server: str, tls: dict[str, Any] | None) -> dict[str, Any]:
    """HTTP/2 in on a unix socket, HTTP/2 out to the server, every path."""
    router = {"name": "router", "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "server", "timeout": "0s"}}
    manager = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [router],
    }
    filters = [{"filters": [{"name": "http", "typed_config": manager}]}]
    host, _, port = server.rpartition(":")
    address = {"socket_address": {"address": host, "port_value": int(port)}}
    http2 = {
        "@type": f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {
            "http2_protocol_options": {"connection_keepalive": {"interval": "0.2s", "timeout": "5s"}}
        },
    }
    cluster: dict[str, Any] = {
        "name": "server",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "server",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
    }
    if tls is not None:
        cluster["transport_socket"] = {"name": "tls", "typed_config": tls}
    return {
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": [{"name": "in", "address": {"pipe": {"path": listen}}, "filter_chains": filters}],
            "clusters": [cluster],
        },
    }


def client_tls(authority: TestAuthority) -> dict[str, Any]:
    pair = authority.issue(PROXY)
    return {
        "@type": f"{_EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": NAME,
        "common_tls_context": {
            "tls_certificates": [
                {"certificate_chain": {"inline_string": pair.certificate}, "private_key": {"inline_string": pair.key}}
            ],
            "validation_context": {"trusted_ca": {"inline_string": authority.root}},
            "alpn_protocols": ["h2"],
        },
    }


@contextlib.asynccontextmanager
async def envoy(folder: Path, server: str, tls: dict[str, Any] | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """A channel through a running Envoy."""
    listen = str(folder / "envoy.sock")
    config = folder / "envoy.json"
    config.write_text(json.dumps(envoy_config(listen, server, tls)))
    with (folder / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(envoy_path(), "-c", str(config), "--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"),
            stdout=log,
            stderr=log,
        )
    try:
        async with grpc.aio.insecure_channel(f"unix:{listen}") as channel:
            async with asyncio.timeout(PATIENCE):
                await channel.channel_ready()
            yield channel
    finally:
        process.kill()
        await process.wait()


async def test_calls_of_every_sort(tmp_path: Path) -> None:
    carrier = Server(handlers.test_handlers())
    address = await carrier.start("127.0.0.1:0")
    async with envoy(tmp_path, address) as channel:
        echo = method(channel, handlers.ECHO)
        assert await echo(b"", timeout=PATIENCE) == b""
        large = bytes(range(256)) * 12_000
        assert await echo(large, timeout=PATIENCE) == large
        assert await method(channel, handlers.LATER)(large, timeout=PATIENCE) == large
        assert len(await method(channel, handlers.MANY)(b"3000000", timeout=PATIENCE)) == 3_000_000
        many = [method(channel, handlers.LATER)(b"%d" % i, timeout=PATIENCE) for i in range(2000)]
        assert await asyncio.gather(*many) == [b"%d" % i for i in range(2000)]
        assert await method(channel, handlers.DEADLINE)(b"31", timeout=30) == b"yes"
        wanted = json.loads(await method(channel, handlers.METADATA)(b"x-a", metadata=(("x-a", "1"), ("x-a", "2"))))
        assert wanted[1:] in (["1", "2"], ["1,2"])
        for path, body, code, text in (
            (handlers.FAIL, b"NOT_FOUND 100% gone", grpc.StatusCode.NOT_FOUND, "100% gone"),
            (handlers.FAIL_LATER, b"ABORTED", grpc.StatusCode.ABORTED, ""),
            (handlers.BUG, b"", grpc.StatusCode.UNKNOWN, "the handler failed"),
            ("/no.Such/Method", b"", grpc.StatusCode.UNIMPLEMENTED, "unknown method"),
        ):
            failed = method(channel, path)(body, timeout=PATIENCE)
            assert (await failed.code(), await failed.details()) == (code, text)
        late = method(channel, handlers.WAIT)(b"", timeout=0.3)
        assert await late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        cancelled = method(channel, handlers.WAIT)(b"")
        async with asyncio.timeout(PATIENCE):
            while carrier.stats.in_flight != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            cancelled.cancel()
            while carrier.stats.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        # Envoy asked by PING whether we live, several times.
        assert not carrier.stats.refused or set(carrier.stats.refused) <= {"unknown_method", "deadline"}
        assert carrier.stats.connections <= 4
    await carrier.stop(0)


async def test_over_mutual_tls_envoy_is_known_by_its_certificate(tmp_path: Path) -> None:
    authority = TestAuthority()
    pair = authority.issue("spiffe://cluster.local/ns/istio-system/sa/service", NAME)
    material = TlsMaterial(pair.certificate.encode(), pair.key.encode(), authority.root.encode())
    carrier = Server(handlers.test_handlers(), tls=server_context(lambda: material))
    address = await carrier.start("127.0.0.1:0")
    async with envoy(tmp_path, address, client_tls(authority)) as channel:
        assert await method(channel, handlers.PEER)(b"", timeout=PATIENCE) == PROXY.encode()
        large = bytes(range(256)) * 8_000
        assert await method(channel, handlers.LATER)(large, timeout=PATIENCE) == large
    await carrier.stop(0)


async def test_a_server_that_ages_and_is_replaced_under_load_fails_no_call(tmp_path: Path) -> None:
    """Connections are asked to go ten times a second, and in the middle of it another process takes the port over."""
    limits = Limits(connection_age=0.3)
    first, second = (Server(handlers.test_handlers(), limits=limits) for _ in range(2))
    address = await first.start("127.0.0.1:0", reuse_port=True)
    calls, stop = 0, False

    async def go_on(echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]) -> None:
        nonlocal calls
        while not stop:
            assert await echo(b"x", timeout=PATIENCE) == b"x"
            calls += 1

    async with envoy(tmp_path, address) as channel:
        tasks = [asyncio.create_task(go_on(method(channel, path))) for path in (handlers.ECHO, handlers.LATER) * 8]
        async with asyncio.timeout(PATIENCE):
            while first.stats.connections < 4 or calls < 100:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await second.start(address, reuse_port=True)
            await first.stop(5)
            while second.stats.calls < 100:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        stop = True
        await asyncio.gather(*tasks)
    await second.stop(0)
