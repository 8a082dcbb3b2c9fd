"""A small HTTP server for key sets, on loopback: real sockets, scripted answers."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

Answer = tuple[int, dict[str, str], bytes]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class KeyServer:
    """Answers GETs from `answers`: a fixed answer, or a coroutine function that makes one. Counts what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[], Awaitable[Answer]]] = {}
        self.asked: list[str] = []
        self.url = ""

    def serve_json(self, path: str, document: object) -> str:
        self.answers[path] = (200, {"content-type": "application/json"}, json.dumps(document).encode())
        return self.url + path

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            self.asked.append(path)
            answer = self.answers.get(path, (404, {}, b""))
            status, headers, body = answer if isinstance(answer, tuple) else await answer()
            lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def key_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[KeyServer]:
    server = KeyServer()
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
    authority = "https://localhost" if tls is not None else "http://127.0.0.1"
    server.url = f"{authority}:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


def jwk(key: PrivateKey, kid: str = "", **more: object) -> dict[str, Any]:
    """The public half of a key as a JWK."""
    match key:
        case rsa.RSAPrivateKey():
            entry = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            entry = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            entry = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    entry.pop("key_ops", None)
    return {**entry, **({"kid": kid} if kid else {}), **more}
