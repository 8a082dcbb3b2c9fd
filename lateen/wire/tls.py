"""TLS of the server: HTTP/2 only, client certificates required, the newest certificate at each handshake. Keys never touch a disk."""

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator
from typing import Final, Protocol, cast

import structlog

from lateen.wire.call import spiffe_id

_READ_BYTES: Final = 65_536


class Material(Protocol):
    """A certificate chain (leaf first), its key and the roots that clients must chain to, as PEM."""

    @property
    def cert_chain_pem(self) -> bytes: ...

    @property
    def key_pem(self) -> bytes: ...

    @property
    def roots_pem(self) -> bytes: ...


def server_context(newest: Callable[[], Material]) -> ssl.SSLContext:
    """A context that asks `newest` at each handshake: connections made before a rotation live on.

    A pair that cannot be loaded is logged once, and the last good one stays in use.
    """
    loaded = newest()
    current = _context(loaded)
    entrance = _context(loaded)

    def choose(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        nonlocal loaded, current
        material = newest()
        if material is not loaded:
            loaded = material
            try:
                current = _context(material)
            except (ssl.SSLError, ValueError) as error:
                structlog.get_logger().error(
                    "the new certificate cannot be used, keeping the old one", error=str(error)
                )
        connection.context = current

    entrance.sni_callback = choose  # called at every handshake, with or without a name
    return entrance


def _context(material: Material) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    # A resumed session would not be checked against roots that have changed since.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    with _in_memory(material.cert_chain_pem) as chain, _in_memory(material.key_pem) as key:
        context.load_cert_chain(chain, key)
    context.load_verify_locations(cadata=material.roots_pem.decode("ascii"))
    return context


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A file name for what `ssl` takes only by file name; the file exists in memory, for this process, and for a moment."""
    descriptor = os.memfd_create("lateen-pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class TlsSession:
    """The server's side of one TLS connection, without I/O: ciphertext in, plaintext out, and the other way round."""

    __slots__ = ("_incoming", "_outgoing", "_tls", "ended", "ready")

    def __init__(self, context: ssl.SSLContext) -> None:
        """Before the client's first byte."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.ready = False  # the handshake is done
        self.ended = False  # the client has said that it sends no more

    def receive(self, data: bytes) -> bytes:
        """Plaintext in what the client sent; raises ssl.SSLError (an alert may be in `pending`)."""
        self._incoming.write(data)
        parts: list[bytes] = []
        try:
            if not self.ready:
                self._tls.do_handshake()
                self.ready = True
            while part := self._tls.read(_READ_BYTES):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pending(self) -> bytes:
        """Ciphertext that TLS itself has to send."""
        return self._outgoing.read()

    def encrypt(self, data: bytes) -> bytes:
        """Ciphertext of what we say."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        return self._outgoing.read()

    @property
    def speaks_http2(self) -> bool:
        """Whether the client has chosen HTTP/2 by ALPN."""
        return self._tls.selected_alpn_protocol() == "h2"

    def peer_identity(self) -> str | None:
        """The SPIFFE id in the client's verified certificate; None if it has none, or more than one URI."""
        certificate = self._tls.getpeercert() or {}
        names = cast("tuple[tuple[str, str], ...]", certificate.get("subjectAltName", ()))
        return spiffe_id([value for kind, value in names if kind == "URI"])
