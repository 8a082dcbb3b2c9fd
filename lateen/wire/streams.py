"""One request on its way in and its answer on its way out: the state of a stream, and the message inside its DATA frames."""

from typing import Final

from lateen.wire.headers import Head
from lateen.wire.lifetime import NEVER
from lateen.wire.refusals import (
    BAD_PREFIX,
    COMPRESSED,
    CUT_SHORT,
    MALFORMED,
    NOT_ONE_MESSAGE,
    TOO_LARGE,
    Refusal,
)

_PREFIX: Final = 5


class Stream:
    """A stream between the client's HEADERS and the last byte of our answer.

    What most streams never change is an attribute of the class, which makes them cheaper than slots would.
    """

    deadline = NEVER  # of the call
    body: bytes | bytearray = b""  # DATA before the last frame
    passed_over = 0  # bytes of a body that is no call
    ended = False  # the client has sent its last byte
    called = False  # the call was handed over
    answered = False  # the answer was given, though it may wait for a window
    out = b""  # the answer's body, if it goes out in parts
    sent = 0  # how much of `out` went
    trailers = b""  # frames after `out`

    def __init__(self, stream_id: int, head: Head, weight: int, credit: int, window: int, now: float) -> None:
        """A stream whose header block is complete."""
        self.id = stream_id
        self.head = head
        self.weight = weight  # bytes that it is reckoned to take, with its header block
        self.credit = credit  # what the client may still send
        self.window = window  # what we may still send
        self.since = now  # when the headers came, then when our answer last moved

    def message(self, payload: bytes, most: int) -> bytes | Refusal:
        """The one message of a complete request whose last DATA is `payload`, or what is wrong with it."""
        body: bytes | bytearray = payload
        if self.body:
            self.body += payload
            body = self.body
        size = len(body) - _PREFIX
        length = self.head.content_length
        if self.head.refusal is not None:
            matches = length is None or length == len(body) + self.passed_over
            return self.head.refusal if matches else MALFORMED
        if length is not None and length != len(body):
            return MALFORMED
        if size >= 0 and body[0] == 0 and int.from_bytes(body[1:5], "big") == size and size <= most:
            return body[_PREFIX:] if isinstance(body, bytes) else bytes(memoryview(body)[_PREFIX:])
        if not body:
            return NOT_ONE_MESSAGE
        return problem(body, most) or CUT_SHORT


def problem(body: bytes | bytearray, most: int) -> Refusal | None:
    """What is wrong with the beginning of a body, as early as it shows; `most` bytes make the largest message."""
    if not body:
        return None
    if body[0]:
        return COMPRESSED if body[0] == 1 else BAD_PREFIX
    if len(body) >= _PREFIX:
        announced = int.from_bytes(body[1:5], "big")
        if announced > most:
            return TOO_LARGE
        if len(body) - _PREFIX > announced:
            return NOT_ONE_MESSAGE
    return None


class Recent:
    """The last few thousand stream ids given, in two generations: bounded, and without a queue."""

    __slots__ = ("_most", "_new", "_old")

    def __init__(self, most: int) -> None:
        """At least the last `most` ids are known, and at most twice as many."""
        self._most = most
        self._new: set[int] = set()
        self._old: set[int] = set()

    def add(self, stream_id: int) -> None:
        """Remember."""
        if len(self._new) >= self._most:
            self._old, self._new = self._new, set()
        self._new.add(stream_id)

    def __contains__(self, stream_id: int) -> bool:
        """Whether it was given lately."""
        return stream_id in self._new or stream_id in self._old
