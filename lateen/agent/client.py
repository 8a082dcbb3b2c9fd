"""The agent's side of `istio.v1.auth.IstioCertificateService`: a join token for the first certificate, the certificate afterwards."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import grpc

from lateen.envoyapi.istio.v1.auth import ca_pb2, ca_pb2_grpc

_TIMEOUT_SECONDS = 10.0
_MAX_ROOTS_BYTES = 1024 * 1024
_REFUSALS = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


class CaRefusedError(Exception):
    """The authority does not accept these credentials: asking again with them is useless."""


class CaUnavailableError(Exception):
    """The authority could not be reached or could not answer: ask again later."""


@dataclass(frozen=True, slots=True)
class Token:
    """A one-use join token."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate held now, and its key."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)


class CertificateAuthority(Protocol):
    """What the rotation needs of the authority."""

    async def create_certificate(self, csr_pem: bytes, seconds: int, credentials: Token | Pair) -> tuple[str, ...]:
        """The signed chain, leaf first, root last; CaRefusedError or CaUnavailableError."""
        ...

    def roots(self) -> bytes:
        """The roots that the operator gave us, as PEM."""
        ...


class GrpcCertificateAuthority:
    """The authority at `address`, which must prove to be `server_name` under the roots in `roots_file`."""

    def __init__(self, address: str, server_name: str, roots_file: Path) -> None:
        self._address = address
        self._roots_file = roots_file
        self._options = [
            ("grpc.ssl_target_name_override", server_name),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            # The rotation has a backoff of its own; after an outage the connection must not wait for two minutes.
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.max_receive_message_length", 1024 * 1024),
        ]
        self._joining: tuple[bytes, grpc.aio.Channel] | None = None

    async def create_certificate(self, csr_pem: bytes, seconds: int, credentials: Token | Pair) -> tuple[str, ...]:
        """One request. Only the request for a signature goes out: no key, and a token only over verified TLS."""
        request = ca_pb2.IstioCertificateRequest(csr=csr_pem.decode(), validity_duration=seconds)
        metadata = [("authorization", f"Bearer {credentials.text}")] if isinstance(credentials, Token) else []
        try:
            async with self._channel(credentials) as channel:
                stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
                response = await stub.CreateCertificate(request, metadata=metadata, timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            text = f"{error.code().name.lower()}: {error.details()}"
            if error.code() in _REFUSALS:
                raise CaRefusedError(text) from error
            raise CaUnavailableError(text) from error
        except OSError as error:
            raise CaUnavailableError(f"{error.filename}: {error.strerror}") from error
        return tuple(response.cert_chain)

    def roots(self) -> bytes:
        """Read anew each time: the operator may add a root while we run."""
        with self._roots_file.open("rb") as file:
            return file.read(_MAX_ROOTS_BYTES)

    async def close(self) -> None:
        """Close the connection that joins share."""
        if self._joining is not None:
            await self._joining[1].close()
            self._joining = None

    @contextlib.asynccontextmanager
    async def _channel(self, credentials: Token | Pair) -> AsyncIterator[grpc.aio.Channel]:
        """Joins share one connection; a renewal needs one of its own, made with its certificate."""
        roots = self.roots()
        if isinstance(credentials, Pair):
            pair = grpc.ssl_channel_credentials(roots, credentials.key_pem, credentials.chain_pem)
            async with grpc.aio.secure_channel(self._address, pair, options=self._options) as channel:
                yield channel
            return
        if self._joining is None or self._joining[0] != roots:
            # The old connection ends with the last request on it.
            plain = grpc.ssl_channel_credentials(roots)
            self._joining = (roots, grpc.aio.secure_channel(self._address, plain, options=self._options))
        yield self._joining[1]
