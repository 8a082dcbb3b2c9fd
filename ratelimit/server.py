"""The HTTP server for metrics and health."""

from collections.abc import Callable

from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lateen.web import WebServer, web_server
from ratelimit.metrics import Metrics
from ratelimit.store import CounterStore


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
