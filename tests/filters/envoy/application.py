"""The application behind the filters: it answers with method, path and rule, or below /chunks with the body it was sent."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECES = (b"one ", b"two ", b"three")
"""What is sent for /response/chunks, a chunk each."""

HOLD_SECONDS = 60.0
"""How long an answer to /held, or the body of one to /begun, is kept back at most; until a request for /release has come."""
released = threading.Event()
arrived = threading.Event()
"""Set when a request for /held is here."""


class Application(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is logged."""

    def _answer(self) -> None:
        body = self._body()
        if self.path.startswith("/held"):
            arrived.set()
            released.wait(HOLD_SECONDS)
        elif self.path.startswith("/release"):
            released.set()
        if self.path.startswith("/response/chunks"):
            self._answer_in_pieces()
            return
        if not self.path.startswith("/chunks"):
            body = f"{self.command} {self.path} {self.headers.get('x-rule', '-')}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-was-chunked", self.headers.get("transfer-encoding", "no"))
        self.send_header("x-rule-was", self.headers.get("x-rule", "-"))
        self.end_headers()
        if self.path.startswith("/begun"):
            released.wait(HOLD_SECONDS)
        self.wfile.write(body)

    def _answer_in_pieces(self) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in (*PIECES, b""):
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that Envoy has closed are none of our business."""


@contextmanager
def application() -> Iterator[tuple[str, int]]:
    """Its address while it runs."""
    server = Server(("127.0.0.1", 0), Application)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield ("127.0.0.1", server.server_port)
    server.shutdown()
    server.server_close()
    thread.join()
