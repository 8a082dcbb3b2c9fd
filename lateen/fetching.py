"""Bounded HTTP GETs of what configuration names: key sets, Wasm modules, images."""

import asyncio
import ssl
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx

_MANY_PIECES: Final = 1_000
_LEAST_PIECE: Final = 256
"""Bytes of a piece, on average, once there are many."""
_AT_A_TIME: Final = 50
_SCHEMES: Final = frozenset({"http", "https"})


class FetchError(Exception):
    """Why there is no answer to use."""


class Answer(NamedTuple):
    """What a server said. `body` is empty unless the status is 200."""

    status: int
    headers: httpx.Headers
    body: bytes


def http_client(ca_file: str = "") -> httpx.AsyncClient:
    """A client: no redirects by itself, no environment, a private CA beside the system's when one is given."""
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    limits = httpx.Limits(max_connections=20, max_keepalive_connections=5)
    # What one server is told by another's cookies, or by those of another fetch, is nobody's business.
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(verify=context, follow_redirects=False, trust_env=False, limits=limits, cookies=cookies)


async def get(
    client: httpx.AsyncClient,
    url: str,
    limit: int,
    headers: Mapping[str, str] | None = None,
    *,
    redirects: int,
    upgrades: bool,
) -> Answer:
    """GET at most `limit` bytes. Time is the caller's to bound; httpx's errors pass through.

    Redirects, at most `redirects`, stay within their scheme (or, with `upgrades`, go from HTTP to HTTPS) and take no credentials to
    another host. Raises FetchError.
    """
    wanted = {"accept-encoding": "identity", **(headers or {})}
    for _ in range(redirects + 1):
        answer = await _get(client, url, limit, wanted)
        if isinstance(answer, Answer):
            return answer
        target = urljoin(url, answer)
        before, after = urlsplit(url), urlsplit(target)
        same = after.scheme == before.scheme and after.scheme in _SCHEMES
        if not same and not (upgrades and (before.scheme, after.scheme) == ("http", "https")):
            raise FetchError(f"redirected to another scheme ({after.scheme[:20]})")
        if before.netloc != after.netloc:
            wanted = {name: value for name, value in wanted.items() if name != "authorization"}
        url = target
    raise FetchError(f"more than {redirects} redirects")


async def _get(client: httpx.AsyncClient, url: str, limit: int, headers: Mapping[str, str]) -> Answer | str:
    """The answer, or where to go instead."""
    async with client.stream("GET", url, headers=dict(headers), timeout=None) as response:
        if response.has_redirect_location:
            return str(response.headers["location"])
        if response.status_code != httpx.codes.OK:
            return Answer(response.status_code, response.headers, b"")
        # Compressed bytes could unpack to far more than is counted before they are counted: they are not asked for, and not taken.
        if response.headers.get("content-encoding", "").lower() not in {"", "identity"}:
            raise FetchError("the answer is compressed, which was not asked for")
        body, pieces = bytearray(), 0
        async for chunk in response.aiter_bytes():
            body += chunk
            pieces += 1
            # Each costs 0.1 ms, however small: byte by byte a server could keep us from everything else.
            if pieces > _MANY_PIECES and len(body) < pieces * _LEAST_PIECE:
                raise FetchError("the answer comes in pieces that are too small")
            if pieces % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            if len(body) > limit:
                raise FetchError(f"the answer is larger than {limit} bytes")
        return Answer(response.status_code, response.headers, bytes(body))
