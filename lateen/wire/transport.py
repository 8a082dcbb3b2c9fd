"""Which server carries a service's handlers: ours, or grpcio's with the same behaviour at a multiple of the cost."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Protocol

from prometheus_client import CollectorRegistry

from lateen.wire.grpcio.server import Credentials, GrpcioServer
from lateen.wire.limits import Limits
from lateen.wire.metrics import ServerMetrics
from lateen.wire.server import Handler, Server
from lateen.wire.tls import Material, server_context


class Transport(StrEnum):
    """What `--transport` may say."""

    WIRE = "wire"
    GRPCIO = "grpcio"


TRANSPORT_HELP: Final = "what carries the calls: wire, or grpcio with the same behaviour at a multiple of the cost"


class Identity(Protocol):
    """Where the newest certificate is to be had (`lateen.adsclient.tls.SdsIdentity`)."""

    @property
    def current(self) -> Material:
        """The newest pair."""
        ...

    def server_credentials(self) -> Credentials:
        """The same for grpcio: each handshake uses the newest pair."""
        ...


class RpcServer(Protocol):
    """What both servers can do."""

    async def start(self, address: str, *, reuse_port: bool = False) -> str:
        """Listen on `host:port` or `unix:/path`; returns the address taken. OSError when it is taken already."""
        ...

    async def stop(self, grace_seconds: float) -> None:
        """Take no new calls; those in flight have `grace_seconds`."""
        ...


def rpc_server(
    transport: Transport,
    handlers: Mapping[str, Handler],
    limits: Limits,
    identity: Identity,
    registry: CollectorRegistry | None = None,
) -> RpcServer:
    """A server that requires client certificates of this mesh, not started yet; its own numbers go to `registry`."""
    if transport is Transport.GRPCIO:
        return GrpcioServer(handlers, limits=limits, credentials=identity.server_credentials())
    server = Server(handlers, limits=limits, tls=server_context(lambda: identity.current))
    if registry is not None:
        registry.register(ServerMetrics(server))
    return server
