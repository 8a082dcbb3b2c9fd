"""One request through the filter and back, as Envoy's filter manager drives it (source/common/http/filter_manager.cc)."""

import struct
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from filters.sdk import dispatch, host
from filters.testing.functions import Call, LocalReply
from filters.testing.headermap import HeaderMap

BUFFER_LIMIT = 1024 * 1024
"""per_connection_buffer_limit_bytes."""
CHUNK = 16 * 1024
CONTINUE, STOP_AND_BUFFER, STOP_AND_WATERMARK = 0, 1, 2
TOO_LARGE = {
    host.REQUEST: LocalReply(413, b"Payload Too Large", []),
    host.RESPONSE: LocalReply(500, b"Internal Server Error", []),
}
SOURCE_PORT, DESTINATION_PORT = 40000, 10000


class StuckError(AssertionError):
    """The filter holds a message back and nothing is under way that could let it go on: in Envoy it would wait for its timeout."""


@dataclass(slots=True)
class Message:
    """One direction of a stream."""

    headers: HeaderMap
    visible: bool = True
    """Whether the filter can reach the headers."""
    stopped: bool = False
    sent: bool = False
    """The headers have gone on."""
    buffering: bool = False
    data: bytearray = field(default_factory=bytearray)
    """What on_body sees: the chunk, or all that is buffered."""
    passed: bytearray = field(default_factory=bytearray)
    """What has gone on."""
    trailing: bool = False
    """The body is over and trailers have come: only what is buffered can still be reached."""


class Surroundings(Protocol):
    """What a stream needs of its host."""

    root: int

    def callback(self, stream: "Stream", handler: str, *arguments: int) -> int:
        """Run a callback for a stream."""

    def next_call(self, stream: int) -> Call | None:
        """The oldest callout of a stream, taken off the list."""

    def deliver(self, call: Call) -> None:
        """Let the called cluster answer."""

    def attribute(self, path: tuple[str, ...]) -> bytes | None:
        """An attribute that is no stream's own."""


class Stream:
    """Implements `filters.testing.functions.Context`."""

    def __init__(self, number: int, around: Surroundings, request: HeaderMap, peer: str | None = None) -> None:
        self.id = number
        self._around = around
        self._peer = peer
        self.request = Message(request)
        self.response: Message | None = None
        self.state: dict[str, bytes] = {}
        self.local: LocalReply | None = None
        """Asked for by the running callback."""
        self.replied = False
        """A local reply has been sent: the upstream is out of it."""
        self._resumed: set[int] = set()
        self._logging = False

    # Context

    def headers(self, which: int) -> HeaderMap | None:
        message = {host.REQUEST_HEADERS: self.request, host.RESPONSE_HEADERS: self.response}.get(which)
        return message.headers if message and (message.visible or self._logging) else None

    def writable(self, which: int) -> HeaderMap | None:
        return None if self._logging else self.headers(which)

    def buffer(self, which: int) -> bytearray | None:
        message = {host.REQUEST_BODY: self.request, host.RESPONSE_BODY: self.response}.get(which)
        return None if message is None or (message.trailing and not message.buffering) else message.data

    def reply(self, local: LocalReply) -> bool:
        if self.local is not None or self._logging:
            return False
        self.local = local
        return True

    def resume(self, direction: int) -> None:
        self._resumed.add(direction)

    def property(self, path: tuple[str, ...]) -> bytes | None:
        request = self.request.headers
        target = request.get(":path")
        match path:
            case ("request", "headers", name):
                values = request.get_all(name.lower())
                return values[0] if values else None
            case ("request", "path"):
                return _bytes(target)
            case ("request", "url_path"):
                return _bytes(target.partition("?")[0])
            case ("request", "query"):
                return _bytes(target.partition("?")[2])
            case ("request", "host" | "method" | "scheme" as part):
                return _bytes(request.get({"host": ":authority"}.get(part, f":{part}")))
            case ("request", "id"):
                return _bytes(request.get("x-request-id"))
            case ("request", "useragent"):
                return _bytes(request.get("user-agent")) or None
            case ("request", "referer"):
                return _bytes(request.get("referer")) or None
            case ("request", "protocol"):
                return b"HTTP/1.1"
            case ("connection", "mtls"):
                return b"\1" if self._peer else b"\0"
            case ("connection", "uri_san_peer_certificate"):
                return _bytes(self._peer or "") or None
            case ("connection", "requested_server_name"):
                return b"localhost" if self._peer else b""
            case ("response", "code") if self.response:
                return struct.pack("<q", int(self.response.headers.get(":status")))
            case (name,) if name in self.state:
                return self.state[name]
            case ("filter_state", name) if name.removeprefix("wasm.") in self.state and name.startswith("wasm."):
                return self.state[name.removeprefix("wasm.")]
        return self._around.attribute(path)

    # The request

    def receive(self, chunks: Iterable[bytes], *, ended: bool, trailers: int = 0) -> bool:
        """Run the request through the filter, with this number of trailers; whether it goes to the upstream."""
        around, request = self._around, self.request
        result = around.callback(self, "on_request_headers", len(request.headers), int(ended), around.root)
        if self._local_reply():
            return False
        if result == CONTINUE:
            request.visible, request.sent = False, True
        else:
            request.stopped = True
        self._settle(host.REQUEST)
        if not ended and not self._body(host.REQUEST, chunks, trailers):
            return False
        return self._finish(host.REQUEST)

    def respond(self, headers: HeaderMap, chunks: Iterable[bytes], *, ended: bool, trailers: int = 0) -> None:
        """Run a response through the filter."""
        around = self._around
        self.response = response = Message(headers)
        result = around.callback(self, "on_response_headers", len(headers), int(ended), around.root)
        if self._local_reply():
            return
        if result == CONTINUE:
            response.visible, response.sent = False, True
        else:
            response.stopped = True
        self._settle(host.RESPONSE)
        if not ended and not self._body(host.RESPONSE, chunks, trailers):
            return
        self._finish(host.RESPONSE)

    def end(self) -> None:
        """The stream is over."""
        self._logging = True
        self._around.callback(self, "on_log", self._around.root)
        self._around.callback(self, "on_delete")

    def reply_directly(self, status: int, text: str) -> None:
        """Envoy answers by itself: through the filter while there is no response, past it afterwards."""
        self._send(LocalReply(status, text.encode(), []))

    def _message(self, direction: int) -> Message:
        message = self.request if direction == host.REQUEST else self.response
        if message is None:
            raise RuntimeError("there is no response yet")
        return message

    def _body(self, direction: int, chunks: Iterable[bytes], trailers: int = 0) -> bool:
        """Feed the body; False when something was answered in its place."""
        pieces = [chunk[at : at + CHUNK] for chunk in chunks for at in range(0, len(chunk), CHUNK)]
        if not self.replied and not trailers:
            pieces.append(b"")  # HTTP/1 tells the end of a body apart from its last bytes
        handler = "on_request_body" if direction == host.REQUEST else "on_response_body"
        message = self._message(direction)
        for place, piece in enumerate(pieces, 1):
            too_large = False
            if message.buffering:
                message.data += piece
                too_large = len(message.data) > BUFFER_LIMIT
            else:
                message.data = bytearray(piece)
            last = place == len(pieces) and not trailers
            result = self._around.callback(self, handler, len(message.data), int(last))
            if too_large:
                self.local = TOO_LARGE[direction]  # Envoy's, whatever the filter has answered
            if self._local_reply():
                return False
            if result == CONTINUE:
                message.stopped = False
                self._pass(message)
            else:
                message.buffering = result in (STOP_AND_BUFFER, STOP_AND_WATERMARK)
                message.stopped = True
                if not message.buffering:
                    message.data = bytearray()
            self._settle(direction)
        return not trailers or self._trailers(direction, trailers)

    def _trailers(self, direction: int, count: int) -> bool:
        """Trailers end a body; False when something was answered in its place."""
        message = self._message(direction)
        message.trailing = True
        handler = "on_request_trailers" if direction == host.REQUEST else "on_response_trailers"
        result = self._around.callback(self, handler, count)
        if self._local_reply():
            return False
        message.stopped = result != CONTINUE
        if not message.stopped:
            self._pass(message)
        self._settle(direction)
        return True

    def _pass(self, message: Message) -> None:
        message.sent = True
        message.passed += message.data
        message.data = bytearray()
        message.buffering = False

    def _settle(self, direction: int) -> None:
        """What the callback has asked to be done after it."""
        if direction in self._resumed:
            message = self._message(direction)
            message.stopped = False
            self._pass(message)
        self._resumed.clear()

    def _finish(self, direction: int) -> bool:
        """Answer callouts until the message goes on; whether it does."""
        message = self._message(direction)
        while message.stopped:
            call = self._around.next_call(self.id)
            if call is None:
                raise StuckError(
                    "the filter holds the message back, and nothing is under way that could let it go on: "
                    "in Envoy it would wait until a timeout"
                )
            self._around.deliver(call)
            if self._local_reply():
                return False
            self._settle(direction)
        return True

    def _local_reply(self) -> bool:
        local, self.local = self.local, None
        if local is None:
            return False
        self._send(local)
        return True

    def _send(self, local: LocalReply) -> None:
        headers = HeaderMap([(":status", str(local.status))], response=True)
        for name, value in local.headers:
            headers.add(name, value)
        headers.replace("content-length", str(len(local.body)).encode())
        if not local.body:
            headers.remove("content-type")
        elif not headers.get("content-type"):
            headers.add("content-type", b"text/plain")
        self.replied = True
        if self.response is None:  # through the filter, as any response
            self.respond(headers, [local.body] if local.body else [], ended=not local.body)
        else:
            self.response = Message(headers, sent=True, passed=bytearray(local.body))


def request_headers(
    method: str,
    path: str,
    pairs: Iterable[tuple[str, str]],
    chunks: list[bytes] | None,
    scheme: str,
    *,
    chunked: bool = False,
) -> HeaderMap:
    """A request as Envoy shows it to the first filter, for an HTTP/1.1 client; several chunks are sent `chunked`."""
    headers = HeaderMap()
    given = list(pairs)
    names = {name for name, _ in given}
    if "host" not in names:
        headers.add(":authority", b"localhost")
    headers.add(":path", path.encode())
    headers.add(":method", method.encode())
    headers.add(":scheme", scheme.encode())
    for name, value in given:
        headers.add(name, value.encode("utf-8", "surrogateescape"))
    if chunked or chunks is not None:
        if chunked or chunks is None or len(chunks) > 1:
            headers.add("transfer-encoding", b"chunked")
        else:
            headers.add("content-length", str(len(chunks[0])).encode())
    if not headers.get("x-forwarded-proto"):
        headers.add("x-forwarded-proto", scheme.encode())
    if not headers.get("x-request-id"):
        headers.add("x-request-id", str(uuid.uuid4()).encode())
    return headers


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


HANDLERS = {
    name: getattr(dispatch, name)
    for name in (
        "on_request_headers",
        "on_request_body",
        "on_request_trailers",
        "on_response_headers",
        "on_response_body",
        "on_response_trailers",
        "on_log",
        "on_delete",
    )
}
