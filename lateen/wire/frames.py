"""HTTP/2 frames as bytes (RFC 9113, section 6): the constants, and builders for what a server sends. Parsing is `connection`'s loop."""

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


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """The parameters in order; `payload` is a multiple of six bytes long."""
    return [(int(key), int(value)) for key, value in _SETTING.iter_unpack(payload)]


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


def u32(payload: bytes) -> int:
    """The number in a payload of four bytes, without the reserved bit."""
    return int.from_bytes(payload, "big") & 0x7FFF_FFFF
