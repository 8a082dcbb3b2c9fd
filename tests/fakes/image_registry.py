"""A web server, and an OCI registry on it (distribution specification 1.1): only what pulling needs, with the habits of real ones."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Reply:
    """What a server answers."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class WebServer:
    """`pages` are answered by path; `asked` are the paths asked for, with their authorization."""

    host: str
    pages: dict[str, Reply | Callable[[], Reply]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"

    def reply(self, path: str, authorization: str) -> Reply:
        self.asked.append((path, authorization))
        found = self.pages.get(path) or self.pages.get(path.partition("?")[0])
        if found is None:
            return Reply(status=404)
        return found() if callable(found) else found


@contextlib.contextmanager
def serving(make: Callable[[str], WebServer]) -> Iterator[WebServer]:
    """A server on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply = server.reply(self.path, self.headers.get("authorization", ""))
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            with contextlib.suppress(OSError):  # a client that has read enough
                self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = make(f"127.0.0.1:{listener.server_address[1]}")
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


@dataclass
class Registry(WebServer):
    """Images by `push`. With `password`, everything needs a token (or the password itself, with `basic`)."""

    password: str = ""
    basic: bool = False
    blobs_elsewhere: str = ""
    """The host that blobs are redirected to."""

    def push(self, name: str, layers: Sequence[tuple[str, bytes]], *, config: bytes = b"{}", extra: bytes = b"") -> str:
        """An image with these layers (media type, content); returns its manifest's digest."""
        repository, _, tag = name.partition(":")
        entries = [self._blob(repository, content) | {"mediaType": kind} for kind, content in layers]
        described = self._blob(repository, config) | {"mediaType": "application/vnd.oci.image.config.v1+json"}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": entries}
        return self.manifest(repository, tag or "latest", json.dumps(manifest).encode() + extra)

    def manifest(self, repository: str, tag: str, content: bytes, kind: str = MANIFEST) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        for reference in (tag, digest):
            self.pages[f"/v2/{repository}/manifests/{reference}"] = Reply(content, headers={"content-type": kind})
        return digest.removeprefix("sha256:")

    def _blob(self, repository: str, content: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.pages[f"/v2/{repository}/blobs/{digest}"] = Reply(content)
        return {"digest": digest, "size": len(content)}

    def reply(self, path: str, authorization: str) -> Reply:
        wanted = "Basic " + base64.b64encode(f"user:{self.password}".encode()).decode()
        if path.startswith("/token"):
            self.asked.append((path, authorization))
            granted = not self.password or authorization == wanted
            return Reply(b'{"token": "let-me-in"}') if granted else Reply(status=401)
        if self.password and authorization not in ({wanted} if self.basic else {"Bearer let-me-in"}):
            self.asked.append((path, authorization))
            bearer = f'Bearer realm="http://{self.host}/token",service="registry"'
            return Reply(status=401, headers={"www-authenticate": 'Basic realm="x"' if self.basic else bearer})
        if self.blobs_elsewhere and "/blobs/" in path:
            self.asked.append((path, authorization))
            return Reply(status=307, headers={"location": f"http://{self.blobs_elsewhere}{path}"})
        return super().reply(path, authorization)


def tar_gz(files: Mapping[str, bytes]) -> bytes:
    """A layer as container builders make it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)
