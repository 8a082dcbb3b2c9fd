"""Request and Response."""

import json
from collections.abc import Iterable, Mapping

from filters.sdk import host
from filters.sdk.headers import Headers, LiveHeaders, OwnHeaders
from filters.sdk.properties import Properties
from filters.sdk.streaming import BodyChunks, BodyTooLargeError
from filters.sdk.urls import parse_cookies, parse_query
from filters.sdk.waiting import BodyWait

DEFAULT_BODY_LIMIT = 1024 * 1024
"""Envoy's own default for a connection's buffer."""


LOWEST_STATUS, HIGHEST_STATUS = 200, 599


class _Live:
    """A message that passes through Envoy."""

    __slots__ = ("_arrived", "_body", "_direction", "_ended", "_read", "headers")

    def __init__(self, direction: int, headers: int, *, ended: bool = False) -> None:
        self.headers: Headers = LiveHeaders(headers)
        self._direction = direction
        self._body: bytes | None = None
        self._ended = ended
        self._arrived = 0  # bytes that came while the filter waited for something else
        self._read = False

    async def body(self, limit: int | None = None) -> bytes:
        """The whole body; the message waits in Envoy until it is there. More than `limit` bytes raises BodyTooLargeError."""
        check_limit(limit)
        if self._ended:
            return b""
        if self._body is None:
            self._start_reading()
            self._body = await BodyWait(self._direction, DEFAULT_BODY_LIMIT if limit is None else limit)
        if limit is not None and len(self._body) > limit:
            raise BodyTooLargeError(f"the body is larger than {limit} bytes")
        return self._body

    def body_chunks(self, limit: int | None = None, *, replace: bool = False) -> BodyChunks:
        """The body piece by piece, as it comes: `async for chunk in request.body_chunks()`.

        The headers wait for the first chunk: until the loop asks for the second they can be changed, or an answer be returned.
        `replace` allows `chunk.data = ...` and takes content-length away. More than `limit` bytes in all raise BodyTooLargeError.
        """
        check_limit(limit)
        if self._ended:
            return BodyChunks(self._direction)
        if replace:
            self.headers.pop("content-length", None)
        return BodyChunks(self._direction, self._start_chunks, limit=limit, replace=replace)

    def _start_chunks(self) -> tuple[int, bool]:
        """Bytes that are there when the first chunk is asked for, and whether that is all."""
        self._start_reading()
        return self._arrived, self._body is not None

    def _start_reading(self) -> None:
        if self._read:
            raise RuntimeError("the body has been read already, or is being read")
        self._read = True

    async def text(self, limit: int | None = None) -> str:
        """The body, decoded as UTF-8."""
        return (await self.body(limit)).decode()

    async def json(self, limit: int | None = None) -> object:
        """The body, parsed as JSON."""
        return json.loads(await self.body(limit))

    def set_body(self, body: bytes | str) -> None:
        """Replace a body that was awaited; content-length follows."""
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, bytes):
            raise TypeError(f"a body must be bytes or str, not {type(body).__name__}")
        if self._body is None or self._ended:
            raise RuntimeError("await body() first: only a body that was waited for can be replaced")
        host.set_buffer(self._direction, 0, 0xFFFFFFFF, body)
        self.headers["content-length"] = str(len(body))
        self._body = body


class Request(_Live):
    """A request on its way to the upstream."""

    __slots__ = ("properties",)

    def __init__(self, *, ended: bool = False) -> None:
        super().__init__(host.REQUEST, host.REQUEST_HEADERS, ended=ended)
        self.properties = Properties()

    def keep_headers(self) -> None:
        """The request leaves: what its headers are now is kept for on_response and on_log."""
        headers = LiveHeaders(host.REQUEST_HEADERS) if type(self.headers) is not LiveHeaders else self.headers
        headers.keep(host.get_headers(host.REQUEST_HEADERS) or bytes(4))
        self.headers = headers

    @property
    def method(self) -> str:
        return self.headers.get(":method", "")

    @property
    def target(self) -> str:
        """Path and query as sent (":path"); may be set."""
        return self.headers.get(":path", "")

    @target.setter
    def target(self, value: str) -> None:
        self.headers[":path"] = value

    @property
    def path(self) -> str:
        """The path without the query; setting it keeps the query."""
        return self.target.partition("?")[0]

    @path.setter
    def path(self, value: str) -> None:
        _, question, query = self.target.partition("?")
        self.target = value + question + query

    @property
    def query(self) -> dict[str, str]:
        """Parameters of the query, decoded; of a name that occurs twice the first."""
        return parse_query(self.target.partition("?")[2])

    @property
    def cookies(self) -> dict[str, str]:
        return parse_cookies(self.headers.get("cookie", ""))

    @property
    def authority(self) -> str:
        """The host (":authority"); may be set."""
        return self.headers.get(":authority", "")

    @authority.setter
    def authority(self, value: str) -> None:
        self.headers[":authority"] = value

    @property
    def scheme(self) -> str:
        return self.headers.get(":scheme", "")


class Response:
    """An answer: one to send from here (`return Response(403, "no")`), one of an HTTP call, or the upstream's."""

    __slots__ = ("_content", "_status", "headers")

    def __init__(
        self,
        status: int = 200,
        body: bytes | str = b"",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> None:
        self.headers: Headers = OwnHeaders(headers)
        self.status = status
        self.set_body(body)

    @property
    def status(self) -> int:
        return self._status

    @status.setter
    def status(self, value: int) -> None:
        self._status = check_status(value)

    @property
    def content(self) -> bytes:
        """The body, if it is already here."""
        return self._content

    async def body(self, limit: int | None = None) -> bytes:
        """The whole body."""
        if limit is not None and len(self._content) > limit:
            raise BodyTooLargeError(f"the body is larger than {limit} bytes")
        return self._content

    async def text(self, limit: int | None = None) -> str:
        """The body, decoded as UTF-8."""
        return (await self.body(limit)).decode()

    async def json(self, limit: int | None = None) -> object:
        """The body, parsed as JSON."""
        return json.loads(await self.body(limit))

    def body_chunks(self, limit: int | None = None, *, replace: bool = False) -> BodyChunks:
        """The body piece by piece: only of a response that is on its way."""
        raise RuntimeError("this response is no stream: its body is in `content`")

    def set_body(self, body: bytes | str) -> None:
        """Replace the body."""
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, bytes):
            raise TypeError(f"a body must be bytes or str, not {type(body).__name__}")
        self._content = body

    @classmethod
    def of_json(cls, value: object, status: int = 200) -> "Response":
        """A response whose body is `value` as JSON."""
        return cls(status, json.dumps(value), {"content-type": "application/json"})


class _LiveBody(_Live):
    __slots__ = ()


class LiveResponse(Response):
    """The upstream's response (or another filter's) on its way to the client."""

    __slots__ = ("live",)

    def __init__(self) -> None:
        self.live = _LiveBody(host.RESPONSE, host.RESPONSE_HEADERS)
        self.headers = self.live.headers

    @property
    def status(self) -> int:
        return int(self.headers.get(":status", 0))

    @status.setter
    def status(self, value: int) -> None:
        self.headers[":status"] = str(check_status(value))

    @property
    def content(self) -> bytes:
        raise RuntimeError("the body is on its way: use `await response.body()`")

    async def body(self, limit: int | None = None) -> bytes:
        return await self.live.body(limit)

    def body_chunks(self, limit: int | None = None, *, replace: bool = False) -> BodyChunks:
        """The body piece by piece; see `Request.body_chunks`."""
        return self.live.body_chunks(limit, replace=replace)

    def set_body(self, body: bytes | str) -> None:
        self.live.set_body(body)


def check_limit(limit: int | None) -> None:
    """TypeError or ValueError if `limit` is no number of bytes."""
    if limit is None:
        return
    if not isinstance(limit, int):
        raise TypeError(f"a limit must be int (bytes), not {type(limit).__name__}")
    if limit < 0:
        raise ValueError(f"a limit of bytes cannot be negative: {limit}")


def check_status(value: int) -> int:
    """An HTTP status; TypeError or ValueError if it is none."""
    if type(value) is not int:
        raise TypeError(f"a status must be int, not {type(value).__name__}")
    if not LOWEST_STATUS <= value <= HIGHEST_STATUS:
        raise ValueError(f"not a status a response can have: {value}")
    return value
