"""The servers that `benchmarks.wire` compares, with the same handler in each of them.

`python -m benchmarks.wire_servers KIND FOLDER ADDRESS TLS-ADDRESS`: each also listens on FOLDER/socket, and its certificate is there.
"""

import asyncio
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from benchmarks.wire_load import ANSWER, PATH
from lateen.adsclient.tls import TlsMaterial
from lateen.wire.call import Call
from lateen.wire.server import Handler, Server
from lateen.wire.tls import server_context

WIRE, WIRE_ASYNC, WIRE_AWAITED = "lateen.wire", "lateen.wire, async def", "lateen.wire, async def that waits"
AIO, SYNC = "grpc.aio", "grpcio, threads"
KINDS: Final = (WIRE, WIRE_ASYNC, WIRE_AWAITED, AIO, SYNC)
_THREADS: Final = 8


@dataclass(frozen=True, slots=True)
class Places:
    """Where to listen: plain, on a unix socket, and with mutual TLS."""

    folder: Path
    address: str
    tls_address: str

    @property
    def unix(self) -> str:
        """The address of the socket."""
        return f"unix:{self.folder}/socket"

    @property
    def material(self) -> TlsMaterial:
        """Certificate, key and roots."""
        return TlsMaterial(*((self.folder / f"{name}.pem").read_bytes() for name in ("cert", "key", "roots")))

    def open(self, server: "grpc.Server | grpc.aio.Server") -> None:
        """The same for a server of grpcio."""
        material = self.material
        pair = [(material.key_pem, material.cert_chain_pem)]
        for address in (self.address, self.unix):
            server.add_insecure_port(address)
        server.add_secure_port(
            self.tls_address, grpc.ssl_server_credentials(pair, material.roots_pem, require_client_auth=True)
        )


async def serve_wire(places: Places, kind: str) -> None:
    """Ours: the handler answers at once, or is an `async def` that does, or is one that waits for a turn of the loop."""

    async def soon(_: Call, __: bytes) -> bytes:
        return ANSWER

    async def later(_: Call, __: bytes) -> bytes:
        await asyncio.sleep(0)
        return ANSWER

    handlers: dict[str, Handler] = {WIRE: lambda _, __: ANSWER, WIRE_ASYNC: soon, WIRE_AWAITED: later}
    material = places.material
    tls = server_context(lambda: material)
    servers = [Server({PATH: handlers[kind]}, tls=context) for context in (None, None, tls)]
    for server, address in zip(servers, (places.address, places.unix, places.tls_address), strict=True):
        await server.start(address)
    await _until_stopped()
    for server in servers:
        await server.stop(0)


async def serve_aio(places: Places) -> None:
    """The one of grpcio on asyncio, with bytes as they are."""

    async def check(_: bytes, __: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        return ANSWER

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handlers(grpc.unary_unary_rpc_method_handler(check)),))
    places.open(server)
    await server.start()
    await _until_stopped()
    await server.stop(0)


def serve_sync(places: Places) -> None:
    """The one of grpcio with a pool of threads."""

    def check(_: bytes, __: grpc.ServicerContext) -> bytes:
        return ANSWER

    server = grpc.server(ThreadPoolExecutor(_THREADS))
    server.add_generic_rpc_handlers((_handlers(grpc.unary_unary_rpc_method_handler(check)),))
    places.open(server)
    server.start()
    asyncio.run(_until_stopped())
    server.stop(0).wait()


def _handlers(handler: "grpc.RpcMethodHandler[bytes, bytes]") -> grpc.GenericRpcHandler:
    _, service, method = PATH.split("/")
    return grpc.method_handlers_generic_handler(service, {method: handler})


async def _until_stopped() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


def main(kind: str, folder: str, address: str, tls_address: str) -> None:
    """Serve until SIGTERM."""
    places = Places(Path(folder), address, tls_address)
    if kind == SYNC:
        serve_sync(places)
    elif kind == AIO:
        asyncio.run(serve_aio(places))
    else:
        asyncio.run(serve_wire(places, kind))


if __name__ == "__main__":
    main(*sys.argv[1:])
