"""`istio.v1.auth.IstioCertificateService` over grpc.aio: decodes, asks the authority, encodes."""

import os
from pathlib import Path
from typing import Any, NoReturn

import grpc
import structlog

from ca.authority import Authority, Credentials, Refusal, RefusedError
from ca.failures import FailureLog
from ca.front import UnknownPeerError, Verify
from lateen.clock import Clock
from lateen.envoyapi.istio.v1.auth import ca_pb2, ca_pb2_grpc

_BEARER = "bearer "
_MAX_REQUEST_BYTES = 64 * 1024
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.max_connection_idle_ms", 60_000),
    ("grpc.so_reuseport", 0),
)
_CODES = {
    Refusal.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Refusal.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}

Context = grpc.aio.ServicerContext[Any, Any]


class CertificateService(ca_pb2_grpc.IstioCertificateServiceServicer):
    """One authority, served."""

    def __init__(self, authority: Authority, peer_certificate: Verify, clock: Clock) -> None:
        self._authority = authority
        self._peer_certificate = peer_certificate
        self._clock = clock
        self._failures = FailureLog(clock)
        self._log = structlog.get_logger()

    async def CreateCertificate(
        self, request: ca_pb2.IstioCertificateRequest, context: Context
    ) -> ca_pb2.IstioCertificateResponse:
        """Sign the request for whom the token or the connection's certificate names."""
        try:
            certificate = self._peer_certificate(context.peer())
        except UnknownPeerError:
            await self._refuse(
                context, RefusedError(Refusal.UNAUTHENTICATED, "connect through the authority's TLS port")
            )
        credentials = Credentials(token=bearer_token(context.invocation_metadata()), peer_certificate=certificate)
        try:
            issued = self._authority.create_certificate(
                request.csr.encode(), request.validity_duration, credentials, self._clock.now()
            )
        except RefusedError as refused:
            await self._refuse(context, refused)
        self._log.info(
            "certificate issued",
            identity=issued.identity,
            serial=issued.serial,
            not_after=issued.not_after.isoformat(),
            renewal=issued.renewal,
        )
        return ca_pb2.IstioCertificateResponse(cert_chain=issued.chain)

    async def _refuse(self, context: Context, refused: RefusedError) -> NoReturn:
        self._failures.warning("certificate refused", kind=refused.kind.value, reason=refused.reason)
        await context.abort(_CODES[refused.kind], refused.reason)


def bearer_token(metadata: Any) -> str | None:  # noqa: ANN401 - gRPC's metadata type is not exported
    """The token of `authorization: Bearer TOKEN`."""
    for key, value in metadata or ():
        if key == "authorization" and isinstance(value, str) and value[: len(_BEARER)].lower() == _BEARER:
            return value[len(_BEARER) :].strip() or None
    return None


def grpc_server(service: CertificateService, socket: Path) -> grpc.aio.Server:
    """A server behind the front's unix socket, which only this user can open."""
    server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=512)
    ca_pb2_grpc.add_IstioCertificateServiceServicer_to_server(service, server)
    socket.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        raise OSError(f"cannot listen on {socket}: is the path longer than 107 bytes") from error
    finally:
        os.umask(before)
    return server
