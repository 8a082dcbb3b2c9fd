"""What a handler sees of a call, and how it refuses one."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol


class StatusCode(IntEnum):
    """The status codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """Raised by a handler: the call ends with this status and message, and without an answer."""

    def __init__(self, code: StatusCode, message: str) -> None:
        """`code` is not OK; the client sees `message`."""
        super().__init__(message)
        self.code = code
        self.message = message


class Metadata(Protocol):
    """The decoded header block of a request (`headers.Head`)."""

    path: str

    def values(self, name: str) -> tuple[str, ...]:
        """Every value of a field, in order."""
        ...

    def value(self, name: str) -> str | None:
        """The same in one, joined by commas."""
        ...


class Call:
    """One unary call, complete: also the event by which a connection hands it over."""

    __slots__ = ("_head", "cancelled", "deadline", "message", "path", "peer_identity", "stream_id")

    def __init__(
        self, stream_id: int, head: Metadata, message: bytes, deadline: float | None, peer_identity: str | None
    ) -> None:
        """Made by the connection when the last byte of the request is there."""
        self.stream_id = stream_id
        self._head = head
        self.path = head.path  # "/package.Service/Method"
        self.message = message
        self.deadline = deadline  # monotonic seconds; None when the client set no timeout
        self.peer_identity = peer_identity  # the SPIFFE id in the client's verified certificate
        self.cancelled = False  # the client has gone, or the deadline has passed: nobody waits for the answer

    def metadata(self, name: str) -> str | None:
        """The value of a request header (`name` in lower case), decoded now; several of one name are joined by commas."""
        return self._head.value(name)

    def metadata_values(self, name: str) -> tuple[str, ...]:
        """Every value of a request header, in the order sent: for callers that must know whether there is more than one."""
        return self._head.values(name)

    def __repr__(self) -> str:
        """Name the call without its contents."""
        return f"Call({self.path}, stream {self.stream_id}, {len(self.message)} bytes)"


def spiffe_id(uris: Sequence[str]) -> str | None:
    """The identity among the URI names of a verified certificate; None if there is none, or more than one URI."""
    return uris[0] if len(uris) == 1 and uris[0].startswith("spiffe://") else None
