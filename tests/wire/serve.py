"""A server of the test handlers as a process of its own: `python -m tests.wire.serve JSON`, JSON being the fields of `Options`."""

import asyncio
import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from lateen.adsclient.tls import TlsMaterial
from lateen.wire.grpcio.server import GrpcioServer
from lateen.wire.limits import Limits
from lateen.wire.server import Server
from lateen.wire.tls import server_context
from tests.wire.handlers import test_handlers


@dataclass(frozen=True)
class Options:
    """What to serve."""

    transport: str = "wire"
    addresses: tuple[str, ...] = ("127.0.0.1:0",)
    limits: dict[str, Any] = field(default_factory=dict)
    tls: str = ""  # a directory with cert.pem, key.pem and roots.pem
    grace: float = 5.0


async def serve(options: Options) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    limits, handlers = Limits(**options.limits), test_handlers()
    pems = (
        [(Path(options.tls) / f"{name}.pem").read_bytes() for name in ("cert", "key", "roots")] if options.tls else []
    )
    material = TlsMaterial(*pems) if pems else None

    def make() -> Server | GrpcioServer:
        if options.transport == "wire":
            return Server(handlers, limits=limits, tls=server_context(lambda: material) if material else None)
        pair = [(material.key_pem, material.cert_chain_pem)] if material else []
        credentials = grpc.ssl_server_credentials(pair, material.roots_pem, True) if material else None
        return GrpcioServer(handlers, limits=limits, credentials=credentials)

    servers = [make() for _ in options.addresses]
    listening = [await server.start(address) for server, address in zip(servers, options.addresses, strict=True)]
    print(json.dumps(listening), flush=True)
    await stopped.wait()
    await asyncio.gather(*(server.stop(options.grace) for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(Options(**json.loads(sys.argv[1]))))
