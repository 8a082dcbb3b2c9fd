"""The application of the examples: an HTTP server that says who it is and what it received, and fails when asked to.

Standard library only, one file, nothing of the mesh: any application could stand in its place. It listens on HOST:PORT. Answers are JSON:
`workload`, `version`, `replica`, `namespace`, `method`, `path`, `headers`, and `body_bytes`. Request headers tell it to misbehave:

- `x-app-status: 503` answers with this status;
- `x-app-delay: 250ms` waits first (ms or s);
- `x-app-fail-times: 2` fails (with x-app-status, else 503) until the same `x-request-id` has been seen that often, then succeeds;
- `x-app-fail-version: v1` limits all of these to replicas of that version, `x-app-fail-replica: NAME` to one replica;
- `x-app-reset: true` closes the connection without an answer.

`/v1/orders` makes the app a client as well: it calls CHARGE_URL and passes on what identifies the caller (below), as services do.
"""

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

CHARGE_URL = "http://payments-api.payments.svc.cluster.local:8080/v1/charge"
PASSED_ON = (
    *("authorization", "x-tenant", "x-test-cohort", "x-request-id", "traceparent", "b3"),
    *("x-app-status", "x-app-delay", "x-app-fail-times", "x-app-fail-version", "x-app-fail-replica", "x-app-reset"),
)
CALL_TIMEOUT_SECONDS = 15.0
MAX_DELAY_SECONDS = 30.0
MAX_BODY_BYTES = 10 << 20
MAX_REMEMBERED = 10_000
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s)?")


def parse_delay(text: str) -> float:
    """Seconds of `250ms` or `1.5s`; 0 for anything else."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        return 0.0
    return min(float(match[1]) / (1 if match[2] == "s" else 1000), MAX_DELAY_SECONDS)


class Attempts:
    """How often each request id has been seen; forgets the oldest."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, request_id: str) -> int:
        with self._lock:
            seen = self._seen.pop(request_id, 0) + 1
            self._seen[request_id] = seen
            while len(self._seen) > MAX_REMEMBERED:
                self._seen.popitem(last=False)
            return seen


def call_through_sidecar(
    url: str, method: str, headers: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Call another service: through `http_proxy` if that is set (loopback), else straight (the mesh captures it)."""
    target = urlsplit(url)
    proxy = urlsplit(environ.get("http_proxy") or environ.get("HTTP_PROXY") or "")
    host, port = (proxy.hostname, proxy.port) if proxy.hostname else (target.hostname, target.port)
    connection = http.client.HTTPConnection(str(host), port or 80, timeout=CALL_TIMEOUT_SECONDS)
    try:
        where = url if proxy.hostname else target.path or "/"
        connection.request(method, where, headers={**headers, "host": target.netloc})
        answer = connection.getresponse()
        raw = answer.read(MAX_BODY_BYTES)
        try:
            body: Any = json.loads(raw)
        except ValueError:
            body = raw.decode(errors="replace")
        return {"status": answer.status, "headers": {k.lower(): v for k, v in answer.getheaders()}, "body": body}
    except (OSError, http.client.HTTPException) as error:
        return {"status": 0, "error": f"{type(error).__name__}: {error}"}
    finally:
        connection.close()


class Handler(BaseHTTPRequestHandler):
    """One connection of a client, usually the sidecar's."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120
    identity: Mapping[str, str] = {}
    attempts = Attempts()
    environ: Mapping[str, str] = {}

    def handle_one_request(self) -> None:
        """As the base class does, for any method at all."""
        self.raw_requestline = self.rfile.readline(65537)
        if len(self.raw_requestline) > 65536:  # noqa: PLR2004  (the base class' limit)
            self.send_error(414)
        elif not self.raw_requestline:
            self.close_connection = True
        elif self.parse_request():
            self._answer()
            self.wfile.flush()

    def _answer(self) -> None:
        body_bytes = self._drain_body()
        concerned = self.headers.get("x-app-fail-version") in (None, self.identity["version"]) and self.headers.get(
            "x-app-fail-replica"
        ) in (None, self.identity["replica"])
        status = 200
        if concerned:
            time.sleep(parse_delay(self.headers.get("x-app-delay", "")))
            if self.headers.get("x-app-reset", "").lower() == "true":
                self._reset()
                return
            status = self._status()
        path = urlsplit(self.path).path
        answer: dict[str, Any] = {
            **self.identity,
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body_bytes": body_bytes,
        }
        if path == "/v1/orders" and "charge_url" in self.environ:
            passed_on = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
            answer["charge"] = call_through_sidecar(self.environ["charge_url"], "POST", passed_on, self.environ)
            status = answer["charge"]["status"] or 502
        self._send(status, answer)

    def _status(self) -> int:
        wanted = self.headers.get("x-app-status", "")
        status = int(wanted) if wanted.isdigit() and 200 <= int(wanted) <= 599 else 200  # noqa: PLR2004
        times = self.headers.get("x-app-fail-times", "")
        if times.isdigit():
            seen = self.attempts.count(self.headers.get("x-request-id", ""))
            status = (status if status != 200 else 503) if seen <= int(times) else 200  # noqa: PLR2004
        return status

    def _drain_body(self) -> int:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            total = 0
            while size := int(self.rfile.readline(64).split(b";")[0] or b"0", 16):
                total += len(self.rfile.read(size))
                self.rfile.readline(8)
            while self.rfile.readline(8192).strip():
                pass
            return total
        length = min(int(self.headers.get("content-length") or 0), MAX_BODY_BYTES)
        return len(self.rfile.read(length)) if length else 0

    def _reset(self) -> None:
        # With a linger time of zero, closing sends RST.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, answer: Mapping[str, Any]) -> None:
        body = json.dumps(answer).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the sidecar logs every request."""


class Server(ThreadingHTTPServer):
    """One thread a connection; the sidecar keeps few."""

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def server_bind(self) -> None:
        """Bind without the reverse DNS look-up of the base class."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is not news."""


def serve(environ: Mapping[str, str]) -> None:
    """Serve until SIGTERM."""
    Handler.identity = {
        "workload": environ.get("WORKLOAD", "app"),
        "version": environ.get("VERSION", ""),
        "replica": environ.get("REPLICA", socket.gethostname()),
        "namespace": environ.get("NAMESPACE", ""),
    }
    Handler.environ = {
        "charge_url": environ.get("CHARGE_URL", CHARGE_URL),
        "http_proxy": environ.get("http_proxy") or environ.get("HTTP_PROXY", ""),
    }
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with Server((environ.get("HOST", "127.0.0.1"), int(environ.get("PORT", "8080"))), Handler) as server:
        server.serve_forever(poll_interval=3600)


if __name__ == "__main__":
    serve(os.environ)
