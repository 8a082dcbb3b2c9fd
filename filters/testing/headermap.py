"""Headers as Envoy keeps them (envoy/http/header_map.h): names in lower case, values bytes, several of one name side by side."""

from collections.abc import Iterable

# Envoy keeps these in one place each: a second value is appended to the first (header_map.h, INLINE_HEADERS).
COMMA = frozenset(
    {
        ":authority",
        ":path",
        ":method",
        ":scheme",
        ":status",
        "connection",
        "content-length",
        "content-type",
        "date",
        "host",
        "keep-alive",
        "proxy-connection",
        "server",
        "te",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
    }
)


class HeaderMap:
    """An ordered multimap."""

    def __init__(self, pairs: Iterable[tuple[str, str | bytes]] = ()) -> None:
        self._pairs: list[tuple[str, bytes]] = []
        for name, value in pairs:
            self.add(name, _bytes(value))

    def pairs(self) -> list[tuple[str, bytes]]:
        """Everything, in order."""
        return list(self._pairs)

    def text_pairs(self) -> list[tuple[str, str]]:
        """As the SDK reads them."""
        return [(name, value.decode("utf-8", "surrogateescape")) for name, value in self._pairs]

    def get_all(self, name: str) -> list[bytes]:
        """The values of `name`."""
        return [value for key, value in self._pairs if key == name]

    def get(self, name: str) -> str:
        """The first value of `name`, empty if there is none."""
        return next((value.decode("utf-8", "surrogateescape") for key, value in self._pairs if key == name), "")

    def add(self, name: str, value: bytes) -> None:
        """One value more (HeaderMap::addCopy)."""
        name = name.lower()
        if name in COMMA:
            for place, (key, old) in enumerate(self._pairs):
                if key == name:
                    self._pairs[place] = (name, old + b"," + value if old else value)
                    return
        self._pairs.append((name, value))

    def replace(self, name: str, value: bytes) -> None:
        """One value in place of all (HeaderMap::setCopy)."""
        name = name.lower()
        for place, (key, _) in enumerate(self._pairs):
            if key == name:
                self._pairs[place] = (name, value)
                self._pairs = [pair for at, pair in enumerate(self._pairs) if at <= place or pair[0] != name]
                return
        self._pairs.append((name, value))

    def remove(self, name: str) -> None:
        """All values of `name`."""
        name = name.lower()
        self._pairs = [pair for pair in self._pairs if pair[0] != name]

    def __len__(self) -> int:
        return len(self._pairs)

    def encode(self) -> bytes:
        """As Proxy-Wasm hands them out; nothing at all for an empty map."""
        if not self._pairs:
            return b""
        parts = [part for name, value in self._pairs for part in (name.encode(), value)]
        lengths = b"".join(len(part).to_bytes(4, "little") for part in parts)
        return len(self._pairs).to_bytes(4, "little") + lengths + b"".join(part + b"\0" for part in parts)


def decode_pairs(raw: bytes) -> list[tuple[str, bytes]]:
    """The inverse of `HeaderMap.encode`."""
    count = int.from_bytes(raw[:4], "little")
    at = 4 + 8 * count
    parts = []
    for place in range(2 * count):
        length = int.from_bytes(raw[4 + 4 * place : 8 + 4 * place], "little")
        parts.append(raw[at : at + length])
        at += length + 1
    return [(name.decode(), value) for name, value in zip(parts[::2], parts[1::2], strict=True)]


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
