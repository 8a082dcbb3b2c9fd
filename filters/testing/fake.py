"""The fake host: a filter as plain Python, in milliseconds."""

import itertools
import json
import struct
from collections.abc import Mapping
from email.utils import formatdate

from filters.sdk import dispatch, host
from filters.sdk.config import ConfigError
from filters.sdk.filter import HttpFilter
from filters.sdk.headers import OwnHeaders
from filters.testing.exchange import DESTINATION_PORT, HANDLERS, SOURCE_PORT, Stream, request_headers
from filters.testing.functions import Call, Functions, LocalReply
from filters.testing.guest import Guest
from filters.testing.headermap import HeaderMap
from filters.testing.hosts import Cluster
from filters.testing.messages import (
    DOWN,
    INVALID,
    SILENT,
    Answer,
    BodyArgument,
    Failure,
    HeadersArgument,
    LogLine,
    TrailedResponse,
    UpstreamRequest,
    body_chunks,
    header_pairs,
    ok,
)

UPSTREAM = "upstream"
REFUSED = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
NO_CONTENT, NOT_MODIFIED = 204, 304
TIMED_OUT = "upstream request timeout"
_contexts = itertools.count(1)
"""Numbers of contexts, different for all hosts: the SDK is imported once."""


class FakeHost:
    """A filter with one configuration, in a fake Envoy with one worker.

    `config` is the JSON object the filter is configured with; ConfigError if the filter refuses it. Requests that pass the filter
    go to `upstream`; `clusters` are those the filter can call.
    """

    def __init__(
        self,
        kind: type[HttpFilter],
        config: Mapping[str, object] | None = None,
        *,
        upstream: Cluster = ok,
        clusters: Mapping[str, Cluster] | None = None,
    ) -> None:
        self.kind = kind
        self.calls: list[UpstreamRequest] = []
        """What the filter has sent to clusters."""
        self._seen: list[UpstreamRequest] = []
        self._upstream = upstream
        self._clusters = {UPSTREAM: upstream, **(clusters or {})}
        self._contexts: dict[int, Stream | _Root] = {}
        self._functions = Functions(self._contexts.get, frozenset(self._clusters))
        self.root = self._functions.root = next(_contexts)
        self._configuration = json.dumps(dict(config or {})).encode()
        self._root = self._contexts[self.root] = _Root(self)
        self._functions.current = self._root
        self._guest = Guest(self._functions)
        if not self._guest.call(dispatch.on_configure, self.root, len(self._configuration)):
            problems = [line.text.removeprefix(INVALID) for line in self.log_lines if line.text.startswith(INVALID)]
            raise ConfigError(list(dict.fromkeys(problems)) or self.logs)

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: HeadersArgument = (),
        body: BodyArgument | None = None,
        trailers: HeadersArgument = (),
        peer_identity: str | None = None,
    ) -> Answer:
        """Send a request through the filter and wait for its end."""
        chunks = None if body is None else body_chunks(body)
        trailing = header_pairs(trailers)
        scheme = "https" if peer_identity else "http"
        sent = request_headers(method, path, header_pairs(headers), chunks, scheme, chunked=bool(trailing))
        stream = Stream(next(_contexts), self, sent, peer_identity)
        self._contexts[stream.id] = stream
        self._seen.clear()
        try:
            ended = not trailing and (not chunks or chunks == [b""])
            answered: list[tuple[str, str]] = []
            if stream.receive(chunks or [], ended=ended, trailers=len(trailing)):
                answered = self._to_upstream(stream, trailing)
            stream.end()
        finally:
            del self._contexts[stream.id]
            self._functions.calls = [call for call in self._functions.calls if call.stream != stream.id]
        response = stream.response
        if response is None:
            raise RuntimeError("the request has ended without a response")
        pairs = [(name, value.strip(" \t")) for name, value in response.headers.text_pairs() if name[0] != ":"]
        answer = OwnHeaders(pairs)
        answer["server"] = "envoy"
        if "date" not in answer:
            answer["date"] = formatdate(usegmt=True)
        status = int(response.headers.get(":status"))
        if status == NO_CONTENT or (status == NOT_MODIFIED and answer.get("content-length") == "0"):
            answer.pop("content-length", None)
        content = b"" if method == "HEAD" or status in (NO_CONTENT, NOT_MODIFIED) else bytes(response.passed)
        left = OwnHeaders(() if "content-length" in answer else answered)
        return Answer(status, answer, content, self._seen[-1] if self._seen else None, left)

    def tick(self) -> None:
        """Let the filter's `on_tick` run once, with the calls it makes."""
        if not self._functions.tick_ms:
            raise ValueError(f"{self.kind.__name__} has no tick_seconds")
        self._functions.current = self._root
        self._guest.call(dispatch.on_tick, self.root)
        while (call := self.next_call(self.root)) is not None:
            self.deliver(call)

    @property
    def log_lines(self) -> list[LogLine]:
        """What the filter has printed and logged, with levels."""
        return list(self._functions.log_lines)

    @property
    def logs(self) -> list[str]:
        """What the filter has printed and logged."""
        return [line.text for line in self._functions.log_lines]

    @property
    def metrics(self) -> Mapping[str, int]:
        """The filter's counters and gauges."""
        return self._functions.metrics

    @property
    def shared(self) -> "_Shared":
        """The shared data."""
        return _Shared(self._functions)

    def close(self) -> None:
        """Forget the filter."""
        dispatch.roots.pop(self.root, None)

    # Surroundings of a stream

    def callback(self, stream: Stream, handler: str, *arguments: int) -> int:
        """Run a callback for a stream."""
        self._functions.current = stream
        return self._guest.call(HANDLERS[handler], stream.id, *arguments)

    def next_call(self, stream: int) -> Call | None:
        """The oldest callout of a stream, taken off the list."""
        for place, call in enumerate(self._functions.calls):
            if call.stream == stream:
                return self._functions.calls.pop(place)
        return None

    def deliver(self, call: Call) -> None:
        """Let the called cluster answer."""
        headers = call.headers
        if call.body:
            headers.replace("content-length", str(len(call.body)).encode())
        _frame(headers)
        headers.add("x-envoy-internal", b"true")
        headers.add("x-envoy-expected-rq-timeout-ms", str(call.timeout_ms).encode())
        cluster = self._clusters[call.cluster]
        if cluster is not DOWN:
            (self._seen if call.cluster == UPSTREAM else self.calls).append(_upstream_request(headers, call.body))
        answer, body, _ = _answer(cluster, _upstream_request(headers, call.body))
        self._root.call = answer, body
        self._functions.current = self._root
        self._guest.call(dispatch.on_http_call_response, self.root, call.number, len(answer), len(body), 0)
        self._root.call = None

    def attribute(self, path: tuple[str, ...]) -> bytes | None:
        """Attributes of the connection and of Envoy."""
        return ATTRIBUTES.get(path) or (self.kind.name.encode() if path in ROOT_NAMES else None)

    def _to_upstream(self, stream: Stream, trailers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The trailers of the answer. A message with a content-length has none over HTTP/1.1."""
        headers = stream.request.headers
        headers.add("x-envoy-expected-rq-timeout-ms", b"15000")
        _frame(headers)
        if self._upstream is DOWN:
            stream.reply_directly(503, REFUSED)
            return []
        kept = [] if headers.get("content-length") else trailers
        request = _upstream_request(headers, bytes(stream.request.passed))._replace(trailers=OwnHeaders(kept))
        self._seen.append(request)
        if self._upstream is SILENT:
            stream.reply_directly(504, TIMED_OUT)
            return []
        answer, content, trailing = _answer(self._upstream, request)
        answer.add("x-envoy-upstream-service-time", b"0")
        if headers.get(":method") == "HEAD":
            content, trailing = b"", []
        stream.respond(answer, [content] if content else [], ended=not (content or trailing), trailers=len(trailing))
        return [] if stream.replied else trailing

    @property
    def configuration(self) -> bytes:
        """What on_configure reads."""
        return self._configuration


class _Shared:
    """Another worker's view."""

    def __init__(self, functions: Functions) -> None:
        self._data = functions.shared

    def get(self, key: str) -> bytes | None:
        found = self._data.get(key)
        return None if found is None else found[0]

    def set(self, key: str, value: bytes | str) -> None:
        self._data.set(key, value.encode() if isinstance(value, str) else value)


class _Root:
    """The root context: configuration and ticks."""

    def __init__(self, owner: FakeHost) -> None:
        self.id = owner.root
        self.call: tuple[HeaderMap, bytes] | None = None
        self._owner = owner

    def headers(self, which: int) -> HeaderMap | None:
        return self.call[0] if self.call and which == host.CALL_HEADERS else None

    def writable(self, which: int) -> HeaderMap | None:
        return None

    def buffer(self, which: int) -> bytearray | None:
        if which == host.CONFIGURATION:
            return bytearray(self._owner.configuration)
        return bytearray(self.call[1]) if self.call and which == host.CALL_BODY else None

    def property(self, path: tuple[str, ...]) -> bytes | None:
        return self._owner.attribute(path)

    def reply(self, local: LocalReply) -> bool:
        return False

    def resume(self, direction: int) -> None:
        pass


def _frame(headers: HeaderMap) -> None:
    """What Envoy's HTTP/1 codec does about the length of a body."""
    if headers.get("content-length"):
        headers.remove("transfer-encoding")
    elif not headers.get("transfer-encoding") and headers.get(":method") not in BODILESS:
        headers.add("content-length", b"0")


def _upstream_request(headers: HeaderMap, body: bytes) -> UpstreamRequest:
    return UpstreamRequest(
        headers.get(":method"),
        headers.get(":path"),
        OwnHeaders(
            [(name, value.strip(" \t")) for name, value in headers.text_pairs() if name in SENT or name[0] != ":"]
        ),
        body,
    )


def _answer(cluster: Cluster, request: UpstreamRequest) -> tuple[HeaderMap, bytes, list[tuple[str, str]]]:
    """Headers, body and trailers; failures are answered by Envoy's router, as a callout sees them too."""
    if isinstance(cluster, Failure):
        status, text = (503, REFUSED) if cluster is DOWN else (504, TIMED_OUT)
        pairs = [("content-length", str(len(text))), ("content-type", "text/plain")]
        return HeaderMap([(":status", str(status)), *pairs], response=True), text.encode(), []
    response = cluster(request)
    headers = HeaderMap([(":status", str(response.status)), *response.headers.pairs()], response=True)
    trailers = response.trailers.pairs() if isinstance(response, TrailedResponse) else []
    if trailers:
        headers.remove("content-length")
        headers.replace("transfer-encoding", b"chunked")
    else:
        headers.replace("content-length", str(len(response.content)).encode())
    headers.add("date", formatdate(usegmt=True).encode())
    return headers, response.content, trailers


BODILESS = frozenset({"GET", "HEAD", "DELETE", "CONNECT"})
SENT = frozenset({":authority"})
ROOT_NAMES = frozenset({("plugin_name",), ("plugin_root_id",)})
ATTRIBUTES: Mapping[tuple[str, ...], bytes] = {
    ("source", "address"): f"127.0.0.1:{SOURCE_PORT}".encode(),
    ("source", "port"): struct.pack("<q", SOURCE_PORT),
    ("destination", "address"): f"127.0.0.1:{DESTINATION_PORT}".encode(),
    ("destination", "port"): struct.pack("<q", DESTINATION_PORT),
    ("xds", "cluster_name"): UPSTREAM.encode(),
    ("xds", "route_name"): b"all",
}
