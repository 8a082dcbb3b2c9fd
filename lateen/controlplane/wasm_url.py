"""Where the module of a plugin is: a file, a web address, or an image in an OCI registry. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never
from urllib.parse import parse_qs, urlsplit, urlunsplit

from lateen.mesh.wasmplugin import PullPolicy, WasmConfig

DEFAULT_REGISTRY = "docker.io"
_DIGEST = re.compile(r"[a-f0-9]{64}")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LOCAL = re.compile(r"localhost|127(?:\.\d{1,3}){3}|\[::1\]")


class ModuleError(ValueError):
    """A module cannot be had or used; the text is for the author of the plugin."""


class DigestError(ModuleError):
    """There is a module, but not the one whose sha256 is demanded."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a registry. `reference` is a tag, or `sha256:DIGEST` of its manifest."""

    registry: str
    repository: str
    reference: str

    @property
    def plain(self) -> bool:
        """Whether the registry is on this host, where HTTP will do."""
        return _LOCAL.fullmatch(self.registry.rpartition(":")[0] or self.registry) is not None

    def __str__(self) -> str:
        """As it is written in a `url`."""
        return f"{self.registry}/{self.repository}{'@' if ':' in self.reference else ':'}{self.reference}"


@dataclass(frozen=True, slots=True)
class ModuleUrl:
    """What to fetch. `sha256` is the digest that the author demands: of the module, or of the image's manifest (`image_digest`).

    `always` asks for it again and again; a file is looked at all the time.
    """

    kind: Literal["file", "web", "image"]
    url: str
    sha256: str = ""
    always: bool = False
    image: Image | None = None
    secret: tuple[str, str] = ("", "")
    """Namespace and name of the Secret with the registry's password."""

    def __str__(self) -> str:
        """As shown in status and logs; passwords in a web address are left out."""
        match self.kind:
            case "image":
                return f"oci://{self.image}"
            case "file":
                return f"file://{self.url}"
            case "web":
                parts = urlsplit(self.url)
                return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
            case _:
                assert_never(self.kind)


def parse_module_url(wasm: WasmConfig, namespace: str, directory: Path | None) -> ModuleUrl:
    """What `url`, `sha256`, `imagePullPolicy` and `imagePullSecret` say; ModuleError when they make no sense together.

    `directory` is where the plugin's YAML file is, which a relative `file://` starts from. No scheme means `oci`.
    """
    found = _SCHEME.match(wasm.url)
    scheme = found[1].lower() if found else "oci"
    rest = wasm.url[found.end() :] if found else wasm.url
    wanted = wasm.sha256 or ""
    always = wasm.image_pull_policy is PullPolicy.Always
    if scheme == "file":
        path = Path(rest)
        if not path.is_absolute():
            if directory is None:
                raise ModuleError("a relative file:// needs a YAML file to start from: write an absolute path")
            path = directory / path
        return ModuleUrl("file", str(path), wanted)
    if scheme in {"http", "https"}:
        try:
            asked = parse_qs(urlsplit(wasm.url).query).get("sha256", [""])[0].lower()
        except ValueError as error:
            raise ModuleError(f"{wasm.url[:200]} is no address: {error}") from None
        return ModuleUrl("web", wasm.url, _agreed(wanted, asked), always)
    image, digest = _image(rest)
    unsettled = wasm.image_pull_policy in {None, PullPolicy.UNSPECIFIED_POLICY}
    always = not digest and (always or (unsettled and image.reference == "latest"))
    secret = (namespace, wasm.image_pull_secret) if wasm.image_pull_secret else ("", "")
    return ModuleUrl("image", "", _agreed(wanted, digest), always, image, secret)


def _agreed(field: str, inside: str) -> str:
    if inside and not _DIGEST.fullmatch(inside):
        raise ModuleError(f"the sha256 in url is not 64 hexadecimal digits: {inside[:80]}")
    if field and inside and field != inside:
        raise ModuleError(f"sha256 is {field}, but the url says {inside}")
    return field or inside


def _image(text: str) -> tuple[Image, str]:
    name, at, digest = text.partition("@")
    host, slash, repository = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, repository = DEFAULT_REGISTRY, name
    repository, colon, tag = repository.partition(":")
    if host == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    if not (_HOST.fullmatch(host) and _REPOSITORY.fullmatch(repository)) or (colon and not _TAG.fullmatch(tag)):
        raise ModuleError(f"{text} is not the name of an image")
    if not at:
        return Image(host, repository, tag or "latest"), ""
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or not _DIGEST.fullmatch(value):
        raise ModuleError(f"{digest} is not sha256: and 64 hexadecimal digits in lower case")
    return Image(host, repository, digest), value
