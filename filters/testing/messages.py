"""What a test sends and gets, the same on both hosts."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from filters.sdk.headers import Headers, OwnHeaders
from filters.sdk.messages import Response

HeadersArgument: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
BodyArgument: TypeAlias = bytes | str | Iterable[bytes]


class UpstreamRequest(NamedTuple):
    """A request as an upstream or a called cluster has received it."""

    method: str
    path: str
    """With the query."""
    headers: Headers
    body: bytes
    trailers: Headers = OwnHeaders()

    @property
    def authority(self) -> str:
        """The Host header."""
        return self.headers.get(":authority", "")

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> object:
        """The body, parsed as JSON."""
        return json.loads(self.body)


Upstream: TypeAlias = Callable[[UpstreamRequest], Response]
"""Answers requests: the upstream of the filtered route, or a cluster the filter calls."""


class Answer(NamedTuple):
    """What the client got."""

    status: int
    headers: Headers
    body: bytes
    upstream_request: UpstreamRequest | None
    """What the upstream saw; None if the request did not get there."""
    trailers: Headers = OwnHeaders()

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> object:
        """The body, parsed as JSON."""
        return json.loads(self.body)


class TrailedResponse(Response):
    """What an upstream answers with trailers after the body; over HTTP/1.1 it is sent chunked."""

    __slots__ = ("trailers",)

    def __init__(
        self, status: int = 200, body: bytes | str = b"", headers: HeadersArgument = (), trailers: HeadersArgument = ()
    ) -> None:
        super().__init__(status, body, headers)
        self.trailers: Headers = OwnHeaders(trailers)


class LogLine(NamedTuple):
    """A line of Envoy's log."""

    level: str
    """debug, info, warning or error."""
    text: str


class Failure:
    """In place of an upstream: one that does not answer. `DOWN` refuses connections, `SILENT` takes requests and says nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


INVALID = "invalid configuration: "
"""What the SDK says before each reason."""
DOWN = Failure("DOWN")
SILENT = Failure("SILENT")


def ok(_request: UpstreamRequest) -> Response:
    """The upstream of a test that names none."""
    return Response(200, "ok\n")


def body_chunks(body: BodyArgument) -> list[bytes]:
    """The chunks a body is sent in; a str or bytes is one, with a content-length."""
    if isinstance(body, str):
        return [body.encode()]
    return [body] if isinstance(body, bytes) else list(body)


def header_pairs(headers: HeadersArgument) -> list[tuple[str, str]]:
    """Checked as the SDK checks headers."""
    return OwnHeaders(headers).pairs()
