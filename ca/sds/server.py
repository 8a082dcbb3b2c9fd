"""Envoy's SecretDiscoveryService over grpc.aio on a unix socket: a pump around the sessions."""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterable, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc
import structlog

from ca.sds.files import FileSecretError, FileSecrets, is_file_secret
from ca.sds.secrets import SecretTable
from ca.sds.session import DeltaSession, ProtocolError, Rejected, WorldSession
from lateen.envoyapi.envoy.service.discovery.v3 import discovery_pb2
from lateen.envoyapi.envoy.service.secret.v3 import sds_pb2_grpc

_OPTIONS = (
    ("grpc.max_receive_message_length", 256 * 1024),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_FILE_POLL_SECONDS = 1.0
_MAX_FILE_SECRETS = 256

Context = grpc.aio.ServicerContext[Any, Any]
_RequestT = TypeVar("_RequestT", contravariant=True)  # noqa: PLC0105 - its use shows the variance
_ResponseT = TypeVar("_ResponseT", covariant=True)  # noqa: PLC0105 - as above


class _Session(Protocol[_RequestT, _ResponseT]):
    """What the pump needs of a session."""

    rejected: Rejected | None

    @property
    def names(self) -> tuple[str, ...]: ...

    def on_request(self, request: _RequestT, /) -> _ResponseT | None: ...

    def on_change(self) -> _ResponseT | None: ...


class SecretService(sds_pb2_grpc.SecretDiscoveryServiceServicer):
    """Serves one table; `owner` names it in logs."""

    def __init__(self, table: SecretTable, files: FileSecrets | None = None, owner: str = "") -> None:
        self._table = table
        self._files = files or FileSecrets()
        self._log = structlog.get_logger().bind(proxy=owner)
        self._signatures: dict[str, object] = {}

    async def StreamSecrets(self, request_iterator: AsyncIterable[Any], context: Context) -> None:
        """State of the world."""
        await self._pump(WorldSession(self._table), request_iterator, context)

    async def DeltaSecrets(self, request_iterator: AsyncIterable[Any], context: Context) -> None:
        """Delta."""
        await self._pump(DeltaSession(self._table), request_iterator, context)

    async def FetchSecrets(
        self, request: discovery_pb2.DiscoveryRequest, context: Context
    ) -> discovery_pb2.DiscoveryResponse:
        """One answer; NOT_FOUND while a wanted secret does not exist."""
        try:
            self._load_files(tuple(request.resource_names))
            answer = WorldSession(self._table).on_request(request)
        except ProtocolError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if answer is None or len(answer.resources) < len(set(request.resource_names)):
            await context.abort(grpc.StatusCode.NOT_FOUND, "a wanted secret does not exist yet")
        return answer

    async def _pump(
        self, session: _Session[_RequestT, _ResponseT], requests: AsyncIterable[_RequestT], context: Context
    ) -> None:
        changed, turn = asyncio.Event(), asyncio.Lock()

        async def answer(make: Callable[[], _ResponseT | None]) -> None:
            # One at a time, so that nonces go out in order.
            async with turn:
                response = make()
                if response is not None:
                    await context.write(response)

        stop_listening = self._table.listen(changed.set)
        pushes = asyncio.create_task(self._push(session, changed, answer))
        try:
            async for request in requests:
                await answer(lambda request=request: session.on_request(request))  # type: ignore[misc]
                if session.rejected is not None:
                    self._log.warning("secret refused", names=session.rejected.names, error=session.rejected.error)
                if any(map(is_file_secret, session.names)):
                    self._load_files(session.names)
                    changed.set()
        except ProtocolError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            stop_listening()
            pushes.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pushes

    async def _push(
        self,
        session: _Session[_RequestT, _ResponseT],
        changed: asyncio.Event,
        answer: Callable[[Callable[[], _ResponseT | None]], Awaitable[None]],
    ) -> None:
        """Send what changes; a session that wants files looks at them once a second."""
        while True:
            files = any(map(is_file_secret, session.names))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _FILE_POLL_SECONDS if files else None)
            changed.clear()
            self._load_files(session.names)
            await answer(session.on_change)

    def _load_files(self, names: tuple[str, ...]) -> bool:
        """Put wanted file secrets that changed into the table; a file that went bad leaves the last good one."""
        loaded = False
        for name in filter(is_file_secret, names):
            signature = self._files.signature(name)
            if name in self._signatures and self._signatures[name] == signature:
                continue
            if len(self._signatures) >= _MAX_FILE_SECRETS:
                self._signatures.clear()
            self._signatures[name] = signature
            try:
                loaded |= self._table.put(name, self._files.load(name))
            except FileSecretError as error:
                self._log.warning("file secret cannot be served", name=name[:200], reason=str(error))
        return loaded


class SdsServer:
    """A secret service on a unix socket that only one user can open: `owner` (which takes root), or ours."""

    def __init__(self, service: SecretService, socket: Path, owner: int | None = None) -> None:
        self._socket = socket
        self._owner = owner
        self._server = grpc.aio.server(options=_OPTIONS)
        sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(service, self._server)

    async def start(self) -> None:
        """Listen, in place of a socket that a dead process left; OSError if the path cannot be used."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self._socket.lstat().st_mode):
                raise FileExistsError(f"{self._socket} exists and is not a socket")
            self._socket.unlink()
        before = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{self._socket}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._socket}: is the path longer than 107 bytes") from error
        finally:
            os.umask(before)
        if self._owner is not None:
            os.chown(self._socket, self._owner, -1)
        await self._server.start()

    async def stop(self, grace: float = 0.2) -> None:
        """End every stream and remove the socket."""
        await self._server.stop(grace)
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
