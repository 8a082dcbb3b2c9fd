"""Headers as mappings: of a live message in Envoy, or of a message made here. Names are case-insensitive, values are str."""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Literal

from filters.sdk import host
from filters.sdk.pairs import parse_pairs

NAME_CHARACTERS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
CONTROLS = frozenset(map(chr, (*range(9), *range(10, 32), 127)))
"""What no value may hold: everything below the space but tab, and DEL (RFC 9110 5.5); Envoy answers 503 to a request that has them."""
_known_names: set[str] = set()
_MOST_KNOWN_NAMES = 512
PAIR = 2


def check_name(name: str) -> str:
    """`name` in lower case; TypeError or ValueError if it is no header name."""
    if name in _known_names:
        return name
    if not isinstance(name, str):
        raise TypeError(f"a header name must be str, not {type(name).__name__}")
    name = name.lower()
    bare = name.removeprefix(":")
    if not bare or not NAME_CHARACTERS.issuperset(bare):
        raise ValueError(f"not a header name: {name!r}")
    if len(_known_names) < _MOST_KNOWN_NAMES:
        _known_names.add(name)
    return name


def check_value(name: str, value: str) -> str | bytes:
    """`value` as the host takes it; a line break would let a client write headers of its own."""
    if not isinstance(value, str):
        raise TypeError(f"the value of header {name!r} must be str, not {type(value).__name__}")
    if value.isascii() and value.isprintable():
        return value
    if not CONTROLS.isdisjoint(value):
        raise ValueError(f"the value of header {name!r} holds a control character: {value!r}")
    return value.encode("utf-8", "surrogateescape")


def header_items(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Names and values of a mapping or of pairs; TypeError if it is neither. Not checked further."""
    if isinstance(headers, Mapping):
        return headers.items()
    given: Any = headers
    pairs = list(given) if isinstance(given, Iterable) and not isinstance(given, (str, bytes)) else [given]
    if not all(isinstance(pair, (tuple, list)) and len(pair) == PAIR for pair in pairs):
        raise TypeError(f"headers must be a mapping or pairs of name and value, not {headers!r:.100}")
    return pairs


def encode_pairs(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The inverse of `parse_pairs`; names and values are checked."""
    lengths = bytearray()
    content = bytearray()
    count = 0
    for name, value in pairs:
        checked = check_value(name, value)
        parts = (check_name(name).encode(), checked.encode() if isinstance(checked, str) else checked)
        for part in parts:
            lengths += len(part).to_bytes(4, "little")
            content += part + b"\0"
        count += 1
    return count.to_bytes(4, "little") + bytes(lengths) + bytes(content)


class Headers(MutableMapping[str, str]):
    """Headers of a message. A name that occurs several times reads as its values joined by ", "; `get_all` tells them apart.

    Pseudo-headers (":path") can be read and set, and are left out of iteration.
    """

    __slots__ = ()

    def pairs(self) -> list[tuple[str, str]]:
        """All headers in order, pseudo-headers too."""
        raise NotImplementedError

    def get_all(self, name: str) -> list[str]:
        """Every value of `name`, in order."""
        wanted = name.lower()
        return [value for key, value in self.pairs() if key == wanted]

    def add(self, name: str, value: str) -> None:
        """One value more, beside those that are there."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self.pairs() if not name.startswith(":")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Headers({self.pairs()!r})"


class LiveHeaders(Headers):
    """The headers Envoy holds: every access is a call of the host. Once the message has left they are what they were then (`keep`).

    Inside the module `get` and the item methods are replaced by ones in Wasm, which leave to these what is out of the ordinary.
    """

    __slots__ = ("_map", "_pairs", "_raw")  # toolchain.headercalls knows where these lie

    def __init__(self, which: int) -> None:
        self._map = which
        self._raw: bytes | None = None
        self._pairs: list[tuple[str, str]] | None = None

    def keep(self, raw: bytes) -> None:
        """The message leaves for the upstream: Envoy no longer hands its headers out, and they cannot change."""
        self._raw = raw
        self._pairs = None

    # Mapping.get goes through KeyError; this is the path of almost every access.
    def get(self, name: str, default=None, /):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201  (Mapping's overloads)
        try:
            value = self._find(name.lower())
        except (AttributeError, TypeError):
            raise TypeError(f"a header name must be str, not {type(name).__name__}") from None
        if value is True:
            return ", ".join(self.get_all(name))
        return default if value is None else value

    def _find(self, name: str) -> str | Literal[True] | None:
        return host.get_header(self._map, name) if self._raw is None else host.find_header(self._raw, name)

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return str(value)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name.lower()) is not None

    def __setitem__(self, name: str, value: str) -> None:
        name = check_name(name)
        host.replace_header(self._writable(), name, check_value(name, value))

    def __delitem__(self, name: str) -> None:
        name = check_name(name)
        which = self._writable()
        if host.get_header(which, name) is None:
            raise KeyError(name)
        host.remove_header(which, name)

    def add(self, name: str, value: str) -> None:
        name = check_name(name)
        host.add_header(self._writable(), name, check_value(name, value))

    def _writable(self) -> int:
        if self._raw is not None:
            raise RuntimeError("the request has left: its headers can only be changed in on_request")
        return self._map

    def pairs(self) -> list[tuple[str, str]]:
        if self._raw is None:
            return parse_pairs(host.get_headers(self._map) or bytes(4))
        if self._pairs is None:
            self._pairs = parse_pairs(self._raw)
        return self._pairs


class OwnHeaders(Headers):
    """The headers of a message that is made or kept here."""

    __slots__ = ("_pairs",)

    def __init__(self, headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = [(check_name(name), value) for name, value in header_items(headers)]
        for name, value in self._pairs:
            check_value(name, value)

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __setitem__(self, name: str, value: str) -> None:
        name = check_name(name)
        check_value(name, value)
        self._pairs = [pair for pair in self._pairs if pair[0] != name]
        self._pairs.append((name, value))

    def __delitem__(self, name: str) -> None:
        kept = [pair for pair in self._pairs if pair[0] != name.lower()]
        if len(kept) == len(self._pairs):
            raise KeyError(name)
        self._pairs = kept

    def add(self, name: str, value: str) -> None:
        name = check_name(name)
        check_value(name, value)
        self._pairs.append((name, value))

    def pairs(self) -> list[tuple[str, str]]:
        return list(self._pairs)
