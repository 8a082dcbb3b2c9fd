"""The apply API: JSON over HTTP on a unix socket of mode 0600, and the metrics endpoint's two pages."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import lateen
from lateen.clock import Clock
from lateen.controlplane.configuration import Configuration, Conflict
from lateen.controlplane.events import Events, TooManyListeners
from lateen.controlplane.inventory import Item, Origin
from lateen.controlplane.metrics import Metrics
from lateen.controlplane.plugin_findings import plugin_findings
from lateen.controlplane.plugin_keeper import PluginKeeper
from lateen.controlplane.push import Pusher
from lateen.controlplane.status import proxy_status, snapshot_json, update_gauges
from lateen.mesh.diagnostics import Diagnostic
from lateen.mesh.kinds import KindInfo, ResourceKey, find_kind
from lateen.mesh.loader import load_text

MAX_BODY_BYTES = 8 * 1024 * 1024


class Api:
    """The handlers; everything they know is given by main."""

    def __init__(
        self,
        configuration: Configuration,
        pusher: Pusher,
        events: Events,
        clock: Clock,
        *,
        keys: Callable[[], Mapping[str, Any]],
        plugins: PluginKeeper,
    ) -> None:
        """Prepare; `app` is what a server runs."""
        self._configuration = configuration
        self._pusher = pusher
        self._events = events
        self._clock = clock
        self._keys = keys
        self._plugins = plugins
        self._one_change_at_a_time = asyncio.Lock()

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/resources", self.resources),
                Route("/v1/resources/{kind}/{namespace}/{name}", self.resource, methods=["GET", "DELETE"]),
                Route("/v1/apply", self.apply, methods=["POST"]),
                Route("/v1/proxies", self.proxies),
                Route("/v1/proxies/{proxy}/config", self.proxy_config),
                Route("/v1/diagnostics", self.diagnostics),
                Route("/v1/info", self.info),
                Route("/v1/keys", self.keys),
                Route("/v1/plugins", self.plugins),
                Route("/v1/events", self.events),
            ],
            exception_handlers={HTTPException: _http_error, Exception: _our_bug},
        )

    async def resources(self, request: Request) -> Response:
        """GET /v1/resources?kind&namespace."""
        word, namespace = request.query_params.get("kind"), request.query_params.get("namespace")
        kind = _kind(word).id if word else None
        items = [
            item
            for item in self._configuration.inventory.items()
            if kind in (None, item.located.resource.key.kind)
            and namespace in (None, "", item.located.resource.key.namespace)
        ]
        return await asyncio.to_thread(lambda: JSONResponse({"items": [self._item(item) for item in items]}))

    async def resource(self, request: Request) -> Response:
        """GET and DELETE /v1/resources/{kind}/{namespace}/{name}."""
        info = _kind(request.path_params["kind"])
        namespace = request.path_params["namespace"] if info.namespaced else ""
        key = ResourceKey(info.id, namespace, request.path_params["name"])
        if request.method == "GET":
            item = self._configuration.inventory.get(key)
            return JSONResponse(self._item(item)) if item is not None else _error(404, f"{key} does not exist")
        async with self._one_change_at_a_time:
            try:
                found = self._configuration.delete(key, _origin(request))
            except Conflict as conflict:
                return _error(409, f"{key} {conflict}")
            await asyncio.to_thread(self._configuration.save)
        return JSONResponse({"deleted": str(key)}) if found else _error(404, f"{key} does not exist")

    def _item(self, item: Item) -> dict[str, Any]:
        """A resource, and of a plugin how it stands with it."""
        state = self._plugins.states.get(item.located.resource.key)
        return _item(item) | ({"status": state.to_dict()} if state is not None else {})

    async def apply(self, request: Request) -> Response:
        """POST /v1/apply?origin=api&file=NAME with YAML."""
        origin = _origin(request)
        body = await _body(request)
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return _error(400, f"the body is not UTF-8 text (byte {error.start})")
        file = request.query_params.get("file", "request")[:4096]
        async with self._one_change_at_a_time:
            loaded = await asyncio.to_thread(load_text, text, file)
            applied = self._configuration.apply(loaded, origin)
            await asyncio.to_thread(self._configuration.save)
        diagnostics = [d.to_dict() for d in applied.diagnostics]
        if applied.refused:
            self._events.publish("config", accepted=False, files=[file], diagnostics=diagnostics)
            return JSONResponse({"diagnostics": diagnostics}, 422)
        self._events.publish("config", accepted=True, files=[file], diagnostics=diagnostics)
        results = [{"resource": str(key), "action": action} for key, action in applied.results]
        return JSONResponse({"results": results, "diagnostics": diagnostics})

    async def proxies(self, _request: Request) -> Response:
        """GET /v1/proxies."""
        now, view = self._clock.monotonic(), self._pusher.view
        connections = sorted(self._pusher.connections.values(), key=lambda c: (c.proxy.namespace, c.proxy.name))
        return JSONResponse(
            {
                "proxies": [
                    proxy_status(
                        c, view, now, self._pusher.quarantine.refusals, self._plugins.states, behind=self._pusher.behind
                    )
                    for c in connections
                ]
            }
        )

    async def proxy_config(self, request: Request) -> Response:
        """GET /v1/proxies/{name.namespace}/config."""
        wanted = request.path_params["proxy"]
        for connection in self._pusher.connections.values():
            proxy = connection.proxy
            if wanted == f"{proxy.name}.{proxy.namespace}" and connection.snapshot is not None:
                return JSONResponse(await asyncio.to_thread(snapshot_json, connection.snapshot))
        return _error(404, f"{wanted} is not connected, or has no configuration yet")

    async def diagnostics(self, _request: Request) -> Response:
        """GET /v1/diagnostics: files, references, and what could not be translated."""
        found: Iterable[Diagnostic] = (
            *self._configuration.file_diagnostics,
            *await self._pusher.analysis(),
            *self._pusher.quarantine.findings(),
            *(d for c in self._pusher.connections.values() if c.snapshot is not None for d in c.snapshot.diagnostics),
        )
        unique = list(dict.fromkeys(found))
        self._configuration.count_diagnostics(unique)
        problems = [{"resource": name, "message": error} for name, error in self._pusher.view_errors.items()]
        return JSONResponse({"diagnostics": [d.to_dict() for d in unique], "internal_errors": problems})

    async def info(self, _request: Request) -> Response:
        """GET /v1/info."""
        mesh = self._configuration.mesh
        values = mesh.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return JSONResponse({"version": lateen.__version__, "trust_domain": mesh.trust_domain, "mesh": values})

    async def keys(self, _request: Request) -> Response:
        """GET /v1/keys: the keys that proxies verify tokens with, as `/v1/keys` of ext_authz shows its own."""
        return JSONResponse(self._keys())

    async def plugins(self, _request: Request) -> Response:
        """GET /v1/plugins: what each WasmPlugin and TrafficExtension runs, and why and by which line not something else."""
        states, view = self._plugins.states.values(), self._pusher.view
        blamed = {} if view is None else {found.resource: found for found in plugin_findings(view, states)}
        entries = []
        for state in states:
            found = blamed.get(str(state.key))
            position = f"{found.file}:{found.line}:{found.column}" if found is not None and found.file else ""
            entries.append({**state.to_dict(), "code": found.code if found is not None else "", "position": position})
        return JSONResponse({"plugins": entries})

    async def events(self, _request: Request) -> Response:
        """GET /v1/events: JSON lines, live."""
        try:
            context = self._events.listen()
            listener = context.__enter__()
        except TooManyListeners:
            return _error(503, "too many listen already")

        async def lines() -> AsyncIterator[bytes]:
            try:
                yield b'{"event":"listening"}\n'
                async for event in listener:
                    yield json.dumps(event, default=str).encode() + b"\n"
            finally:
                context.__exit__(None, None, None)

        return StreamingResponse(lines(), media_type="application/x-ndjson")


def monitoring_app(metrics: Metrics, pusher: Pusher, ready: Callable[[], bool]) -> Starlette:
    """`/metrics`, `/healthz` (liveness) and `/readyz`."""

    async def render(_request: Request) -> Response:
        update_gauges(metrics, pusher.connections.values())
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        return PlainTextResponse("ready\n") if ready() else PlainTextResponse("not ready\n", 503)

    return Starlette(
        routes=[
            Route("/metrics", render),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/ready", readyz),
        ]
    )


async def _body(request: Request) -> bytes:
    """The body, as long as it is not larger than we accept."""
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB")
            parts.append(part)
    except ClientDisconnect as gone:
        raise HTTPException(400, "the client has gone") from gone
    return b"".join(parts)


def _kind(word: str) -> KindInfo:
    info = find_kind(word)
    if info is None:
        raise HTTPException(400, f"unknown kind {word!r}")
    return info


def _origin(request: Request) -> Origin:
    word = request.query_params.get("origin", Origin.API.value)
    if word not in (Origin.API, Origin.RUNNER, Origin.OVERLAY):
        raise HTTPException(400, f"unknown origin {word!r}: use api, runner or overlay")
    return Origin(word)


def _item(item: Item) -> dict[str, Any]:
    located = item.located
    source = {"file": located.source.file, "line": located.source.position(()).line}
    resource = located.resource.to_dict()
    namespace = located.resource.key.namespace
    if namespace:  # also where the manifest leaves it to the default
        resource["metadata"] = {**resource["metadata"], "namespace": namespace}
    return {"resource": resource, "source": source, "origin": item.origin.value}


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


async def _http_error(_request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _error(error.status_code, str(error.detail))
    return _error(500, "internal error")


async def _our_bug(_request: Request, error: Exception) -> Response:
    return _error(500, f"internal error: {type(error).__name__}")
