"""The HTTP server for metrics, health and denials."""

from collections.abc import Callable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from extauthz.denials import Denials, render_denial
from extauthz.handlers import Health
from extauthz.metrics import Metrics
from lateen.web import WebServer, web_server


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
