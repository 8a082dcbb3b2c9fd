"""HTTP/2 frames as bytes (RFC 9113, section 6): constants, builders of what a server sends, checks of what a client sends.

Splitting the stream of bytes into frames is `connection`'s loop.
"""

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

MAX_WINDOW: Final = 0x7FFF_FFFF
MAX_STREAM_ID: Final = 0x7FFF_FFFF
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME_SIZE: Final = 16_384
LARGEST_FRAME_SIZE: Final = 16_777_215
FRAME_HEADER_BYTES: Final = 9
PRIORITY_BYTES: Final = 5
PING_BYTES: Final = 8


class ErrorCode(IntEnum):
    """Error codes of RST_STREAM and GOAWAY."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Setting(IntEnum):
    """Parameters of SETTINGS."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6
    NO_RFC7540_PRIORITIES = 0x9


class Http2Error(Exception):
    """An error of the whole connection, told by GOAWAY."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        """`reason` is shown to the client as debug data."""
        super().__init__(reason)
        self.code = code
        self.reason = reason


# Length (its high 16 bits, its low 8), type, flags, stream.
FRAME_HEADER: Final = Struct(">HBBBI")
_SETTING: Final = Struct(">HI")
_U32: Final = Struct(">I")
_GOAWAY: Final = Struct(">II")

SETTINGS_ACK: Final = FRAME_HEADER.pack(0, 0, SETTINGS, ACK, 0)
_DEBUG_BYTES: Final = 120


def frame(frame_type: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Any frame."""
    size = len(payload)
    return FRAME_HEADER.pack(size >> 8, size & 0xFF, frame_type, flags, stream_id) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def rst_stream(stream_id: int, code: int) -> bytes:
    """End one stream at once."""
    return frame(RST_STREAM, 0, stream_id, _U32.pack(code))


def window_update(stream_id: int, increment: int) -> bytes:
    """Allow the client to send `increment` bytes more; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _U32.pack(increment))


def ping(payload: bytes, *, ack: bool) -> bytes:
    """A PING of eight bytes, or the answer to one."""
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int, code: int, debug: str = "") -> bytes:
    """No stream above `last_stream_id` was or will be served."""
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last_stream_id, code) + debug.encode("utf-8", "replace")[:_DEBUG_BYTES])


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """The parameters of SETTINGS in order, each within its range (section 6.5.2)."""
    if len(payload) % _SETTING.size:
        raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "settings of a wrong size")
    parameters = [(int(key), int(value)) for key, value in _SETTING.iter_unpack(payload)]
    for key, value in parameters:
        if key == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "the initial window is too large")
        if key == Setting.MAX_FRAME_SIZE and not DEFAULT_FRAME_SIZE <= value <= LARGEST_FRAME_SIZE:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a frame size out of range")
        if key == Setting.ENABLE_PUSH and value > 1:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "enable_push is neither 0 nor 1")
    return parameters


def parse_u32(payload: bytes) -> int:
    """The number that is the whole payload, without the reserved bit."""
    check_size(payload, _U32.size)
    return int.from_bytes(payload, "big") & MAX_STREAM_ID


def check_size(payload: bytes, size: int) -> None:
    """For frames whose payload has one size only."""
    if len(payload) != size:
        raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a frame of a wrong size")


def check_priority(stream_id: int, payload: bytes) -> None:
    """Priorities mean nothing to us; a `payload` that begins with one must be well formed all the same."""
    if len(payload) < PRIORITY_BYTES:
        raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "a priority cut short")
    if stream_id == 0 or parse_u32(payload[:4]) == stream_id:
        raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself, or on no stream")


def unpad(payload: bytes) -> bytes:
    """The payload of a PADDED frame without its padding."""
    if not payload or payload[0] >= len(payload):
        raise Http2Error(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]
