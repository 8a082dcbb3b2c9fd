"""The gRPC server (mutual TLS) around `RateLimits`, and the HTTP server for metrics and health. Thin: decode nothing, decide nothing."""

from collections.abc import Awaitable, Callable

import grpc
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lateen.adsclient.tls import peer_identity
from lateen.envoyapi.grpc.health.v1 import health_pb2
from lateen.web import WebServer, web_server
from ratelimit.metrics import Metrics
from ratelimit.service import CallError, RateLimits
from ratelimit.store import CounterStore

TARGET_HEADER = "x-lateen-target"
MAX_REQUEST_BYTES = 256 * 1024
MAX_CONCURRENT_CALLS = 5_000

Context = grpc.aio.ServicerContext[bytes, bytes]


def grpc_server(limits: RateLimits, address: str, credentials: grpc.ServerCredentials) -> grpc.aio.Server:
    """A server for RateLimitService and grpc.health.v1, not started yet."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
    )

    async def should_rate_limit(data: bytes, context: Context) -> bytes:
        try:
            return await limits.should_rate_limit(_target(context), peer_identity(context), data)
        except CallError as error:
            await context.abort(grpc.StatusCode[error.code], str(error))

    async def check_health(_: bytes, __: Context) -> bytes:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()

    _add_unary(server, "envoy.service.ratelimit.v3.RateLimitService", "ShouldRateLimit", should_rate_limit)
    _add_unary(server, "grpc.health.v1.Health", "Check", check_health)
    if server.add_secure_port(address, credentials) == 0:
        raise OSError(f"cannot listen on {address}")
    return server


def _add_unary(
    server: grpc.aio.Server, service: str, method: str, handler: Callable[[bytes, Context], Awaitable[bytes]]
) -> None:
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {method: grpc.unary_unary_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


def _target(context: Context) -> str:
    """The target the proxy's configuration names. Two of them name none: a request header must not be able to add one."""
    targets = [value for key, value in context.invocation_metadata() or () if key == TARGET_HEADER]
    return targets[0] if len(targets) == 1 and isinstance(targets[0], str) else ""


def http_server(metrics: Metrics, store: CounterStore, has_limits: Callable[[], bool]) -> WebServer:
    """`/metrics` for Prometheus; `/healthz` is 200 when limits have arrived and the store answers, else 503 with what is missing."""

    async def healthz(_: Request) -> Response:
        store_up = await store.ready()
        metrics.store_up.set(store_up)
        facts = {"limits": has_limits(), "store": store_up}
        return JSONResponse(facts, status_code=200 if all(facts.values()) else 503)

    async def show_metrics(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    return web_server(Starlette(routes=[Route("/healthz", healthz), Route("/metrics", show_metrics)]))
