"""Header fields as HPACK writes them without a dynamic table (RFC 7541, section 6), and what each field is to a gRPC server."""

import re
from typing import Final

from hpack import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from lateen.wire.call import RpcError, StatusCode
from lateen.wire.frames import ErrorCode, Http2Error

# What a field is to us. The first four are pseudo-headers; a request has each of these at most once.
METHOD, SCHEME, AUTHORITY, PATH = 1, 2, 4, 8
LAST_PSEUDO: Final = PATH
CONTENT_TYPE, TE, TIMEOUT, ENCODING, CONTENT_LENGTH = 16, 32, 64, 128, 256
FORBIDDEN: Final = 512  # a name that HTTP/2 does not allow in a request
_ROLES: Final = {
    b":method": METHOD,
    b":scheme": SCHEME,
    b":authority": AUTHORITY,
    b":path": PATH,
    b"content-type": CONTENT_TYPE,
    b"te": TE,
    b"grpc-timeout": TIMEOUT,
    b"grpc-encoding": ENCODING,
    b"content-length": CONTENT_LENGTH,
    b"connection": FORBIDDEN,
    b"proxy-connection": FORBIDDEN,
    b"keep-alive": FORBIDDEN,
    b"transfer-encoding": FORBIDDEN,
    b"upgrade": FORBIDDEN,
}
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MAX_INTEGER_BYTES: Final = 4
_MAX_NAME_BYTES: Final = 256
_MOST_UPDATES: Final = 2
_LONG_INDEX: Final = frozenset((0x0F, 0x1F))
LITERAL_NAME: Final = frozenset((0x00, 0x10, 0x40))
LENGTH: Final = 0x7F  # of a string: the bits, and the value that says that more bytes follow
HUFFMAN: Final = 0x80
INDEXED: Final = 0x80

Name = tuple[str, int]  # and its role


class CompressionError(Http2Error):
    """The block cannot be decoded: the connection is lost (RFC 9113, section 4.3)."""

    def __init__(self, reason: str) -> None:
        """Say what is wrong with it."""
        super().__init__(ErrorCode.COMPRESSION_ERROR, reason)


def role_of(name: bytes) -> int:
    """What a field is to us; 0 is metadata."""
    role = _ROLES.get(name)
    if role is None:
        role = 0 if _TOKEN.fullmatch(name) else FORBIDDEN
    return role


def _single_byte_names() -> dict[int, Name]:
    names: dict[int, Name] = {}
    for index, (raw, _) in enumerate(HeaderTable.STATIC_TABLE, 1):
        name = (raw.decode(), role_of(raw))
        names[INDEXED | index] = names[0x40 | index] = name
        if index < LENGTH & 0x0F:
            names[index] = names[0x10 | index] = name
    return names


# By the first byte of a field that names an entry of the static table: the name, and for an indexed field the value.
STATIC_NAMES: Final = _single_byte_names()
STATIC_VALUES: Final = {INDEXED | index: raw.decode() for index, (_, raw) in enumerate(HeaderTable.STATIC_TABLE, 1)}


def long_integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """The integer whose prefix is full, continued at `at`, and the position after it (section 5.1)."""
    value, shift = prefix, 0
    for position in range(at, at + _MAX_INTEGER_BYTES):
        byte = block[position]
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise CompressionError("an integer of too many bytes")


def value_at(block: bytes, first: int) -> int:
    """Where the value of a literal field begins that is none of `STATIC_NAMES`; `first` is where the field does."""
    if block[first] in LITERAL_NAME:
        size, start = string_at(block, first + 1)
        return start + size
    if block[first] in _LONG_INDEX:
        return long_integer(block, first + 1, 0x0F)[1]
    raise CompressionError("a table size update inside a block, or a field of a table that is empty")


def string_at(block: bytes, at: int) -> tuple[int, int]:
    """The length of the string at `at`, and where its bytes begin."""
    size = block[at] & LENGTH
    return (size, at + 1) if size != LENGTH else long_integer(block, at + 1, LENGTH)


def field_end(block: bytes, at: int) -> int:
    """Where the field at `at` ends."""
    if block[at] >= INDEXED:
        return at + 1
    size, start = string_at(block, at + 1 if block[at] in STATIC_NAMES else value_at(block, at))
    return start + size


def too_many_updates(block: bytes) -> bool:
    """Whether a block begins with more table size updates than an encoder has reason to send (section 4.2): each costs us time."""
    at = 0
    try:
        for _ in range(_MOST_UPDATES):
            if block[at] & 0xE0 != 0x20:
                return False
            at = at + 1 if block[at] & 0x1F != 0x1F else long_integer(block, at + 1, 0x1F)[1]
        return block[at] & 0xE0 == 0x20
    except IndexError:
        return False


def parse_name(key: bytes) -> Name:
    """The name and role in a literal field up to its value."""
    if key[0] in LITERAL_NAME:
        if len(key) > _MAX_NAME_BYTES:
            return ("", FORBIDDEN)
        _, start = string_at(key, 1)
        raw = decode_string(key[start:], huffman=key[1] >= HUFFMAN)
        return (raw.decode("latin-1"), role_of(raw))
    index, _ = long_integer(key, 1, 0x0F)
    if index > len(HeaderTable.STATIC_TABLE):
        raise CompressionError("a field of a table that is empty")
    return STATIC_NAMES[INDEXED | index]


def parse_value(raw: bytes) -> str:
    """The text of a value, `raw` being its length and bytes; raises if it is badly coded or has control characters."""
    _, start = string_at(raw, 0)
    decoded = decode_string(raw[start:], huffman=raw[0] >= HUFFMAN)
    try:
        text = decoded.decode()
    except UnicodeDecodeError:
        text = decoded.decode("latin-1")
    if _CONTROL.search(text):
        raise RpcError(StatusCode.INVALID_ARGUMENT, "a header value with control characters")
    return text


def decode_string(raw: bytes, *, huffman: bool) -> bytes:
    """The bytes of a string (section 5.2)."""
    if not huffman:
        return raw
    try:
        return bytes(decode_huffman(raw))
    except HPACKDecodingError as error:
        raise CompressionError("a badly coded string") from error


def literal(name: bytes, value: bytes) -> bytes:
    """A field written out: never in a table, no Huffman code."""
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(value: int) -> bytes:
    if value < LENGTH:
        return bytes((value,))
    value -= LENGTH
    coded = bytearray((LENGTH,))
    while value >= 0x80:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    coded.append(value)
    return bytes(coded)
