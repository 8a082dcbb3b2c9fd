"""One bounded fetch of a module: from a file, a web address or a registry."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from lateen import fetching
from lateen.controlplane.wasm_url import DigestError, ModuleError, ModuleUrl
from lateen.fetching import Answer

MAX_MODULE_BYTES: Final = 64 * 1024 * 1024
_MAX_REDIRECTS: Final = 5


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What one fetch may cost."""

    module_bytes: int = MAX_MODULE_BYTES
    seconds: float = 120.0


class Credentials(NamedTuple):
    """For one registry."""

    user: str
    password: str


async def get(client: httpx.AsyncClient, url: str, limit: int, headers: Mapping[str, str] | None = None) -> Answer:
    """GET a module, or what leads to one; ModuleError."""
    try:
        return await fetching.get(client, url, limit, headers, redirects=_MAX_REDIRECTS, upgrades=True)
    except fetching.FetchError as error:
        raise ModuleError(str(error)) from None


class Fetcher:
    """Fetches modules; each fetch is bounded in time and size, and raises ModuleError when there is no module."""

    def __init__(self, client: httpx.AsyncClient, limits: FetchLimits | None = None) -> None:
        """`client` is the caller's to close."""
        self._client = client
        self._limits = limits or FetchLimits()

    async def fetch(self, url: ModuleUrl, credentials: Credentials | None = None) -> bytes:
        """The bytes of the module, as the author's sha256 has them."""
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await self._fetch(url, credentials)
        except TimeoutError:
            raise ModuleError(f"no module within {self._limits.seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            raise ModuleError(_said(error)) from None
        except OSError as error:
            raise ModuleError(error.strerror or str(error)) from None

    async def _fetch(self, url: ModuleUrl, credentials: Credentials | None) -> bytes:
        from lateen.controlplane.wasm_oci import pull  # noqa: PLC0415 - most meshes have no image

        limit = self._limits.module_bytes
        if url.image is not None:
            return await pull(self._client, url.image, url.sha256, credentials, limit)
        if url.kind == "file":
            data = await asyncio.to_thread(_read, Path(url.url), limit)
        else:
            answer = await get(self._client, url.url, limit)
            if answer.status != httpx.codes.OK:
                raise ModuleError(f"the server answers {answer.status}")
            data = answer.body
        await asyncio.to_thread(check_digest, data, url.sha256)
        return data


def check_digest(data: bytes, wanted: str) -> str:
    """The sha256 of `data`; DigestError when another one is wanted."""
    digest = hashlib.sha256(data).hexdigest()
    if wanted and digest != wanted:
        raise DigestError(f"its sha256 is {digest}, not {wanted}")
    return digest


def _read(path: Path, limit: int) -> bytes:
    if not path.is_file():
        raise ModuleError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ModuleError(f"it is larger than {limit} bytes")
    return data


def _said(error: Exception) -> str:
    """What went wrong on the wire; connection errors say nothing but their class when the cause is hidden."""
    text = str(error) or str(error.__cause__ or "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
