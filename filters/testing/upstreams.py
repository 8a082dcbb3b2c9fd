"""Upstreams and clusters of a test as HTTP servers on loopback, for the real Envoy to call."""

import socket
import threading
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from filters.sdk.headers import OwnHeaders
from filters.testing.hosts import Cluster
from filters.testing.messages import DOWN, Failure, TrailedResponse, UpstreamRequest

SILENCE_SECONDS = 60.0


class UpstreamServer:
    """One cluster's endpoint; `received` is told of each request, `failed` of what its function raised."""

    def __init__(
        self,
        cluster: Cluster,
        received: Callable[[UpstreamRequest], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.cluster = cluster
        self.received = received
        self.failed = failed
        self.ended = threading.Event()
        self._server: _Server | None = None
        if cluster is DOWN:  # a port of ours that nobody listens on
            self._closed = socket.socket()
            self._closed.bind(("127.0.0.1", 0))
            self.port = int(self._closed.getsockname()[1])
            return
        self._server = _Server(self)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.ended.set()
        if self._server is None:
            self._closed.close()
            return
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, owner: UpstreamServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  (the base class's)
        """Envoy has gone away in the middle: no test's business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        owner = self.server.owner
        headers, (body, trailers) = self._headers(), self._body()
        request = UpstreamRequest(self.command, _utf8(self.path), headers, body, trailers)
        owner.received(request)
        if isinstance(owner.cluster, Failure):
            owner.ended.wait(SILENCE_SECONDS)
            self.close_connection = True
            return
        try:
            answer = owner.cluster(request)
        except Exception as error:  # noqa: BLE001  (it is raised in the test)
            owner.failed(error)
            self.close_connection = True
            return
        pairs = [pair for pair in answer.headers.pairs() if pair[0] != "content-length"]
        after = answer.trailers.pairs() if isinstance(answer, TrailedResponse) else []
        framing = ("transfer-encoding", "chunked") if after else ("content-length", str(len(answer.content)))
        pairs += [framing, ("date", formatdate(usegmt=True))]
        content = b"" if self.command == "HEAD" else answer.content
        if after:
            content = (b"%x\r\n%b\r\n" % (len(content), content) if content else b"") + b"0\r\n" + _lines(after)
        self.wfile.write(f"HTTP/1.1 {answer.status} -\r\n".encode() + _lines(pairs) + content)
        self.wfile.flush()

    def _headers(self) -> OwnHeaders:
        pairs = []
        for name, value in self.headers.items():
            text = _utf8(value).strip(" \t")
            pairs.append((":authority" if name.lower() == "host" else name, text))
        return OwnHeaders(pairs)

    def _body(self) -> tuple[bytes, OwnHeaders]:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0))), OwnHeaders()
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        trailers = []
        while line := self.rfile.readline().strip():
            name, _, value = line.decode("utf-8", "surrogateescape").partition(":")
            trailers.append((name, value.strip(" \t")))
        return b"".join(parts), OwnHeaders(trailers)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: ANN401  (the base class's)
        """Tests are told by `received`."""


def _lines(pairs: Iterable[tuple[str, str]]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in pairs).encode("utf-8", "surrogateescape") + b"\r\n"


def _utf8(text: str) -> str:
    """What http.server has read as ISO 8859-1."""
    return text.encode("iso-8859-1").decode("utf-8", "surrogateescape")
