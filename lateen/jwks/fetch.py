"""One bounded HTTP GET for a key set or a discovery document."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpx

from lateen.jwks.keys import MAX_DOCUMENT_BYTES, JwksError

_MAX_REDIRECTS: Final = 3
_HTTP_OK: Final = 200


def http_client(ca_file: str = "") -> httpx.AsyncClient:
    """A client for key fetching: no redirects by itself, no environment, a private CA beside the system's when one is given."""
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    limits = httpx.Limits(max_connections=20, max_keepalive_connections=5)
    return httpx.AsyncClient(verify=context, follow_redirects=False, trust_env=False, limits=limits)


async def fetch(client: httpx.AsyncClient, url: str, timeout: float) -> bytes:
    """The body at `url`, bounded in size, time and redirects; JwksError says what went wrong."""
    try:
        async with asyncio.timeout(timeout):
            for _ in range(_MAX_REDIRECTS + 1):
                body, location = await _get(client, url)
                if location is None:
                    return body
                url = _redirected(url, location)
    except TimeoutError:
        raise JwksError(f"no answer within {timeout:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
        raise JwksError(f"{type(error).__name__}: {error}") from None
    raise JwksError(f"more than {_MAX_REDIRECTS} redirects")


async def _get(client: httpx.AsyncClient, url: str) -> tuple[bytes, str | None]:
    # Compressed bytes could unpack to far more than is counted before they are counted: they are not asked for, and not taken.
    wanted = {"accept": "application/json", "accept-encoding": "identity"}
    async with client.stream("GET", url, headers=wanted, timeout=None) as response:
        if response.has_redirect_location:
            return b"", response.headers["location"]
        if response.status_code != _HTTP_OK:
            raise JwksError(f"status {response.status_code}")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise JwksError("the answer is compressed, which was not asked for")
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise JwksError(f"the answer is larger than {MAX_DOCUMENT_BYTES} bytes")
        return bytes(body), None


def _redirected(url: str, location: str) -> str:
    target = urljoin(url, location)
    if urlsplit(target).scheme != urlsplit(url).scheme:
        raise JwksError(f"redirected to another scheme ({urlsplit(target).scheme[:20]})")
    return target


async def discover(client: httpx.AsyncClient, issuer: str, timeout: float, overrides: Mapping[str, str]) -> str:
    """The `jwks_uri` that an issuer's OIDC discovery document names."""
    url = issuer.rstrip("/") + "/.well-known/openid-configuration"
    body = await fetch(client, overrides.get(url, url), timeout)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise JwksError(f"the discovery document is not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("jwks_uri"), str):
        raise JwksError("the discovery document names no jwks_uri")
    if document.get("issuer", issuer) != issuer:
        raise JwksError("the discovery document is of another issuer")
    target: str = document["jwks_uri"]
    if urlsplit(target).scheme not in {"http", "https"} or (
        url.startswith("https:") and not target.startswith("https:")
    ):
        raise JwksError("the discovery document names a jwks_uri of another scheme")
    return target
