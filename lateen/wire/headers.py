"""Request header blocks (HPACK, RFC 7541): decoded once, then recognised by their bytes; values only when a handler asks.

We advertise a dynamic table of size 0, so once the client has said so too, a block means the same whenever it comes: whole blocks,
what many of them begin with, field names, values and what the fields of gRPC say together are cached by their bytes, each in a
bounded table shared by all connections. Until then (the first calls of a connection) `hpack` decodes with its table, and the
result is written anew as a block without state.

A value nobody asks for is measured and not decoded: with no table, a badly coded value cannot shift what follows it.
"""

import re
from dataclasses import dataclass
from typing import Final, TypeVar

from hpack import HPACKDecodingError, OversizedHeaderListError
from hpack.hpack import Decoder

from lateen.wire import fields
from lateen.wire.call import RpcError
from lateen.wire.fields import CompressionError
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
from lateen.wire.walk import Prefixes, Walk

_TIMEOUT_FORM: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNIT_SECONDS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_GRPC: Final = re.compile(r"application/grpc(?:[+;].*)?", re.IGNORECASE)
_LENGTH_FORM: Final = re.compile(r"[0-9]{1,18}")
_UNACKNOWLEDGED_BYTES: Final = (
    256 * 1024
)  # of blocks before a client knows our SETTINGS: a round trip's worth for a busy one
_NO_TABLE: Final = b"\x20"  # a table size update to 0
_CACHED_BYTES: Final = 1024  # of one entry
_KEEP_EVERY: Final = 8  # blocks that are found quickly: those that come again are kept soon, those that do not are seldom kept for nothing
_MAX_SPECIAL_BYTES: Final = 512  # of a field that we must decode, as sent

# Names of this module are found faster than those of another.
_STATIC_NAMES, _LITERAL_NAME, _INDEXED = fields.STATIC_NAMES, fields.LITERAL_NAME, fields.INDEXED
_LENGTH, _LAST_PSEUDO = fields.LENGTH, fields.LAST_PSEUDO

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the pseudo-headers and the fields of gRPC say together."""

    path: str = ""
    timeout: float | None = None  # seconds
    content_length: int | None = None
    refusal: Refusal | None = None  # why this is no call we serve


class Head:
    """The header fields of one request; shared by all calls that send the same bytes."""

    __slots__ = (
        "_before",
        "_block",
        "_cache",
        "_texts",
        "content_length",
        "count",
        "path",
        "refusal",
        "spots",
        "timeout",
    )

    def __init__(
        self,
        cache: "HeaderCache",
        block: bytes,
        spots: dict[str, int],
        count: int,
        meaning: "Meaning | Head",
        before: "Head | None" = None,
    ) -> None:
        """`spots` says where values begin in `block`; a negative one is a field of the static table, whole.

        `before` has the fields that many blocks begin with, none of which is among `spots`.
        """
        self._cache = cache
        self._block = block
        self.spots = spots
        self.count = count
        self._texts: dict[str, str] | None = None
        self._before = before
        self.path: str = meaning.path
        self.timeout: float | None = meaning.timeout
        self.content_length: int | None = meaning.content_length
        self.refusal: Refusal | None = meaning.refusal

    @property
    def names(self) -> frozenset[str]:
        """Every field name."""
        own = frozenset(self.spots)
        return own if self._before is None else own | self._before.names

    def value(self, name: str) -> str | None:
        """The value of a field, several of one name joined by commas; raises for one that cannot be decoded."""
        if name not in self.spots:
            return None if self._before is None else self._before.value(name)
        texts = self._texts
        if texts is None:
            texts = self._texts = {}
        text = texts.get(name)
        if text is None:
            text = texts[name] = ",".join(self.values(name))
        return text

    def values(self, name: str) -> tuple[str, ...]:
        """Every value of a field, in order."""
        spot = self.spots.get(name)
        if spot is None:
            return () if self._before is None else self._before.values(name)
        if self.count == len(self.spots):  # each name occurs once
            return (self._cache.value(self._block, spot),)
        every: list[tuple[str, int]] = []
        self._cache.walk(self._block, every)
        return tuple(self._cache.value(self._block, spot) for key, spot in every if key == name)


class HeaderCache:
    """What was decoded before, by its bytes. When a table is full it starts anew: nobody can make it grow or linger."""

    def __init__(self, limits: Limits, entries: int = 512) -> None:
        """At most `entries` of each kind."""
        self._entries = entries
        self._max_fields = limits.header_count
        self._heads: dict[bytes, Head] = {}
        self._names: dict[bytes, fields.Name] = {}
        self._meanings: dict[bytes, Meaning] = {}
        self._values: dict[bytes, str] = {}
        self._prefixes: Prefixes[Head] = Prefixes()
        self._varied = 0

    def __len__(self) -> int:
        """The number of things held."""
        return len(self._heads) + len(self._names) + len(self._meanings) + len(self._values) + len(self._prefixes)

    def head(self, block: bytes) -> Head:
        """The head in a block that uses no dynamic table."""
        head = self._heads.get(block)
        if head is None:
            head = self._after_prefix(block)
            if head is not None:
                self._varied += 1
                if self._varied % _KEEP_EVERY:
                    return head
            else:
                head = self._parse(block)
            self._keep(self._heads, block, head)
        return head

    def are_trailers(self, block: bytes) -> bool:
        """Whether a block is well formed as trailers: no pseudo-header, no forbidden name."""
        walk = self.walk(block)
        roles = [fields.role_of(name.encode("latin-1")) for name in walk.spots]
        pseudo = any(0 < role <= fields.LAST_PSEUDO or role == fields.FORBIDDEN for role in roles)
        return not walk.malformed and not pseudo and walk.count <= self._max_fields

    def value(self, block: bytes, spot: int) -> str:
        """The value at a spot."""
        if spot < 0:
            return fields.STATIC_VALUES[-spot]
        size, start = fields.string_at(block, spot)
        raw = block[spot : start + size]
        text = self._values.get(raw)
        if text is None:
            text = fields.parse_value(raw)
            self._keep(self._values, raw, text)
        return text

    def walk(self, block: bytes, every: list[tuple[str, int]] | None = None, start: Walk | None = None) -> Walk:
        """Measure the fields of a block and find the names, until there are too many: the hot loop whenever a block is new.

        `every` is given all names and where their values are, also of names that come twice. With `start`, go on from there.
        """
        walk = Walk() if start is None else start
        spots, special, known = walk.spots, walk.special, self._names
        static, indexed, length, literal_name = _STATIC_NAMES, _INDEXED, _LENGTH, _LITERAL_NAME
        last_pseudo, most = _LAST_PSEUDO, self._max_fields
        regular, count, at, end = walk.regular, walk.count, walk.at, len(block)
        try:
            while at < end and count <= most:
                begin = at
                first = block[at]
                if first in static:
                    name, role = static[first]
                    spot = at + 1
                elif first in literal_name and (size := block[at + 1] & length) != length:
                    spot = at + 2 + size
                    key = block[at:spot]
                    name, role = known.get(key) or self._name(key)
                else:
                    spot = fields.value_at(block, at)
                    name, role = self._name(block[at:spot])
                if first >= indexed:
                    at = spot
                    spot = -first
                elif (size := block[spot] & length) != length:
                    at = spot + 1 + size
                else:
                    size, at = fields.long_integer(block, spot + 1, length)
                    at += size
                count += 1
                spots[name] = spot
                if role:
                    special.append(block[begin:at])
                    if role > last_pseudo:
                        regular = True
                    elif regular:
                        walk.malformed = True
                else:
                    regular = True
                if every is not None:
                    every.append((name, spot))
        except IndexError:
            raise CompressionError("a header block that ends early") from None
        if at > end:
            raise CompressionError("a header block that ends early")
        walk.regular, walk.count, walk.at = regular, count, at
        return walk

    def _keep(self, table: dict[bytes, _T], key: bytes, entry: _T) -> None:
        if len(key) <= _CACHED_BYTES:
            if len(table) >= self._entries:
                table.clear()
            table[key] = entry

    def _name(self, key: bytes) -> fields.Name:
        """Decode a field name seen for the first time: `key` is a literal field up to its value."""
        name = fields.parse_name(key)
        self._keep(self._names, key, name)
        return name

    def _after_prefix(self, block: bytes) -> Head | None:
        """The head of a block that begins as others did and goes on with short fields that mean nothing to us, each once; or None.

        What most new blocks are, as soon as they carry trace headers; `walk` finds the same.
        """
        before, at = self._prefixes.head(block)
        if before is None:
            return None
        known, static, literal_name, length = self._names, _STATIC_NAMES, _LITERAL_NAME, _LENGTH
        end = len(block)
        spots: dict[str, int] = {}
        count = 0
        try:
            while at < end:
                first = block[at]
                if first in literal_name:
                    spot = at + 2 + (block[at + 1] & length)
                    found = known.get(block[at:spot])
                else:
                    spot = at + 1
                    found = static.get(first) if first < _INDEXED else None
                size = block[spot] & length
                if found is None or found[1] or size == length:
                    return None
                at = spot + 1 + size
                count += 1
                spots[found[0]] = spot
        except IndexError:
            return None
        if at != end or count != len(spots) or count + before.count > self._max_fields:
            return None
        return Head(self, block, spots, count, before, before) if before.spots.keys().isdisjoint(spots) else None

    def _parse(self, block: bytes) -> Head:
        start = self._prefixes.start(block)
        walk = self.walk(block, None, start)
        if start is None and not walk.malformed and walk.count <= self._max_fields:
            prefix = self._prefixes.new_prefix(block)
            if prefix:
                known = self.walk(prefix)
                self._prefixes.learn(prefix, known, self._head(prefix, known))
        return self._head(block, walk)

    def _head(self, block: bytes, walk: Walk) -> Head:
        if walk.malformed:
            return Head(self, b"", {}, 0, Meaning(refusal=MALFORMED))
        key = b"".join(walk.special)
        meaning = self._meanings.get(key)
        if meaning is None:
            meaning = self._interpret(walk.special)
            self._keep(self._meanings, key, meaning)
        if walk.count > self._max_fields:
            refusal = meaning.refusal or TOO_MANY_HEADERS
            return Head(self, b"", {}, 0, Meaning(path=meaning.path, refusal=refusal))
        return Head(self, block, walk.spots, walk.count, meaning)

    def _interpret(self, special: list[bytes]) -> Meaning:
        """What the fields that we know say together."""
        text: dict[int, str] = {}
        for field in special:
            (name, spot), *_ = self.walk(field).spots.items()
            role = fields.role_of(name.encode("latin-1"))
            if role in text or role == fields.FORBIDDEN:
                return Meaning(refusal=MALFORMED)
            if len(field) > _MAX_SPECIAL_BYTES:
                return Meaning(refusal=TOO_MANY_HEADERS)
            try:
                text[role] = self.value(field, spot) if role != fields.AUTHORITY else ""
            except RpcError:
                return Meaning(refusal=MALFORMED)
        path, length = text.get(fields.PATH), text.get(fields.CONTENT_LENGTH)
        if not path or not text.get(fields.SCHEME) or fields.METHOD not in text:
            return Meaning(refusal=MALFORMED)
        if text.get(fields.TE, "trailers").lower() != "trailers" or not _LENGTH_FORM.fullmatch(length or "0"):
            return Meaning(refusal=MALFORMED)
        refusal: Refusal | None = None
        timeout: float | None = None
        if text[fields.METHOD] != "POST":
            refusal = NOT_POST
        elif not _GRPC.fullmatch(text.get(fields.CONTENT_TYPE, "")):
            refusal = NOT_GRPC
        elif text.get(fields.ENCODING, "identity") != "identity":
            refusal = WRONG_ENCODING
        elif fields.TIMEOUT in text:
            match = _TIMEOUT_FORM.fullmatch(text[fields.TIMEOUT])
            timeout = int(match[1]) * _UNIT_SECONDS[match[2]] if match else None
            refusal = None if match else WRONG_TIMEOUT
        return Meaning(path, timeout, int(length) if length else None, refusal)


class HeaderDecoder:
    """The header blocks of one connection: with `hpack` and its table until the client gives the table up."""

    def __init__(self, cache: HeaderCache, limits: Limits) -> None:
        """A connection begins with a table of 4096 bytes, whatever we say."""
        self._cache = cache
        self._table_bytes = limits.header_table_bytes
        self._allowance = _UNACKNOWLEDGED_BYTES
        self._decoder: Decoder | None = Decoder(max_header_list_size=limits.header_list_bytes)

    def acknowledged(self) -> None:
        """The client knows our SETTINGS: its next block must shrink a table that is too large (RFC 9113, section 4.3.1)."""
        if self._decoder is not None:
            self._decoder.max_allowed_table_size = self._table_bytes

    def head(self, block: bytes) -> Head:
        """The head of a request."""
        if self._decoder is None and block and block[0] != _NO_TABLE[0]:
            return self._cache.head(block)
        return self._cache.head(self._stateless(block))

    def are_trailers(self, block: bytes) -> bool:
        """Whether the block is well formed as trailers."""
        return self._cache.are_trailers(self._stateless(block))

    def _stateless(self, block: bytes) -> bytes:
        """The same fields in a block that needs no table."""
        decoder = self._decoder
        if decoder is None:
            return block.lstrip(_NO_TABLE) if block.startswith(_NO_TABLE) else block
        self._allowance -= len(block)
        if self._allowance < 0 and not self._table_bytes:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "settings not acknowledged for too many calls")
        if fields.too_many_updates(block):
            raise CompressionError("more than two table size updates in a block")
        try:
            decoded = decoder.decode(block, raw=True)
        except OversizedHeaderListError as error:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "a header list that is too large") from error
        except (HPACKDecodingError, IndexError) as error:
            # The words of the library may hold an address of our memory; the client would read them.
            raise CompressionError("a header block that cannot be decoded") from error
        if decoder.header_table_size == 0 and decoder.max_allowed_table_size == 0:
            self._decoder = None
        return b"".join(fields.literal(bytes(name), bytes(value)) for name, value in decoded)
