"""Certificates of our own services: a secret discovery client over the agent's unix socket, and gRPC credentials that follow it.

The agent makes the key, has it certified and rotates it; here the newest pair is held in memory, so that servers present it at
the next handshake and clients at the next dial, without a restart. While the agent is away the last pair stays in use.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import grpc
import structlog
from google.protobuf.message import DecodeError

from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from lateen.envoyapi.envoy.service.discovery.v3 import discovery_pb2
from lateen.envoyapi.envoy.service.secret.v3 import sds_pb2_grpc

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type, not a secret
CERTIFICATE = "default"
ROOTS = "ROOTCA"
_RETRY_SECONDS = (0.1, 5.0)
_INVALID_ARGUMENT = 3
_NODE = base_pb2.Node(id="lateen-service", cluster="lateen-service")


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """One certificate chain (leaf first), its key and the roots that peers must chain to, as PEM."""

    cert_chain_pem: bytes
    key_pem: bytes
    roots_pem: bytes

    def __repr__(self) -> str:
        """Say nothing of the key."""
        return f"TlsMaterial({len(self.cert_chain_pem)} bytes of certificates)"


class SdsIdentity:
    """The identity the agent serves on `socket`, kept current from `start` to `close` (or within `async with`).

    Any method but `start` may be called from anywhere in the same event loop; `server_credentials` and `channel_credentials`
    need an identity, so call them after `wait_ready`.
    """

    def __init__(self, socket: str | Path) -> None:
        """Prepare a client of the agent's unix socket at path `socket`; nothing is dialled before `start`."""
        self._target = f"unix:{Path(socket).absolute()}"
        self._material: TlsMaterial | None = None
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger().bind(sds=self._target)

    @property
    def current(self) -> TlsMaterial:
        """The newest pair; raises LookupError before the first one."""
        if self._material is None:
            raise LookupError(
                f"no certificate yet from {self._target}: is the agent running, and was its join token good"
            )
        return self._material

    @property
    def ready(self) -> bool:
        """Whether a certificate is held."""
        return self._material is not None

    def start(self) -> None:
        """Begin to follow the agent, in a task of its own."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="sds-identity")

    async def wait_ready(self) -> None:
        """Return once a certificate and the roots are held; starts the client if nobody did."""
        self.start()
        await self._ready.wait()

    async def close(self) -> None:
        """Stop following; what is held stays usable."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def __aenter__(self) -> Self:
        """Start, and wait for the first certificate."""
        await self.wait_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of a server that requires client certificates of this mesh; each handshake uses the newest pair."""
        served: TlsMaterial | None = None

        def newest() -> grpc.ServerCertificateConfiguration | None:
            nonlocal served
            if self.current is served:
                return None
            served = self.current
            return _server_configuration(served)

        served = self.current
        return grpc.dynamic_ssl_server_credentials(
            _server_configuration(served),
            newest,  # type: ignore[arg-type]  # the stubs miss that None means unchanged
            require_client_authentication=True,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of the pair held now: take new ones for each dial.

        The server's name must be checked with the channel option `grpc.ssl_target_name_override`, set to
        `<service account>.<namespace>.svc`.
        """
        held = self.current
        return grpc.ssl_channel_credentials(held.roots_pem, held.key_pem, held.cert_chain_pem)

    async def _run(self) -> None:
        low, high = _RETRY_SECONDS
        delay = low
        while True:
            received = False
            try:
                async for material in self._follow():
                    self._accept(material)
                    received = True
                reason = "closed by the agent"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name.lower()}: {error.details()}"
            delay = low if received else min(high, delay * 2)
            level = self._log.warning if self.ready else self._log.info
            level("sds stream ended, keeping the certificate held", reason=reason, retry_in=round(delay, 2))
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret

    def _accept(self, material: TlsMaterial) -> None:
        if material != self._material:
            self._log.info("certificate taken over", renewed=self.ready)
        self._material = material
        self._ready.set()

    async def _follow(self) -> AsyncIterator[TlsMaterial]:
        """One stream: yields each complete pair, acknowledging what is well formed."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._target, options=options) as channel:
            call = sds_pb2_grpc.SecretDiscoveryServiceStub(channel).StreamSecrets()
            request = discovery_pb2.DiscoveryRequest(
                node=_NODE, type_url=SECRET_TYPE, resource_names=[CERTIFICATE, ROOTS]
            )
            await call.write(request)
            secrets: dict[str, secret_pb2.Secret] = {}
            version = ""
            async for response in call:
                answer = discovery_pb2.DiscoveryRequest(
                    type_url=SECRET_TYPE, resource_names=[CERTIFICATE, ROOTS], response_nonce=response.nonce
                )
                try:
                    secrets |= {secret.name: secret for secret in map(_secret, response.resources)}
                    material = _material(secrets)
                    version = response.version_info
                except ValueError as error:
                    answer.error_detail.code = _INVALID_ARGUMENT
                    answer.error_detail.message = str(error)
                    material = None
                answer.version_info = version
                await call.write(answer)
                if material is not None:
                    yield material


class _Packed(Protocol):
    """The part of google.protobuf.Any that is read."""

    type_url: str
    value: bytes


def _secret(packed: _Packed) -> secret_pb2.Secret:
    if packed.type_url != SECRET_TYPE:
        raise ValueError(f"expected a secret, got {packed.type_url}")
    try:
        return secret_pb2.Secret.FromString(packed.value)
    except DecodeError as error:
        raise ValueError("the secret cannot be decoded") from error


def _material(secrets: Mapping[str, secret_pb2.Secret]) -> TlsMaterial | None:
    """Join the two secrets; None while one is still to come, ValueError if one is not usable."""
    if CERTIFICATE not in secrets or ROOTS not in secrets:
        return None
    pair = secrets[CERTIFICATE].tls_certificate
    material = TlsMaterial(
        cert_chain_pem=pair.certificate_chain.inline_bytes,
        key_pem=pair.private_key.inline_bytes,
        roots_pem=secrets[ROOTS].validation_context.trusted_ca.inline_bytes,
    )
    if not (material.cert_chain_pem and material.key_pem and material.roots_pem):
        raise ValueError("the secret holds no inline certificate, key or roots")
    return material


def _server_configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key_pem, material.cert_chain_pem)], root_certificates=material.roots_pem
    )
