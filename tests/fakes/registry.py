"""A registry as the OCI distribution specification 1.1 describes it, pushes only, that asks for tokens if it is given an account."""

import base64
import hashlib
import json
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

UPLOAD = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<id>[0-9a-f-]*)")
BLOB = re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>sha256:[0-9a-f]{64})")
MANIFEST = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<tag>[\w.-]+)")
TOKEN = "a-token"


class FakeRegistry:
    """Serves from when it is made until `close`; `log` has the requests."""

    def __init__(self, account: tuple[str, str] | None = None, challenge: str = "bearer") -> None:
        self.account = account
        self.challenge = challenge
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.uploads: set[str] = set()
        self.log: list[str] = []
        self._server = _Server(self)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: FakeRegistry) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        registry = self.server.owner
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        registry.log.append(f"{self.command} {url.path.partition(':')[0]}")
        if url.path == "/token":
            self._token(query)
        elif not self._allowed():
            what = f'Bearer realm="http://{registry.host}/token",service="fake",scope="repository:x:pull,push"'
            self._answer(401, {"www-authenticate": what if registry.challenge == "bearer" else 'Basic realm="fake"'})
        elif found := UPLOAD.fullmatch(url.path):
            self._upload(found["name"], found["id"], query, body)
        elif found := BLOB.fullmatch(url.path):
            self._answer(200 if (found["name"], found["digest"]) in registry.blobs else 404)
        elif (found := MANIFEST.fullmatch(url.path)) and self.command == "PUT":
            self._manifest(found["name"], found["tag"], body)
        else:
            self._answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815  (http.server's names)

    def _allowed(self) -> bool:
        registry = self.server.owner
        if registry.account is None:
            return True
        expected = f"Bearer {TOKEN}" if registry.challenge == "bearer" else _basic(registry.account)
        return self.headers.get("authorization") == expected

    def _token(self, query: dict[str, str]) -> None:
        account = self.server.owner.account
        known = account is not None and self.headers.get("authorization") == _basic(account)
        asked = query == {"service": "fake", "scope": "repository:x:pull,push"}
        self._answer(200, {}, json.dumps({"token": TOKEN}).encode()) if known and asked else self._answer(401)

    def _upload(self, name: str, number: str, query: dict[str, str], body: bytes) -> None:
        registry = self.server.owner
        if self.command == "POST":
            number = str(uuid.uuid4())
            registry.uploads.add(number)
            # Relative, and with state of the registry's own that has to come back.
            self._answer(202, {"location": f"/v2/{name}/blobs/uploads/{number}?state=kept"})
            return
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        if number not in registry.uploads or query != {"state": "kept", "digest": digest}:
            self._answer(400, {}, b'{"errors": [{"code": "DIGEST_INVALID"}]}')
            return
        registry.blobs[name, digest] = body
        self._answer(201)

    def _manifest(self, name: str, tag: str, body: bytes) -> None:
        registry = self.server.owner
        manifest = json.loads(body)
        missing = [
            item["digest"]
            for item in (manifest["config"], *manifest["layers"])
            if len(registry.blobs.get((name, item["digest"]), b"")) != item["size"]
        ]
        if missing or self.headers.get("content-type") != manifest["mediaType"]:
            self._answer(400, {}, b'{"errors": [{"code": "MANIFEST_BLOB_UNKNOWN"}]}')
            return
        registry.manifests[name, tag] = body
        self._answer(201, {"docker-content-digest": "sha256:" + hashlib.sha256(body).hexdigest()})

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """`log` has them."""


def _basic(account: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(account).encode()).decode()
