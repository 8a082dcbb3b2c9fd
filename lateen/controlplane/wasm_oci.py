"""Modules in OCI registries (OCI distribution specification 1.1, Docker registry API v2), in whatever layout they were pushed.

Tools disagree about how a module lies in an image: as a layer of its own under one of several media types, with or without a
configuration layer, or as `plugin.wasm` in a tar+gzip layer. Here any image will do that holds exactly one module.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from lateen.controlplane.wasm_fetch import Credentials, check_digest, get
from lateen.controlplane.wasm_url import DEFAULT_REGISTRY, DigestError, Image, ModuleError
from lateen.fetching import Answer

_DOCKER_HUB: Final = "registry-1.docker.io"
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MAX_MANIFEST: Final = 4 * 1024 * 1024
_MAX_LAYERS: Final = 32
_MAX_MEMBERS: Final = 10_000
_MAX_TOKEN: Final = 64 * 1024
_PARAMETER: Final = re.compile(r'(\w+)="([^"]*)"')
_WASM: Final = b"\x00asm"
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_DIGEST: Final = re.compile(r"sha256:[a-f0-9]{64}")
_PREFERRED: Final = "plugin.wasm"


async def pull(
    client: httpx.AsyncClient, image: Image, sha256: str, credentials: Credentials | None, limit: int
) -> bytes:
    """The module of an image. `sha256` may be that of the image's manifest or of the module itself."""
    registry = _Registry(client, image, credentials)
    manifest, digests = await _manifest(registry, image.reference)
    layers = manifest.get("layers")
    if not isinstance(layers, list) or not layers:
        raise ModuleError("the image has no layers")
    module = await _module(registry, [layer for layer in layers if isinstance(layer, dict)], limit)
    if sha256 and sha256 not in digests and sha256 != await asyncio.to_thread(_digest, module):
        raise DigestError(f"the image's sha256 is {digests[0]}, not {sha256}")
    return module


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def _manifest(registry: _Registry, reference: str) -> tuple[Mapping[str, Any], list[str]]:
    """An image's manifest, through an index if there is one, and the digests by which it may be pinned."""
    digests: list[str] = []
    for _ in range(2):
        answer = await registry.get(f"manifests/{reference}", _MAX_MANIFEST, ",".join((*_MANIFESTS, *_INDEXES)))
        digests.append(check_digest(answer.body, reference.removeprefix("sha256:") if ":" in reference else ""))
        manifest = _json(answer.body, "the manifest")
        entries = manifest.get("manifests")
        if not isinstance(entries, list):
            return manifest, digests
        reference = _chosen(entries)
        if not _DIGEST.fullmatch(reference):
            raise ModuleError("the image's index has an entry without a sha256 digest")
    raise ModuleError("an index of indexes is not an image")


def _chosen(entries: Sequence[Any]) -> str:
    """Of several platforms the one for Wasm, else the one that servers run on; the module is the same in all of them."""

    def rank(entry: Mapping[str, Any]) -> int:
        platform = entry.get("platform")
        machine = str(platform.get("architecture")) if isinstance(platform, dict) else ""
        return {"wasm": 0, "wasm32": 0, "amd64": 1, "unknown": 3}.get(
            machine, 2
        )  # unknown: where an image came from, not an image

    found = sorted((e for e in entries if isinstance(e, dict) and isinstance(e.get("digest"), str)), key=rank)
    if not found:
        raise ModuleError("the image's index is empty")
    return str(found[0]["digest"])


async def _module(registry: _Registry, layers: Sequence[Mapping[str, Any]], limit: int) -> bytes:
    named = [layer for layer in layers if _is_wasm(str(layer.get("mediaType")))]
    candidates = named if len(named) == 1 else layers
    if len(candidates) > _MAX_LAYERS:
        raise ModuleError(f"the image has more than {_MAX_LAYERS} layers")
    found: dict[str, bytes] = {}
    left = limit
    for layer in candidates:
        digest = str(layer.get("digest"))
        if not _DIGEST.fullmatch(digest):
            raise ModuleError("a layer of the image has no sha256 digest")
        answer = await registry.get(f"blobs/{digest}", left, "*/*")
        left -= len(answer.body)
        found.update(await asyncio.to_thread(_modules_in, answer.body, digest, limit))
    if _PREFERRED in found:
        return found[_PREFERRED]
    if len(set(found.values())) != 1:
        raise ModuleError(f"the image holds {len(found)} modules, not one" if found else "the image holds no module")
    return next(iter(found.values()))


def _is_wasm(media_type: str) -> bool:
    kind = media_type.partition(";")[0]
    return "wasm" in kind and "config" not in kind and not kind.endswith(("tar", "gzip", "zstd", "json"))


def _modules_in(data: bytes, digest: str, limit: int) -> dict[str, bytes]:
    """The modules of a layer: the layer itself, or files in its tar. A later layer's file replaces an earlier one's."""
    check_digest(data, digest.removeprefix("sha256:"))
    if data.startswith(_ZSTD):
        raise ModuleError("a layer of the image is packed with zstd: push it with gzip")
    if data.startswith(_GZIP):
        data = _unzipped(data, limit)
    if data.startswith(_WASM):
        return {digest: data}
    try:
        return dict(_files_in(data))
    except (tarfile.TarError, ValueError, OverflowError, EOFError):
        return {}


def _files_in(data: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for index, member in enumerate(archive):
            if index >= _MAX_MEMBERS:
                raise ModuleError(f"a layer of the image has more than {_MAX_MEMBERS} files")
            # A sparse file could claim to be any number of terabytes.
            file = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            if file is not None and file.read(len(_WASM)) == _WASM:
                yield member.name.removeprefix("./"), _WASM + file.read()


def _unzipped(data: bytes, limit: int) -> bytes:
    """All members of a gzip file: some tools begin a new one for every file of a tar."""
    result = bytearray()
    while data.startswith(_GZIP):
        decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            result += decompressor.decompress(data, limit - len(result) + 1)
        except zlib.error:
            raise ModuleError("a layer of the image is damaged") from None
        if len(result) > limit:
            raise ModuleError(f"a layer of the image unpacks to more than {limit} bytes")
        if not decompressor.eof:
            raise ModuleError("a layer of the image is cut off")
        data = decompressor.unused_data
    return bytes(result)


class _Registry:
    """One repository of a registry: its base address, and the token it asks for."""

    def __init__(self, client: httpx.AsyncClient, image: Image, credentials: Credentials | None) -> None:
        host = _DOCKER_HUB if image.registry == DEFAULT_REGISTRY else image.registry
        self._client = client
        self._plain = image.plain
        self._base = f"{'http' if image.plain else 'https'}://{host}/v2/{image.repository}/"
        self._repository = image.repository
        self._credentials = credentials
        self._authorization = ""

    async def get(self, path: str, limit: int, accept: str) -> Answer:
        answer = await self._ask(path, limit, accept)
        if answer.status == httpx.codes.UNAUTHORIZED and not self._authorization:
            self._authorization = await self._authorize(answer.headers.get("www-authenticate", ""))
            answer = await self._ask(path, limit, accept)
        if answer.status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            hint = "" if self._credentials else ": name a Secret with imagePullSecret"
            raise ModuleError(f"the registry answers {answer.status}{hint}")
        if answer.status == httpx.codes.NOT_FOUND:
            raise ModuleError(f"the registry has no {self._repository}/{path}")
        if answer.status != httpx.codes.OK:
            raise ModuleError(f"the registry answers {answer.status}")
        return answer

    async def _ask(self, path: str, limit: int, accept: str) -> Answer:
        headers = {"accept": accept}
        if self._authorization:
            headers["authorization"] = self._authorization
        return await get(self._client, self._base + path, limit, headers)

    async def _authorize(self, challenge: str) -> str:
        """What to send after a challenge: the password itself (Basic), or a token for it (Bearer)."""
        scheme, _, rest = challenge.partition(" ")
        basic = {"authorization": _basic(self._credentials)} if self._credentials else {}
        if scheme.lower() == "basic":
            return basic.get("authorization", "")
        if scheme.lower() != "bearer":
            raise ModuleError("the registry asks for authentication of an unknown kind")
        said = dict(_PARAMETER.findall(rest))
        realm = said.get("realm", "")
        if urlsplit(realm).scheme != "https" and not (self._plain and urlsplit(realm).scheme == "http"):
            raise ModuleError("the registry's token service is not at an https address")
        query = {"service": said.get("service", ""), "scope": f"repository:{self._repository}:pull"}
        url = str(httpx.URL(realm).copy_merge_params({k: v for k, v in query.items() if v}))
        answer = await get(self._client, url, _MAX_TOKEN, basic)
        if answer.status != httpx.codes.OK:
            raise ModuleError(f"the registry's token service answers {answer.status}")
        body = _json(answer.body, "the registry's token")
        token = body.get("token") or body.get("access_token")
        if not isinstance(token, str):
            raise ModuleError("the registry's token service gave no token")
        return f"Bearer {token}"


def _basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.user}:{credentials.password}".encode()).decode()


def _json(data: bytes, what: str) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ModuleError(f"{what} is not a JSON object")
    return found


def credentials_of(config: str, registry: str) -> Credentials | None:
    """The user and password for a registry in a `.dockerconfigjson`; ModuleError when the text is none."""
    auths = _json(config.encode(), "the Secret's .dockerconfigjson").get("auths")
    for address, entry in (auths if isinstance(auths, dict) else {}).items():
        host = urlsplit(address).netloc if "://" in address else address.partition("/")[0]
        host = {"index.docker.io": DEFAULT_REGISTRY, _DOCKER_HUB: DEFAULT_REGISTRY}.get(host, host)
        if host != registry or not isinstance(entry, dict):
            continue
        if isinstance(entry.get("username"), str) and isinstance(entry.get("password"), str):
            return Credentials(entry["username"], entry["password"])
        try:
            user, colon, password = base64.b64decode(str(entry.get("auth", "")), validate=True).decode().partition(":")
        except ValueError:
            raise ModuleError("the auth of the Secret's .dockerconfigjson is not base64") from None
        if colon:
            return Credentials(user, password)
    return None
