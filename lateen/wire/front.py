"""The HTTP port of a service that has several workers: asks each of them, and answers for all."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lateen.wire.exposition import MergedMetrics, Scrape

_PATIENCE_SECONDS: Final = 2.0
_HEALTH: Final = frozenset({"/healthz", "/readyz"})
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Running:
    """A worker: its HTTP socket, and how often it was started."""

    socket: Path
    generation: int


def front(workers: Callable[[], Mapping[int, Running]], count: int) -> Starlette:
    """`/metrics` merged; `/healthz` and `/readyz` as bad as the worst worker; any other page from the first worker that has it."""
    merged = MergedMetrics()
    lock = asyncio.Lock()

    async def metrics(_: Request) -> Response:
        async with lock:  # two scrapes at once could merge in the wrong order
            running = dict(workers())
            answers = await _ask(running, "/metrics")
            scrapes = {
                number: Scrape(running[number].generation, answer.text)
                for number, answer in answers.items()
                if answer.status_code == _OK
            }
            return Response(merged.merge(scrapes), media_type="text/plain; version=0.0.4")

    async def page(request: Request) -> Response:
        raw: bytes = request.scope["raw_path"]
        query: bytes = request.scope["query_string"]
        answers = await _ask(dict(workers()), (raw + b"?" + query if query else raw).decode("latin-1"))
        if request.url.path in _HEALTH:
            missing = count - len(answers)
            good = not missing and all(answer.status_code == _OK for answer in answers.values())
            facts = {"missing_workers": missing, "workers": [_facts(answer) for _, answer in sorted(answers.items())]}
            return JSONResponse(facts, status_code=_OK if good else 503)
        if not answers:
            return JSONResponse({"error": "no worker answers"}, status_code=503)
        best = min(answers.values(), key=lambda answer: answer.status_code)
        return Response(best.content, best.status_code, media_type=best.headers.get("content-type"))

    return Starlette(routes=[Route("/metrics", metrics), Route("/{path:path}", page)])


async def _ask(running: Mapping[int, Running], path: str) -> dict[int, httpx.Response]:
    """The answers of the workers that answer."""

    async def ask(socket: Path) -> httpx.Response | None:
        transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False)
        async with httpx.AsyncClient(transport=transport, timeout=_PATIENCE_SECONDS, trust_env=False) as client:
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):  # httpx's own begins anew with every byte
                    return await client.get(f"http://worker{path}")
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
                return None

    answers = await asyncio.gather(*(ask(worker.socket) for worker in running.values()))
    return {number: answer for number, answer in zip(running, answers, strict=True) if answer is not None}


def _facts(answer: httpx.Response) -> object:
    """What a worker says of its health."""
    try:
        return answer.json()
    except ValueError:
        return {"status": answer.status_code}
