"""Request header blocks (HPACK, RFC 7541): decoded once, then recognised by their bytes; values only when a handler asks.

We advertise a dynamic table of size 0, so once the client has said so too, a block means the same whenever it comes: whole
blocks, field names and field values are cached by their bytes, each in a bounded table shared by all connections. Until then
(the first calls of a connection) `hpack` decodes with its table, and the result is written anew as a block without state.

A value nobody asks for is measured and not decoded: with no table, a badly coded value cannot shift what follows it.
"""

import re
from typing import Final

from hpack import HPACKDecodingError, OversizedHeaderListError
from hpack.hpack import Decoder
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from lateen.wire.call import RpcError, StatusCode
from lateen.wire.frames import ErrorCode, Http2Error
from lateen.wire.limits import Limits
from lateen.wire.refusals import (
    MALFORMED,
    NOT_GRPC,
    NOT_POST,
    TOO_MANY_HEADERS,
    WRONG_ENCODING,
    WRONG_TIMEOUT,
    Refusal,
)

# What a field is to us. The first four are pseudo-headers; a request has each special field at most once.
_METHOD, _SCHEME, _AUTHORITY, _PATH = 1, 2, 4, 8
_CONTENT_TYPE, _TE, _TIMEOUT, _ENCODING, _CONTENT_LENGTH, _FORBIDDEN = 16, 32, 64, 128, 256, 512
_PSEUDO: Final = 15
_ROLE_BITS: Final = frozenset({_METHOD, _SCHEME, _PATH})
_ROLES: Final = {
    b":method": _METHOD,
    b":scheme": _SCHEME,
    b":authority": _AUTHORITY,
    b":path": _PATH,
    b"content-type": _CONTENT_TYPE,
    b"te": _TE,
    b"grpc-timeout": _TIMEOUT,
    b"grpc-encoding": _ENCODING,
    b"content-length": _CONTENT_LENGTH,
    b"connection": _FORBIDDEN,
    b"proxy-connection": _FORBIDDEN,
    b"keep-alive": _FORBIDDEN,
    b"transfer-encoding": _FORBIDDEN,
    b"upgrade": _FORBIDDEN,
}
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_TIMEOUT_FORM: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNIT_SECONDS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_NOT_IN_VALUES: Final = re.compile("[\x00\r\n]")
_GRPC: Final = re.compile(r"application/grpc(?:[+;].*)?", re.IGNORECASE)
_STATIC_SIZE: Final = 61
_MAX_INTEGER_BYTES: Final = 4
_NO_TABLE: Final = b"\x20"  # a table size update to 0
_MAX_NAME_BYTES: Final = 256
_CACHED_BLOCK_BYTES: Final = 1024
_CACHED_VALUE_BYTES: Final = 256


class CompressionError(Http2Error):
    """The block cannot be decoded: the connection is lost (RFC 9113, section 4.3)."""

    def __init__(self, reason: str) -> None:
        """Say what is wrong with it."""
        super().__init__(ErrorCode.COMPRESSION_ERROR, reason)


class Head:
    """The header fields of one request; shared by all calls that send the same bytes, so never changed."""

    __slots__ = ("_block", "_cache", "_names", "_spots", "content_length", "path", "refusal", "timeout")

    def __init__(
        self,
        cache: "HeaderCache",
        block: bytes,
        names: list[str],
        spots: list[int],
        path: str,
        timeout: float | None,
        content_length: int | None,
        refusal: Refusal | None,
    ) -> None:
        """`spots` are where the values start in `block`; a negative one is a whole field of the static table."""
        self._cache = cache
        self._block = block
        self._names = names
        self._spots = spots
        self.path = path
        self.timeout = timeout  # seconds
        self.content_length = content_length
        self.refusal = refusal  # why this is no call we serve

    @property
    def names(self) -> tuple[str, ...]:
        """Every field name, in order."""
        return tuple(self._names)

    def values(self, name: str) -> tuple[str, ...]:
        """Every value of a field, in order; raises CompressionError for one that cannot be decoded."""
        names = self._names
        if name not in names:
            return ()
        first = names.index(name)
        if name not in names[first + 1 :]:
            return (self._value(self._spots[first]),)
        return tuple(self._value(spot) for key, spot in zip(names, self._spots, strict=True) if key == name)

    def _value(self, spot: int) -> str:
        return STATIC_VALUES[-spot] if spot < 0 else self._cache.value(self._block, spot)


class HeaderCache:
    """What was decoded before, by its bytes. When a table is full it starts anew: nobody can make it grow or linger."""

    def __init__(self, limits: Limits, entries: int = 512) -> None:
        """At most `entries` blocks, names and values each."""
        self._entries = entries
        self._max_fields = limits.header_count
        self._blocks: dict[bytes, Head] = {}
        self._names: dict[bytes, tuple[str, int]] = {}
        self._values: dict[bytes, str] = {}

    def __len__(self) -> int:
        """The number of things held."""
        return len(self._blocks) + len(self._names) + len(self._values)

    def head(self, block: bytes) -> Head:
        """The head in a block that uses no dynamic table."""
        head = self._blocks.get(block)
        if head is None:
            head = self._parse(block)
            if len(block) <= _CACHED_BLOCK_BYTES:
                if len(self._blocks) >= self._entries:
                    self._blocks.clear()
                self._blocks[block] = head
        return head

    def are_trailers(self, block: bytes) -> bool:
        """Whether a block is well formed as trailers: no pseudo-header, no forbidden name."""
        names, _, special, malformed = self._walk(block)
        return not malformed and len(names) <= self._max_fields and not any(role & _PSEUDO for role in special)

    def value(self, block: bytes, at: int) -> str:
        """The value whose length prefix stands at `at`."""
        coded = block[at]
        size = coded & 0x7F
        start = at + 1
        if size == 0x7F:
            size, start = _long_integer(block, start, 0x7F)
        raw = block[at : start + size]
        text = self._values.get(raw)
        if text is None:
            text = _text(_decode_string(raw[start - at :], huffman=coded >= 0x80))
            if size <= _CACHED_VALUE_BYTES:
                if len(self._values) >= self._entries:
                    self._values.clear()
                self._values[raw] = text
        return text

    def _walk(self, block: bytes) -> tuple[list[str], list[int], dict[int, int], bool]:
        """Names, where their values are, the special ones among them, and whether their names or order are malformed."""
        names: list[str] = []
        spots: list[int] = []
        special: dict[int, int] = {}
        malformed = regular = False
        known = self._names
        at, end = 0, len(block)
        try:
            while at < end:
                first = block[at]
                if first >= 0x80:
                    name, role = _INDEXED[first]
                    spot = -first
                    at += 1
                else:
                    if first in (0x40, 0x00, 0x10):  # the name is written out
                        size = block[at + 1] & 0x7F
                        spot = at + 2
                        if size == 0x7F:
                            size, spot = _long_integer(block, spot, 0x7F)
                        spot += size
                    elif first in (0x0F, 0x1F):
                        _, spot = _long_integer(block, at + 1, 0x0F)
                    else:
                        spot = at + 1
                    key = block[at:spot]
                    found = known.get(key)
                    name, role = self._name(key) if found is None else found
                    size = block[spot] & 0x7F
                    at = spot + 1
                    if size == 0x7F:
                        size, at = _long_integer(block, at, 0x7F)
                    at += size
                names.append(name)
                spots.append(spot)
                if role == 0:
                    regular = True
                elif role in special or role == _FORBIDDEN:
                    malformed = True
                else:
                    special[role] = spot
                    if role > _PSEUDO:
                        regular = True
                    elif regular:
                        malformed = True
        except (IndexError, KeyError):
            raise CompressionError("a header block that ends early or names no field of the static table") from None
        if at > end:
            raise CompressionError("a header block that ends early")
        return names, spots, special, malformed

    def _name(self, key: bytes) -> tuple[str, int]:
        """Decode a field name seen for the first time: `key` is a literal field up to its value."""
        first = key[0]
        if first in (0x40, 0x00, 0x10):
            start = 2 if key[1] & 0x7F != 0x7F else _long_integer(key, 2, 0x7F)[1]
            raw = _decode_string(key[start:], huffman=key[1] >= 0x80) if len(key) <= _MAX_NAME_BYTES else b""
        elif first & 0xE0 == 0x20:
            raise CompressionError("a table size update inside a header block")
        else:
            index = first & 0x3F if first >= 0x40 else first & 0x0F
            if first in (0x0F, 0x1F):
                index, _ = _long_integer(key, 1, 0x0F)
            if not 1 <= index <= _STATIC_SIZE:
                raise CompressionError("a field of a dynamic table that is empty")
            raw = HeaderTable.STATIC_TABLE[index - 1][0]
        found = (raw.decode("latin-1"), _role(raw))
        if len(self._names) >= self._entries:
            self._names.clear()
        self._names[key] = found
        return found

    def _parse(self, block: bytes) -> Head:
        names, spots, special, malformed = self._walk(block)
        if malformed or special.keys() & _ROLE_BITS != _ROLE_BITS:
            return Head(self, b"", [], [], "", None, None, MALFORMED)
        text = {
            role: STATIC_VALUES[-spot] if spot < 0 else self.value(block, spot)
            for role, spot in special.items()
            if role != _AUTHORITY
        }
        path = text[_PATH]
        length = text.get(_CONTENT_LENGTH, "0")
        if not path or not text[_SCHEME] or text.get(_TE, "trailers").lower() != "trailers" or not length.isdecimal():
            return Head(self, b"", [], [], "", None, None, MALFORMED)
        refusal: Refusal | None = None
        timeout: float | None = None
        if text[_METHOD] != "POST":
            refusal = NOT_POST
        elif not _GRPC.fullmatch(text.get(_CONTENT_TYPE, "")):
            refusal = NOT_GRPC
        elif len(names) > self._max_fields:
            refusal = TOO_MANY_HEADERS
        elif text.get(_ENCODING, "identity") != "identity":
            refusal = WRONG_ENCODING
        elif _TIMEOUT in text:
            timeout = _parse_timeout(text[_TIMEOUT])
            refusal = WRONG_TIMEOUT if timeout is None else None
        content_length = int(length[:18]) if _CONTENT_LENGTH in text else None
        if len(names) > self._max_fields:
            names, spots, block = [], [], b""
        return Head(self, block, names, spots, path, timeout, content_length, refusal)


class HeaderDecoder:
    """The header blocks of one connection: with `hpack` and its table until the client gives the table up."""

    def __init__(self, cache: HeaderCache, limits: Limits) -> None:
        """A connection begins with a table of 4096 bytes, whatever we say."""
        self._cache = cache
        self._decoder: Decoder | None = Decoder(max_header_list_size=limits.header_list_bytes)

    def acknowledged(self) -> None:
        """The client knows our SETTINGS: its next block must give the table up (RFC 9113, section 4.3.1)."""
        if self._decoder is not None:
            self._decoder.max_allowed_table_size = 0

    def head(self, block: bytes) -> Head:
        """The head of a request."""
        return self._cache.head(self._stateless(block))

    def are_trailers(self, block: bytes) -> bool:
        """Whether the block is well formed as trailers."""
        return self._cache.are_trailers(self._stateless(block))

    def _stateless(self, block: bytes) -> bytes:
        """The same fields in a block that needs no table."""
        decoder = self._decoder
        if decoder is None:
            return block.lstrip(_NO_TABLE) if block.startswith(_NO_TABLE) else block
        try:
            fields = decoder.decode(block, raw=True)
        except OversizedHeaderListError as error:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "a header list that is too large") from error
        except (HPACKDecodingError, IndexError) as error:
            raise CompressionError(str(error) or type(error).__name__) from error
        if decoder.header_table_size == 0 and decoder.max_allowed_table_size == 0:
            self._decoder = None
        return b"".join(literal(bytes(name), bytes(value)) for name, value in fields)


def literal(name: bytes, value: bytes) -> bytes:
    """A field written out: never in a table, no Huffman code."""
    return b"\x00" + _integer(len(name)) + name + _integer(len(value)) + value


def _integer(value: int) -> bytes:
    """A string length: an integer with a prefix of seven bits (RFC 7541, section 5.1)."""
    if value < 0x7F:
        return bytes((value,))
    value -= 0x7F
    coded = bytearray((0x7F,))
    while value >= 0x80:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    coded.append(value)
    return bytes(coded)


def _long_integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """The integer whose prefix is full, continued at `at`, and the position after it."""
    value, shift = prefix, 0
    for position in range(at, at + _MAX_INTEGER_BYTES):
        byte = block[position]
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise CompressionError("an integer of too many bytes")


def _decode_string(raw: bytes, *, huffman: bool) -> bytes:
    if not huffman:
        return raw
    try:
        return bytes(decode_huffman(raw))
    except HPACKDecodingError as error:
        raise CompressionError(str(error)) from error


def _text(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    if _NOT_IN_VALUES.search(text):
        raise RpcError(StatusCode.INVALID_ARGUMENT, "a header value with control characters")
    return text


def _role(name: bytes) -> int:
    role = _ROLES.get(name)
    if role is None:
        role = 0 if _TOKEN.fullmatch(name) else _FORBIDDEN
    return role


def _parse_timeout(value: str) -> float | None:
    match = _TIMEOUT_FORM.fullmatch(value)
    return int(match[1]) * _UNIT_SECONDS[match[2]] if match else None


STATIC_VALUES: Final = [""] * 0x100  # by the byte of an indexed field
_INDEXED: Final[dict[int, tuple[str, int]]] = {}
for _index, (_field_name, _field_value) in enumerate(HeaderTable.STATIC_TABLE, 1):
    STATIC_VALUES[0x80 | _index] = _field_value.decode()
    _INDEXED[0x80 | _index] = (_field_name.decode(), _role(_field_name))
