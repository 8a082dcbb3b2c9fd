"""The TLS front of the authority: terminates TLS with optional client certificates and passes the bytes on to gRPC.

gRPC for Python either demands a client certificate or never asks for one; joining needs none and renewing needs one, on one port.
So TLS ends here. Each connection reaches the gRPC server over a unix socket from a client name that only this process knows, and
`peer_certificate` tells whose connection that name is: nobody else can reach the server with a name of ours.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

MAX_CONNECTIONS = 256  # each costs three file descriptors
_HANDSHAKE_SECONDS = 10.0
_IDLE_SECONDS = 120.0
_CHUNK = 64 * 1024
_PEER_PREFIX = "unix-abstract:"


class UnknownPeerError(Exception):
    """The connection did not come through this front."""


class TlsFront:
    """Accepts TLS, keeps each connection's client certificate, and splices it to the server behind, on `inner_socket`."""

    def __init__(self, inner_socket: Path) -> None:
        self.inner_socket = inner_socket
        self._context: ssl.SSLContext | None = None
        self._server: asyncio.Server | None = None
        self._certificates: dict[str, bytes | None] = {}
        self._connections: set[asyncio.Task[None]] = set()

    def configure(self, chain_pem: str, key_pem: bytes, roots_pem: str) -> None:
        """Serve this certificate from the next handshake on, and verify clients against `roots_pem`."""
        context = self._context or _context(roots_pem)
        # The standard library takes keys from files only: this one is in memory.
        with os.fdopen(os.memfd_create("serving", os.MFD_CLOEXEC), "wb", buffering=0) as pair:
            pair.write(key_pem + chain_pem.encode())
            context.load_cert_chain(f"/proc/self/fd/{pair.fileno()}")
        self._context = context

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which the system chose if `port` is 0."""
        self._server = await asyncio.start_server(
            self._accept,
            host,
            port,
            ssl=self._context,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            limit=_CHUNK,
            backlog=512,
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def peer_certificate(self, peer: str) -> bytes | None:
        """The verified client certificate (DER) of the connection gRPC calls `peer`, None if it presented none."""
        try:
            return self._certificates[peer.removeprefix(_PEER_PREFIX)]
        except KeyError:
            raise UnknownPeerError(peer) from None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(task)
        name = f"lateen-ca-{secrets.token_hex(16)}"
        secured: ssl.SSLObject = writer.get_extra_info("ssl_object")
        self._certificates[name] = secured.getpeercert(binary_form=True)
        try:
            await self._splice(name, reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # The connection is over, whoever ended it.
        finally:
            del self._certificates[name]
            self._connections.discard(task)
            writer.transport.abort()

    async def _splice(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.setblocking(False)  # noqa: FBT003 - the standard library's signature
            inner.bind(f"\0{name}")
            await asyncio.get_running_loop().sock_connect(inner, str(self.inner_socket))
            inner_reader, inner_writer = await asyncio.open_connection(sock=inner, limit=_CHUNK)
        except BaseException:
            inner.close()
            raise
        try:
            await _first(_copy(reader, inner_writer), _copy(inner_reader, writer))
        finally:
            inner_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end of the stream or silence; gRPC's own keepalive and idle limits act long before."""
    while data := await asyncio.wait_for(reader.read(_CHUNK), _IDLE_SECONDS):
        writer.write(data)
        await asyncio.wait_for(writer.drain(), _IDLE_SECONDS)
    with contextlib.suppress(OSError):
        await writer.drain()


async def _first(*copies: Awaitable[None]) -> None:
    """Run both directions until one ends, then end the other: HTTP/2 has no use for half-closed connections."""
    tasks = [asyncio.ensure_future(copy) for copy in copies]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _context(roots_pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    # Every connection proves its certificate anew, so that none outlives its expiry by resumption.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.load_verify_locations(cadata=roots_pem)
    context.set_alpn_protocols(["h2"])
    return context


Verify = Callable[[str], bytes | None]
"""What the server needs of the front: the peer's certificate by gRPC's name of the connection."""
