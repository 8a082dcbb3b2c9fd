"""The smallest service with workers: `python -m tests.wire.tiny_service [--fail] FOLDER`. It leaves addresses and process ids in FOLDER.

A worker answers /t.T/Who with its process id, at once; /t.T/Slow does after a while. Its pages are those of any service.
"""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from lateen.web import listen_on, web_server
from lateen.wire.call import Call
from lateen.wire.metrics import ServerMetrics
from lateen.wire.server import Server
from lateen.wire.workers import Service, run_workers, stop_with_supervisor

WHO, SLOW = "/t.T/Who", "/t.T/Slow"


async def work(folder: Path, number: int, address: str, http_address: str) -> None:
    """One worker."""
    stopped = asyncio.Event()
    for sort in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sort, stopped.set)
    stop_with_supervisor(stopped.set)
    who = b"%d" % os.getpid()

    async def slow(_: Call, __: bytes) -> bytes:
        await asyncio.sleep(0.3)
        return who

    server = Server({WHO: lambda _, __: who, SLOW: slow})
    registry = CollectorRegistry()
    registry.register(ServerMetrics(server))

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(generate_latest(registry))

    async def readyz(_: Request) -> Response:
        return JSONResponse({"ready": True})

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("no json here")

    async def page(request: Request) -> Response:
        found = request.path_params["name"] == f"{number}/a b" and request.url.query == "c=d"
        return JSONResponse({"worker": number}, status_code=200 if found else 404)

    routes = [
        Route("/metrics", metrics),
        Route("/readyz", readyz),
        Route("/healthz", healthz),
        Route("/v1/{name:path}", page),
    ]
    web = web_server(Starlette(routes=routes))
    pages = asyncio.create_task(web.serve(sockets=[listen_on(http_address)]))
    await server.start(address, reuse_port=True)
    (folder / f"{number}.pid").write_text(str(os.getpid()))
    await stopped.wait()
    await server.stop(5)
    web.should_exit = True
    await pages


def option(arguments: list[str], name: str) -> str:
    """The last value of an option: what the supervisor appends wins."""
    return arguments[len(arguments) - arguments[::-1].index(name)]


def main(arguments: list[str]) -> None:
    """A supervisor, unless it is told that it is a worker."""
    folder = Path(next(argument for argument in arguments if argument.startswith("/")))
    if "--worker" not in arguments:
        address = option(arguments, "--address") if "--address" in arguments else "127.0.0.1:0"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            pages = f"127.0.0.1:{probe.getsockname()[1]}"
        (folder / "pages").write_text(pages)
        asyncio.run(run_workers(Service("tests.wire.tiny_service", arguments, 2, address, pages, 5.0)))
        return
    if "--fail" in arguments:
        with (folder / "starts").open("a") as file:
            file.write("x")
        sys.exit(1)
    address = option(arguments, "--address")
    (folder / "address").write_text(address)
    asyncio.run(work(folder, int(option(arguments, "--worker")), address, option(arguments, "--http-address")))


if __name__ == "__main__":
    main(sys.argv[1:])
