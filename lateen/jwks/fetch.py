"""A key set or a discovery document, fetched."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx

from lateen.fetching import FetchError, get
from lateen.jwks.keys import MAX_DOCUMENT_BYTES, JwksError

_MAX_REDIRECTS: Final = 3


async def fetch(client: httpx.AsyncClient, url: str, timeout: float) -> bytes:
    """The body at `url`, bounded in size, time and redirects; JwksError says what went wrong."""
    accept = {"accept": "application/json"}
    try:
        async with asyncio.timeout(timeout):
            answer = await get(client, url, MAX_DOCUMENT_BYTES, accept, redirects=_MAX_REDIRECTS, upgrades=False)
    except TimeoutError:
        raise JwksError(f"no answer within {timeout:g} s") from None
    except FetchError as error:
        raise JwksError(str(error)) from None
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
        raise JwksError(f"{type(error).__name__}: {error}") from None
    if answer.status != httpx.codes.OK:
        raise JwksError(f"status {answer.status}")
    return answer.body


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
