"""Metrics and health over HTTP/1.1, GET only, one request a connection: a web framework would be half of the agent's memory."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_MAX_HEAD_BYTES = 8 * 1024
_SECONDS = 5.0
_MAX_CONNECTIONS = 64
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a text."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


class HttpServer:
    """Serves `routes` by exact path."""

    def __init__(self, routes: Mapping[str, Callable[[], Answer]]) -> None:
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, address: str) -> None:
        """Listen on `host:port`."""
        host, _, port = address.rpartition(":")
        self._server = await asyncio.start_server(self._serve, host.strip("[]"), int(port), limit=_MAX_HEAD_BYTES)

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _MAX_CONNECTIONS:
                async with asyncio.timeout(_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(_encode(self._answer(head)))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # A client that sends no request gets no answer.
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> Answer:
        parts = head.split(b"\r\n", 1)[0].split(b" ")
        if len(parts) != 3:  # noqa: PLR2004 - method, target, version
            return Answer(400, "bad request\n")
        if parts[0] != b"GET":
            return Answer(405, "only GET\n")
        route = self._routes.get(parts[1].split(b"?", 1)[0].decode("latin-1"))
        return route() if route is not None else Answer(404, "not found\n")


def _encode(answer: Answer) -> bytes:
    body = answer.body.encode()
    head = (
        f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\ncontent-type: {answer.content_type}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
