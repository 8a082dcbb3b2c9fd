"""Serves handlers of `lateen.wire` with grpc.aio."""

import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, cast

import grpc

from lateen.wire.call import Call, RpcError, StatusCode, spiffe_id
from lateen.wire.limits import Limits
from lateen.wire.server import Handler

Credentials = grpc.ServerCredentials
Context = grpc.aio.ServicerContext[bytes, bytes]


class GrpcioServer:
    """A grpc.aio server of the same handlers. Of the limits, sizes and the number of calls hold; the rest is grpcio's own."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        limits: Limits | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """`handlers` by method path; without credentials the server speaks plain text."""
        self._credentials = credentials
        self._limits = limits or Limits()
        self._handlers = dict(handlers)
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str, *, reuse_port: bool = False) -> str:
        """Listen on "host:port" or "unix:/path"; returns the address with the port that was taken."""
        limits = self._limits
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.request_bytes),
                ("grpc.max_send_message_length", limits.response_bytes),
                ("grpc.max_metadata_size", limits.header_list_bytes),
                ("grpc.max_concurrent_streams", limits.concurrent_streams),
                ("grpc.so_reuseport", int(reuse_port)),
                # Proxies may ask often whether the connection still lives (http2KeepAlive of a DestinationRule).
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
            maximum_concurrent_rpcs=limits.calls,
        )
        for path, handler in self._handlers.items():
            _, service, method = path.split("/")
            served: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
                method: grpc.unary_unary_rpc_method_handler(_behaviour(path, handler))
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, served),))
        if self._credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, self._credentials)
        if port == 0:
            raise OSError(f"cannot listen on {address}")
        await self._server.start()
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    async def stop(self, grace_seconds: float) -> None:
        """Take no new calls; those in flight have `grace_seconds`."""
        if self._server is not None:
            await self._server.stop(grace_seconds)


class _Head:
    """The metadata of a call as grpcio gives it."""

    def __init__(self, path: str, context: Context) -> None:
        self.path = path
        self._fields = tuple(context.invocation_metadata() or ())

    def values(self, name: str) -> tuple[str, ...]:
        return tuple(_text(value) for key, value in self._fields if key == name)

    def value(self, name: str) -> str | None:
        values = self.values(name)
        return ",".join(values) if values else None


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _behaviour(path: str, handler: Handler) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def answer(data: bytes, context: Context) -> bytes:
        left = cast("float | None", context.time_remaining())  # the stubs miss that there may be no deadline
        deadline = None if left is None else time.monotonic() + left
        call = Call(0, _Head(path, context), data, deadline, peer_identity(context))

        def done(_: object) -> None:
            call.cancelled = context.cancelled()

        context.add_done_callback(done)  # type: ignore[arg-type]  # the stubs ask for a class of their own
        try:
            found = handler(call, data)
            return await found if inspect.isawaitable(found) else found
        except RpcError as error:
            await context.abort(_CODES[error.code], error.message)

    return answer


_CODES = {StatusCode(code.value[0]): code for code in grpc.StatusCode}


class PeerContext(Protocol):
    """The part of a servicer's context that names the peer."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Properties of the verified peer certificate."""
        ...


def peer_identity(context: PeerContext) -> str | None:
    """The SPIFFE id in the peer's verified certificate; None without one, or if it claims more than one."""
    return spiffe_id([uri.decode("utf-8", "replace") for uri in context.auth_context().get("peer_uri", ())])
