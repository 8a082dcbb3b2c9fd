"""What we answer, as frames: encoded once where nothing varies. Fields are literals without a table, so nothing must be remembered."""

from struct import Struct
from typing import Final

from lateen.wire.call import StatusCode
from lateen.wire.fields import literal
from lateen.wire.frames import DATA, END_HEADERS, END_STREAM, HEADERS, frame
from lateen.wire.refusals import Refusal

_STATUS_200: Final = b"\x88"
_HEAD: Final = _STATUS_200 + literal(b"content-type", b"application/grpc")
_OK: Final = literal(b"grpc-status", b"0")
_PREFIX: Final = Struct(">BI")
PREFIX_BYTES: Final = 5
# A whole answer around its message: HEADERS, the header of one DATA frame with the message's prefix, and the trailers after it.
_BEFORE: Final = Struct(f">5sI{len(_HEAD)}sHBHIBI")
_BEFORE_START: Final = frame(HEADERS, END_HEADERS, 0, _HEAD)[:5]
_AFTER: Final = Struct(f">5sI{len(_OK)}s")
_AFTER_START: Final = frame(HEADERS, END_HEADERS | END_STREAM, 0, _OK)[:5]
_MESSAGE_BYTES: Final = 1024
_PLAIN: Final = frozenset(range(0x20, 0x7F)) - {ord("%")}


def whole_answer(stream_id: int, message: bytes) -> bytes:
    """Headers, one DATA frame and trailers, for a message that fits one frame and both windows."""
    size = len(message)
    framed = size + 5
    return (
        _BEFORE.pack(_BEFORE_START, stream_id, _HEAD, framed >> 8, framed & 0xFF, DATA, stream_id, 0, size)
        + message
        + _AFTER.pack(_AFTER_START, stream_id, _OK)
    )


def answer_headers(stream_id: int) -> bytes:
    """The headers of an answer that goes out in parts."""
    return frame(HEADERS, END_HEADERS, stream_id, _HEAD)


def answer_body(message: bytes) -> bytes:
    """The message with its prefix."""
    return _PREFIX.pack(0, len(message)) + message


def answer_trailers(stream_id: int) -> bytes:
    """The end of a good answer."""
    return frame(HEADERS, END_HEADERS | END_STREAM, stream_id, _OK)


def trailers_only(stream_id: int, code: int, message: str) -> bytes:
    """A whole answer that is an error; it has no body, so no window holds it up."""
    block = _HEAD + literal(b"grpc-status", str(int(code)).encode())
    if code == StatusCode.UNIMPLEMENTED:
        block += literal(b"grpc-accept-encoding", b"identity")
    if message:
        block += literal(b"grpc-message", percent_encode(message))
    return frame(HEADERS, END_HEADERS | END_STREAM, stream_id, block)


def http_headers(stream_id: int, refusal: Refusal) -> bytes:
    """The headers of an answer to what is no gRPC call; `refusal.message` is its body."""
    fields = [(b":status", str(refusal.http_status).encode()), (b"content-type", b"text/plain")]
    block = b"".join(literal(name, value) for name, value in fields)
    return frame(HEADERS, END_HEADERS, stream_id, block)


def percent_encode(message: str) -> bytes:
    """A message as grpc-message has it: printable ASCII but for the percent sign, the rest as %XX, cut to a bounded length."""
    raw = message.encode("utf-8", "replace")[:_MESSAGE_BYTES]
    return b"".join(bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in raw)
