"""The service over a real unix socket, with a plain gRPC client as the subscriber."""

import asyncio
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import grpc
import pytest

from ca.sds.files import FileSecrets
from ca.sds.secrets import CERTIFICATE, ROOTS, SECRET_TYPE, Certificate, Roots, SecretTable
from ca.sds.server import SdsServer, SecretService
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from lateen.envoyapi.envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from lateen.envoyapi.envoy.service.secret.v3 import sds_pb2_grpc

SECONDS = 5
T = TypeVar("T")
PEM = "-----BEGIN CERTIFICATE-----\n"


class Served(NamedTuple):
    table: SecretTable
    folder: Path
    socket: Path
    server: SdsServer


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    with tempfile.TemporaryDirectory(prefix="ltn-") as path:
        folder, table = Path(path), SecretTable()
        socket = folder / "sds.sock"
        server = SdsServer(SecretService(table, FileSecrets((folder,)), "test"), socket)
        await server.start()
        try:
            yield Served(table, folder, socket, server)
        finally:
            await server.stop()


def stub(channel: grpc.aio.Channel) -> "sds_pb2_grpc.SecretDiscoveryServiceAsyncStub":
    return sds_pb2_grpc.SecretDiscoveryServiceStub(channel)


async def read(call: "grpc.aio.StreamStreamCall[Any, T]") -> T:
    """The next answer; the end of the stream is a failure."""
    answer = await call.read()
    assert answer is not grpc.aio.EOF
    return answer  # type: ignore[return-value]  # it is not the end


def secret(value: bytes) -> secret_pb2.Secret:
    return secret_pb2.Secret.FromString(value)


async def test_a_rotation_is_pushed_on_the_same_stream(served: Served) -> None:
    async with grpc.aio.insecure_channel(f"unix:{served.socket}") as channel, asyncio.timeout(SECONDS):
        call = stub(channel).StreamSecrets()
        await call.write(DiscoveryRequest(type_url=SECRET_TYPE, resource_names=[CERTIFICATE]))
        nonces = []
        for number in range(3):
            served.table.put(CERTIFICATE, Certificate(b"chain %d" % number, b"key"))
            answer = await read(call)
            pushed = secret(answer.resources[0].value)
            assert pushed.tls_certificate.certificate_chain.inline_bytes == b"chain %d" % number
            nonces.append(answer.nonce)
            await call.write(
                DiscoveryRequest(
                    resource_names=[CERTIFICATE], response_nonce=answer.nonce, version_info=answer.version_info
                )
            )
        assert nonces == ["1", "2", "3"]


async def test_delta_streams(served: Served) -> None:
    served.table.put(ROOTS, Roots(b"roots"))
    async with grpc.aio.insecure_channel(f"unix:{served.socket}") as channel, asyncio.timeout(SECONDS):
        call = stub(channel).DeltaSecrets()
        await call.write(DeltaDiscoveryRequest(type_url=SECRET_TYPE, resource_names_subscribe=[CERTIFICATE, ROOTS]))
        assert [each.name for each in (await read(call)).resources] == [ROOTS]
        served.table.put(CERTIFICATE, Certificate(b"chain", b"key"))
        assert [each.name for each in (await read(call)).resources] == [CERTIFICATE]


async def test_fetch(served: Served) -> None:
    async with grpc.aio.insecure_channel(f"unix:{served.socket}") as channel, asyncio.timeout(SECONDS):
        request = DiscoveryRequest(type_url=SECRET_TYPE, resource_names=[ROOTS])
        with pytest.raises(grpc.aio.AioRpcError) as absent:
            await stub(channel).FetchSecrets(request)
        assert absent.value.code() is grpc.StatusCode.NOT_FOUND
        served.table.put(ROOTS, Roots(b"roots"))
        answer = await stub(channel).FetchSecrets(request)
        assert secret(answer.resources[0].value).validation_context.trusted_ca.inline_bytes == b"roots"


async def test_a_file_secret_follows_the_file_and_outlives_it(served: Served) -> None:
    path = served.folder / "root.pem"
    name = f"file-root:{path}"
    path.write_text(PEM + "1")
    async with grpc.aio.insecure_channel(f"unix:{served.socket}") as channel, asyncio.timeout(SECONDS * 2):
        call = stub(channel).StreamSecrets()
        await call.write(DiscoveryRequest(type_url=SECRET_TYPE, resource_names=[name]))
        assert (
            secret((await read(call)).resources[0].value).validation_context.trusted_ca.inline_bytes
            == (PEM + "1").encode()
        )
        path.write_text("broken")
        path.write_text(PEM + "22")
        answer = await read(call)
        assert secret(answer.resources[0].value).validation_context.trusted_ca.inline_bytes == (PEM + "22").encode()
        path.unlink()
        fetched = await stub(channel).FetchSecrets(DiscoveryRequest(type_url=SECRET_TYPE, resource_names=[name]))
        assert secret(fetched.resources[0].value).validation_context.trusted_ca.inline_bytes == (PEM + "22").encode()


async def test_a_stream_that_asks_too_much_ends_and_the_others_live(served: Served) -> None:
    served.table.put(ROOTS, Roots(b"roots"))
    async with grpc.aio.insecure_channel(f"unix:{served.socket}") as channel, asyncio.timeout(SECONDS):
        good, bad = stub(channel).StreamSecrets(), stub(channel).StreamSecrets()
        await good.write(DiscoveryRequest(resource_names=[ROOTS]))
        await read(good)
        await bad.write(DiscoveryRequest(resource_names=[f"name-{number}" for number in range(1000)]))
        assert await bad.code() is grpc.StatusCode.INVALID_ARGUMENT
        served.table.put(ROOTS, Roots(b"new roots"))
        assert (await read(good)).nonce == "2"


async def test_the_socket_is_private_replaces_a_dead_one_and_goes(served: Served) -> None:
    assert stat.S_IMODE(served.socket.stat().st_mode) == 0o600
    await served.server.stop()
    assert not served.socket.exists()
    served.socket.write_text("a file of somebody else")
    with pytest.raises(FileExistsError):
        await SdsServer(SecretService(SecretTable()), served.socket).start()
    assert served.socket.read_text() == "a file of somebody else"
    long_path = served.folder / ("x" * 120)
    with pytest.raises(OSError, match="107 bytes"):
        await SdsServer(SecretService(SecretTable()), long_path).start()
