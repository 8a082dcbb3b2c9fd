"""The servers that `benchmarks.wire` compares: `python -m benchmarks.wire_servers KIND ADDRESS`, the same handler in each of them."""

import asyncio
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc

from benchmarks.wire_load import ANSWER, PATH
from lateen.wire.call import Call
from lateen.wire.server import Server

WIRE, WIRE_AWAITED, AIO, SYNC = "lateen.wire", "lateen.wire, awaited", "grpc.aio", "grpcio, threads"
KINDS: Final = (WIRE, WIRE_AWAITED, AIO, SYNC)
_THREADS: Final = 8


async def serve_wire(address: str, *, awaited: bool) -> None:
    """Ours, with a handler that answers at once, or one that is awaited."""

    async def later(_: Call, __: bytes) -> bytes:
        await asyncio.sleep(0)
        return ANSWER

    server = Server({PATH: later if awaited else lambda _, __: ANSWER})
    await server.start(address)
    await _until_stopped()
    await server.stop(0)


async def serve_aio(address: str) -> None:
    """The one of grpcio on asyncio, with bytes as they are."""

    async def check(_: bytes, __: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        return ANSWER

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handlers(grpc.unary_unary_rpc_method_handler(check)),))
    server.add_insecure_port(address)
    await server.start()
    await _until_stopped()
    await server.stop(0)


def serve_sync(address: str) -> None:
    """The one of grpcio with a pool of threads."""

    def check(_: bytes, __: grpc.ServicerContext) -> bytes:
        return ANSWER

    server = grpc.server(ThreadPoolExecutor(_THREADS))
    server.add_generic_rpc_handlers((_handlers(grpc.unary_unary_rpc_method_handler(check)),))
    server.add_insecure_port(address)
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


def main(kind: str, address: str) -> None:
    """Serve until SIGTERM."""
    if kind == SYNC:
        serve_sync(address)
    elif kind == AIO:
        asyncio.run(serve_aio(address))
    else:
        asyncio.run(serve_wire(address, awaited=kind == WIRE_AWAITED))


if __name__ == "__main__":
    main(*sys.argv[1:])
