"""The ADS server: grpc.aio around the sessions. Mutual TLS only; the peer's certificate must be its node's."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import structlog

from lateen.clock import Clock
from lateen.controlplane.authentication import Denied, authorize, peer_of
from lateen.controlplane.connection import Connection
from lateen.controlplane.encoding import encode_delta, encode_sotw, parse_delta, parse_sotw
from lateen.controlplane.metrics import Metrics, label_of
from lateen.controlplane.proxy import Proxy
from lateen.controlplane.push import Pusher
from lateen.controlplane.report import Reporter
from lateen.controlplane.session import DeltaRequest, Limits, Push, Refused, SotwRequest, StreamSession, Style
from lateen.controlplane.typestate import ProtocolViolation
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.mesh.meshconfig import MeshConfig

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_FIRST_REQUEST_SECONDS = 15.0

Parse = Callable[[bytes], tuple[DeltaRequest | SotwRequest, base_pb2.Node]]
# Reading gives bytes, or grpc.aio.EOF at the end.
Context = grpc.aio.ServicerContext[object, bytes]


@dataclass(frozen=True, slots=True)
class Form:
    """One of the two methods of ADS: how its messages are read and written."""

    style: Style
    parse: Parse
    encode: Callable[[Push], bytes]


DELTA = Form(Style.DELTA, parse_delta, encode_delta)
SOTW = Form(Style.SOTW, parse_sotw, encode_sotw)


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of the whole server; `Limits` are those of one stream."""

    streams: int = 5_000
    connection_age_seconds: int = 1_800
    stream: Limits = field(default_factory=Limits)


class AdsServer:
    """Serves ADS, delta and state of the world."""

    def __init__(
        self,
        pusher: Pusher,
        mesh: Callable[[], MeshConfig],
        reporter: Reporter,
        *,
        clock: Clock,
        metrics: Metrics,
        limits: ServerLimits | None = None,
    ) -> None:
        """Prepare; nothing listens before `start`."""
        self._pusher = pusher
        self._mesh = mesh
        self._reporter = reporter
        self._clock = clock
        self._metrics = metrics
        self._limits = limits or ServerLimits()
        self._numbers = itertools.count(1)
        self._open = 0
        self._server: grpc.aio.Server | None = None
        self._log = structlog.get_logger()

    async def start(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """Listen on `address` (port 0: any); returns the port."""
        age = self._limits.connection_age_seconds * 1000
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._limits.stream.message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", 16),
                ("grpc.max_connection_age_ms", age),
                ("grpc.max_connection_age_grace_ms", 10_000),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.so_reuseport", 0),
            ]
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    _SERVICE,
                    {
                        "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(self._handler(DELTA)),
                        "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(self._handler(SOTW)),
                    },
                ),
            )
        )
        port = server.add_secure_port(address, credentials)
        await server.start()
        self._server = server
        return port

    async def stop(self, grace: float) -> None:
        """End all streams, after `grace` seconds by force; proxies keep what they have and dial again."""
        if self._server is not None:
            await self._server.stop(grace)

    def _handler(self, form: Form) -> Callable[[object, Context], object]:
        async def handle(_requests: object, context: Context) -> None:
            await self._serve(form, context)

        return handle

    async def _serve(self, form: Form, context: Context) -> None:
        if self._open >= self._limits.streams:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._limits.streams} streams are open already")
        self._open += 1
        code, reason, connection = grpc.StatusCode.OK, "", None
        try:
            async with asyncio.timeout(_FIRST_REQUEST_SECONDS):
                data = await context.read()
            if not isinstance(data, bytes):
                return
            request, node = form.parse(data)
            connection = self._admit(form, node, context)
            await self._run(form, connection, request, context)
        except Denied as denied:
            code, reason = grpc.StatusCode.PERMISSION_DENIED, str(denied)
        except ProtocolViolation as violation:
            code, reason = grpc.StatusCode.INVALID_ARGUMENT, str(violation)
        except TimeoutError:
            code, reason = grpc.StatusCode.DEADLINE_EXCEEDED, "no request came"
        finally:
            self._open -= 1
            if connection is not None:
                self._pusher.detach(connection)
                self._reporter.closed(connection, reason)
        if code is not grpc.StatusCode.OK:
            self._metrics.denied.inc()
            self._log.warning("ads stream refused", peer=context.peer(), reason=reason)
            await context.abort(code, reason)

    def _admit(self, form: Form, node: base_pb2.Node, context: Context) -> Connection:
        peer = peer_of(context.auth_context())
        try:
            proxy = Proxy.from_node(node)
        except ValueError as error:
            raise ProtocolViolation(str(error)) from error
        mesh = self._mesh()
        types = authorize(peer, proxy, (mesh.trust_domain, *mesh.trust_domain_aliases), mesh.root_namespace)
        session = StreamSession(form.style, self._limits.stream)
        return Connection(next(self._numbers), proxy, peer, types, session, self._clock.now())

    async def _run(
        self, form: Form, connection: Connection, first: DeltaRequest | SotwRequest, context: Context
    ) -> None:
        self._take(connection, first)
        self._reporter.opened(connection)
        writer = asyncio.create_task(self._write(form, connection, context))
        reader = asyncio.create_task(self._read(form, connection, context))
        attach = asyncio.create_task(self._pusher.attach(connection))
        tasks = {writer, reader}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (*tasks, attach):
                task.cancel()
            ends = await asyncio.gather(*tasks, attach, return_exceptions=True)
            if isinstance(ends[-1], Exception):
                self._log.error("a stream got no snapshot", proxy=connection.proxy.id, exc_info=ends[-1])

    async def _read(self, form: Form, connection: Connection, context: Context) -> None:
        """Take requests until the client ends the stream."""
        while isinstance(data := await context.read(), bytes):
            request, _ = form.parse(data)
            self._take(connection, request)
            self._pusher.acknowledged(connection)

    def _take(self, connection: Connection, request: DeltaRequest | SotwRequest) -> None:
        if request.type_url not in connection.types and self._reporter.known(request.type_url):
            raise Denied(f"{connection.peer} may not have {request.type_url}")
        for event in connection.session.on_request(request, self._clock.monotonic()):
            self._reporter.on_event(connection, event)
            if isinstance(event, Refused):
                self._pusher.refused(event)
        connection.wake.set()

    async def _write(self, form: Form, connection: Connection, context: Context) -> None:
        """Send whatever is newest, one response at a time: a stalled client holds back only itself."""
        session, clock = connection.session, self._clock
        while True:
            connection.wake.clear()
            if connection.close_reason:
                raise Denied(connection.close_reason)
            now = clock.monotonic()
            while (push := session.next_push(now)) is not None:
                data = form.encode(push)
                label = label_of(push.type_url)
                self._metrics.pushes.labels(label).inc()
                self._metrics.size.labels(label).observe(len(data))
                await context.write(data)
                now = clock.monotonic()
            wake_at = session.wake_at(now)  # of the same moment: what became due in between would never be sent
            if wake_at is None:
                await connection.wake.wait()
                continue
            try:
                async with asyncio.timeout(max(0.0, wake_at - clock.monotonic())):
                    await connection.wake.wait()
            except TimeoutError:
                continue
