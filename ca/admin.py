"""HTTP for the operator: join tokens and the root on a unix socket only its owner can open; metrics and health also over TCP."""

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ca.authority import Authority
from ca.identity import Identity, IdentityError
from ca.metrics import render_metrics
from ca.root import RootError, check_root
from ca.tokens import MAX_TOKEN_LIFETIME, TooManyTokensError
from lateen.clock import Clock

_MAX_BODY = 16 * 1024
_DEFAULT_TOKEN_SECONDS = 600
_FIELDS = {"namespace", "service_account", "ttl_seconds", "dns_names"}


def public_app(authority: Authority, clock: Clock) -> Starlette:
    """`/metrics`, `/healthz` and the root certificate: nothing that gives power."""
    return Starlette(routes=_public_routes(authority, clock))


def admin_app(authority: Authority, clock: Clock) -> Starlette:
    """The public routes and `POST /v1/tokens`."""

    async def tokens(request: Request) -> Response:
        body = await _bounded_body(request)
        if body is None:
            return _problem(413, f"the body is larger than {_MAX_BODY} bytes")
        try:
            identity, lifetime = parse_token_request(body)
            token = authority.tokens.mint(identity, clock.now(), lifetime)
        except ValueError as error:
            return _problem(422, str(error))
        except TooManyTokensError as error:
            return _problem(429, str(error))
        structlog.get_logger().info(
            "join token minted",
            identity=identity.spiffe_id(authority.trust_domain),
            dns_names=list(identity.dns_names),
            seconds=lifetime.total_seconds(),
        )
        return JSONResponse({"token": token, "identity": identity.spiffe_id(authority.trust_domain)})

    return Starlette(routes=[*_public_routes(authority, clock), Route("/v1/tokens", tokens, methods=["POST"])])


def parse_token_request(body: bytes) -> tuple[Identity, timedelta]:
    """The registration in a token request; ValueError names the field that is wrong."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the body is not JSON") from error
    if not isinstance(fields, dict):
        raise ValueError("the body is not a JSON object")  # noqa: TRY004 - it is a value of the request
    if unknown := fields.keys() - _FIELDS:
        raise ValueError(f"unknown field {min(unknown)!r}, known are {', '.join(sorted(_FIELDS))}")
    names = fields.get("dns_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("dns_names is not a list of names")
    for field in ("namespace", "service_account"):
        if not isinstance(fields.get(field), str):
            raise ValueError(f"{field} is missing or not text")  # noqa: TRY004 - as above
    seconds = fields.get("ttl_seconds", _DEFAULT_TOKEN_SECONDS)
    longest = MAX_TOKEN_LIFETIME.total_seconds()
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= longest:
        raise ValueError(f"ttl_seconds must be a number above 0, at most {longest:.0f}")
    try:
        identity = Identity(fields["namespace"], fields["service_account"], tuple(names))
    except IdentityError as error:
        raise ValueError(str(error)) from error
    return identity, timedelta(seconds=seconds)


def _public_routes(authority: Authority, clock: Clock) -> list[Route]:
    def root(_: Request) -> Response:
        return PlainTextResponse(authority.root.anchor_pem, media_type="application/x-pem-file")

    def metrics(_: Request) -> Response:
        return PlainTextResponse(render_metrics(authority, clock.now()), media_type="text/plain; version=0.0.4")

    def health(_: Request) -> Response:
        try:
            check_root(authority.root, clock.now())
        except RootError as error:
            return _problem(503, str(error))
        return JSONResponse({"status": "ok"})

    return [
        Route("/v1/root", _plain(root)),
        Route("/metrics", _plain(metrics)),
        Route("/healthz", _plain(health)),
        Route("/healthz/ready", _plain(health)),
        Route("/healthz/live", _plain(lambda _: JSONResponse({"status": "ok"}))),
    ]


def _plain(answer: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    """Run in the event loop: starlette would start a thread for a plain function."""

    async def endpoint(request: Request) -> Response:
        return answer(request)

    return endpoint


async def _bounded_body(request: Request) -> bytes | None:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            return None
    return body


def _problem(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status_code=status)


def remove_sockets(*paths: Path) -> None:
    """Take our sockets with us."""
    for path in paths:
        path.unlink(missing_ok=True)
