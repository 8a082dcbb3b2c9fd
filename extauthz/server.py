"""The gRPC server (mutual TLS) around `Checker`, and the HTTP server for metrics, health and denials. Thin: nothing is decided here."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from extauthz.check import TARGET_HEADER, Checker
from extauthz.denials import Denials, render_denial
from extauthz.metrics import Metrics
from lateen.adsclient.tls import peer_identity
from lateen.envoyapi.grpc.health.v1 import health_pb2
from lateen.web import WebServer, web_server

MAX_REQUEST_BYTES: Final = 8 * 1024 * 1024
MAX_CONCURRENT_CALLS: Final = 2_000
_MAX_METADATA_BYTES: Final = 16 * 1024

Context = grpc.aio.ServicerContext[bytes, bytes]


class Health:
    """Whether this replica wants to be asked: not before policies arrived, not while it drains."""

    def __init__(self, has_policies: Callable[[], bool]) -> None:
        """`has_policies` says whether the control plane was ever heard."""
        self._has_policies = has_policies
        self.draining = False

    def ready(self) -> bool:
        """Ready to decide."""
        return self._has_policies() and not self.draining


def grpc_server(checker: Checker, health: Health, address: str, credentials: grpc.ServerCredentials) -> grpc.aio.Server:
    """A server for Authorization and grpc.health.v1, not started yet. Over its limits calls fail, and the proxies deny."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
            ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
            ("grpc.so_reuseport", 0),
            # Proxies may ask often whether the connection still lives (http2KeepAlive of a DestinationRule).
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
        maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
    )

    async def check(data: bytes, context: Context) -> bytes:
        return await checker.check(_target(context), peer_identity(context) or "", data)

    async def check_health(_: bytes, __: Context) -> bytes:
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if health.ready() else health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status).SerializeToString()

    _add_unary(server, "envoy.service.auth.v3.Authorization", "Check", check)
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


def http_server(
    metrics: Metrics,
    denials: Denials,
    health: Health,
    problems: Callable[[], Mapping[str, str]],
    keys: Callable[[], Mapping[str, object]],
) -> WebServer:
    """`/metrics`, `/healthz` (alive), `/readyz` (503 with what is missing), `/v1/denials/ID` and `/v1/keys`."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(_: Request) -> Response:
        facts = {"ready": health.ready(), "draining": health.draining, "broken_policies": dict(problems())}
        return JSONResponse(facts, status_code=200 if health.ready() else 503)

    async def show_metrics(_: Request) -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4")

    async def show_denial(request: Request) -> Response:
        denial = denials.get(request.path_params["id"])
        if denial is None:
            return JSONResponse(
                {"error": "no such denial: it is too old, or another replica decided it"}, status_code=404
            )
        return JSONResponse(render_denial(denial))

    async def show_keys(_: Request) -> Response:
        return JSONResponse(keys())

    routes = [
        Route("/v1/keys", show_keys),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", show_metrics),
        Route("/v1/denials/{id}", show_denial),
    ]
    return web_server(Starlette(routes=routes))
