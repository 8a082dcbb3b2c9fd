"""A module as an OCI image, and pushing it (OCI image and distribution specifications 1.1). Pure but for `push` and `write_layout`.

The image is of the "compat" kind that Istio, Envoy Gateway and others fetch: one layer, a tar with plugin.wasm in it.
"""

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx

from lateen.cli.exits import CommandError, Exit
from lateen.cli.filtercredentials import Credentials

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
REF = "org.opencontainers.image.ref.name"
PLUGIN = "plugin.wasm"
TIMEOUT = 60.0
LONGEST_REASON = 200
"""Characters of what a server says that are shown."""
REFERENCE = re.compile(
    r"(?P<registry>[A-Za-z0-9.-]+(:\d+)?|\[[0-9a-f:]+\](:\d+)?)/(?P<repository>[a-z0-9]+([._/-]+[a-z0-9]+)*)(:(?P<tag>[\w][\w.-]{0,127}))?"
)


class Reference(NamedTuple):
    """Where an image is."""

    registry: str
    repository: str
    tag: str

    def __str__(self) -> str:
        return f"oci://{self.registry}/{self.repository}:{self.tag}"


class Image(NamedTuple):
    """Content by digest; the manifest is one of the blobs."""

    manifest: str
    blobs: Mapping[str, bytes]


def parse_reference(text: str) -> Reference:
    """`oci://REGISTRY/REPOSITORY[:TAG]`, the tag `latest` if none is given."""
    found = REFERENCE.fullmatch(text.removeprefix("oci://"))
    if found is None:
        raise CommandError(Exit.USAGE, f"{text!r} names no image", "write oci://REGISTRY/REPOSITORY:TAG, in lower case")
    return Reference(found["registry"], found["repository"], found["tag"] or "latest")


def digest(content: bytes) -> str:
    """As manifests write it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def image(module: bytes) -> Image:
    """The image of a module; the same module gives the same image."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo(PLUGIN)
        entry.size, entry.mode = len(module), 0o644
        tar.addfile(entry, io.BytesIO(module))
    plain = archive.getvalue()
    layer = gzip.compress(plain, mtime=0)
    config = _json({"architecture": "wasm", "os": "wasi", "rootfs": {"type": "layers", "diff_ids": [digest(plain)]}})
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config),
            "layers": [_descriptor(LAYER, layer)],
            "annotations": {"module.wasm.image/variant": "compat"},
        }
    )
    return Image(digest(manifest), {digest(blob): blob for blob in (layer, config, manifest)})


def write_layout(directory: Path, tag: str, content: Image) -> None:
    """Add an image to an OCI image layout, made if it is not there; an image with the same tag is replaced."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for name, blob in content.blobs.items():
        _replace(blobs / name.removeprefix("sha256:"), blob)
    index = directory / "index.json"
    entries = json.loads(index.read_text())["manifests"] if index.exists() else []
    kept = [entry for entry in entries if entry.get("annotations", {}).get(REF) != tag]
    added = _descriptor(MANIFEST, content.blobs[content.manifest]) | {"annotations": {REF: tag}}
    _replace(index, _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [*kept, added]}))
    _replace(directory / "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))


def push(reference: Reference, content: Image, credentials: Credentials | None, *, plain_http: bool = False) -> None:
    """Upload what the registry does not have, the manifest last. CommandError with the registry's words if it refuses."""
    base = f"{'http' if plain_http else 'https'}://{reference.registry}"
    try:
        with httpx.Client(timeout=TIMEOUT) as client:
            _Push(client, base, reference, credentials).run(content)
    except httpx.HTTPError as error:
        hint = "" if plain_http else "a registry without TLS needs --plain-http"
        raise CommandError(Exit.UNREACHABLE, f"cannot reach {reference.registry}: {error}", hint) from None


class _Push:
    def __init__(self, client: httpx.Client, base: str, reference: Reference, credentials: Credentials | None) -> None:
        self._client = client
        self._base = base
        self._reference = reference
        self._credentials = credentials
        self._authorization: str | None = None

    def run(self, content: Image) -> None:
        root = f"{self._base}/v2/{self._reference.repository}"
        for name, blob in content.blobs.items():
            if (
                name == content.manifest
                or self._ask("HEAD", f"{root}/blobs/{name}", (200, 404)).status_code == httpx.codes.OK
            ):
                continue
            started = self._ask("POST", f"{root}/blobs/uploads/", (202,))
            where = httpx.URL(urljoin(f"{self._base}/", started.headers.get("location", "")))
            self._ask("PUT", str(where.copy_merge_params({"digest": name})), (201,), blob, "application/octet-stream")
        manifest = content.blobs[content.manifest]
        answer = self._ask("PUT", f"{root}/manifests/{self._reference.tag}", (201,), manifest, MANIFEST)
        got = answer.headers.get("docker-content-digest", content.manifest)
        if got != content.manifest:
            raise CommandError(
                Exit.INVALID, f"{self._reference.registry} has stored {got} in place of {content.manifest}"
            )

    def _ask(
        self, method: str, url: str, expected: tuple[int, ...], body: bytes = b"", kind: str | None = None
    ) -> httpx.Response:
        answer = self._send(method, url, body, kind)
        if answer.status_code == httpx.codes.UNAUTHORIZED and self._authorization is None:
            self._authorization = self._authorize(answer.headers.get("www-authenticate", ""))
            answer = self._send(method, url, body, kind)
        if answer.status_code not in expected:
            page = answer.headers.get("content-type", "").startswith("text/html")
            hint = "is this a registry? it answers with a web page" if page else ""
            if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                hint = f"docker login {self._reference.registry}"
            raise CommandError(Exit.INVALID, f"{self._reference.registry} answers {_reason(answer)} to {method}", hint)
        return answer

    def _send(self, method: str, url: str, body: bytes, kind: str | None) -> httpx.Response:
        headers = {} if kind is None else {"content-type": kind}
        # Uploads may go to a storage service elsewhere: it gets no credentials.
        if self._authorization is not None and urlsplit(url).netloc == urlsplit(self._base).netloc:
            headers["authorization"] = self._authorization
        return self._client.request(method, url, content=body, headers=headers)

    def _authorize(self, challenge: str) -> str:
        """The Authorization header the challenge asks for (distribution specification, token authentication)."""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic" and self._credentials is not None:
            return self._credentials.basic()
        parameters = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = parameters.get("realm", "")
        if scheme.lower() != "bearer" or not realm:
            raise CommandError(
                Exit.INVALID,
                f"{self._reference.registry} wants credentials",
                f"docker login {self._reference.registry}",
            )
        if realm.startswith("http://") and self._base.startswith("https://"):
            raise CommandError(
                Exit.INVALID, f"{self._reference.registry} wants credentials sent in the clear, to {realm}"
            )
        query = {key: value for key, value in parameters.items() if key in ("service", "scope")}
        headers = {} if self._credentials is None else {"authorization": self._credentials.basic()}
        answer = self._client.get(realm, params=query, headers=headers)
        try:
            found = answer.json()
            token = found.get("token") or found["access_token"]
        except (ValueError, KeyError, AttributeError):
            raise CommandError(
                Exit.INVALID,
                f"{realm} gives no token, it answers {answer.status_code}",
                f"docker login {self._reference.registry}",
            ) from None
        return f"Bearer {token}"


def _reason(answer: httpx.Response) -> str:
    """The status, and what a registry tells about it (distribution specification, error codes), else the first line."""
    try:
        said = ", ".join(f"{item['code']} {item.get('message', '')}".strip() for item in answer.json()["errors"])
    except (ValueError, KeyError, TypeError, AttributeError):
        said = next(iter(answer.text.strip().splitlines()), "")
    said = "".join(character if character.isprintable() else " " for character in said[:LONGEST_REASON])
    return f"{answer.status_code} ({said})" if said else str(answer.status_code)


def _descriptor(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest(content), "size": len(content)}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    temporary.replace(path)
