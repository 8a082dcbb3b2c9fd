"""HTTP/2 frames as bytes, made and read without the code under test: a hand-held client that may do anything a client must not."""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from hpack import Decoder, Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
TYPES = (
    "DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION",
)  # fmt: skip
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20
ERRORS = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
    "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip
SETTING_NAMES = {
    1: "HEADER_TABLE_SIZE",
    2: "ENABLE_PUSH",
    3: "MAX_CONCURRENT_STREAMS",
    4: "INITIAL_WINDOW_SIZE",
    5: "MAX_FRAME_SIZE",
    6: "MAX_HEADER_LIST_SIZE",
}
SETTING_IDS = {name: number for number, name in SETTING_NAMES.items()}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it was on the wire."""

    type: int
    flags: int
    stream: int
    payload: bytes

    @property
    def name(self) -> str:
        return TYPES[self.type] if self.type < len(TYPES) else f"TYPE_{self.type}"

    @property
    def error(self) -> str:
        """The error code of RST_STREAM and GOAWAY."""
        at = 0 if self.type == RST_STREAM else 4
        code = int(struct.unpack_from("!I", self.payload, at)[0])
        return ERRORS[code] if code < len(ERRORS) else str(code)

    @property
    def ends_stream(self) -> bool:
        return self.type in (DATA, HEADERS) and bool(self.flags & END_STREAM)

    def settings(self) -> dict[str, int]:
        pairs = struct.iter_unpack("!HI", self.payload)
        return {SETTING_NAMES.get(number, str(number)): value for number, value in pairs}


def frame(type_: int, stream: int = 0, payload: bytes = b"", flags: int = 0, length: int | None = None) -> bytes:
    """A frame; `length` lies about the payload's."""
    size = len(payload) if length is None else length
    return struct.pack("!BHBBI", size >> 16, size & 0xFFFF, type_, flags, stream) + payload


def settings(values: Mapping[str, int] | None = None, *, ack: bool = False) -> bytes:
    payload = b"".join(struct.pack("!HI", SETTING_IDS[name], value) for name, value in (values or {}).items())
    return frame(SETTINGS, 0, payload, ACK if ack else 0)


def ping(data: bytes = b"01234567", *, ack: bool = False) -> bytes:
    return frame(PING, 0, data, ACK if ack else 0)


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, stream, struct.pack("!I", increment))


def rst_stream(stream: int, code: int = ERRORS.index("CANCEL")) -> bytes:
    return frame(RST_STREAM, stream, struct.pack("!I", code))


def goaway(last: int = 0, code: int = 0, text: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, struct.pack("!II", last, code) + text)


def data(stream: int, payload: bytes, *, end: bool = False) -> bytes:
    return frame(DATA, stream, payload, END_STREAM if end else 0)


def headers(stream: int, block: bytes, *, end: bool = False, done: bool = True) -> bytes:
    return frame(HEADERS, stream, block, (END_STREAM if end else 0) | (END_HEADERS if done else 0))


def continuation(stream: int, block: bytes, *, done: bool) -> bytes:
    return frame(CONTINUATION, stream, block, END_HEADERS if done else 0)


def message(payload: bytes, *, compressed: int = 0, length: int | None = None) -> bytes:
    """A length-prefixed gRPC message."""
    return struct.pack("!BI", compressed, len(payload) if length is None else length) + payload


def read_frames(received: bytearray) -> Iterator[Frame]:
    """Take the whole frames off the front of a buffer."""
    while len(received) >= 9:
        high, low, type_, flags, stream = struct.unpack_from("!BHBBI", received)
        size = high << 16 | low
        if len(received) < 9 + size:
            return
        payload = bytes(received[9 : 9 + size])
        del received[: 9 + size]
        yield Frame(type_, flags, stream & 0x7FFFFFFF, payload)


def request_fields(path: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """The fields of a gRPC request; those in `more` replace the ones of the same name, an empty value leaves one out."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    given: list[tuple[str, str]] = []
    for name, value in more:
        if name in fields:
            fields[name] = value
        else:
            given.append((name, value))
    return [(name, value) for name, value in fields.items() if value] + given


class Coder:
    """Header blocks of one connection, coded with the `hpack` library."""

    def __init__(self, table_size: int = 0) -> None:
        self.encoder = Encoder()
        self.encoder.header_table_size = table_size
        self.decoder = Decoder()

    def request(self, path: str, *more: tuple[str, str]) -> bytes:
        return self.block(request_fields(path, *more))

    def block(self, fields: Iterable[tuple[str, str]]) -> bytes:
        return bytes(self.encoder.encode(list(fields), huffman=True))

    def read(self, block: bytes) -> list[tuple[str, str]]:
        return [(str(name), str(value)) for name, value in self.decoder.decode(block)]

    def call(self, stream: int, path: str, body: bytes, *more: tuple[str, str]) -> bytes:
        """A whole unary call."""
        return headers(stream, self.request(path, *more)) + data(stream, message(body), end=True)
