"""Headers as Proxy-Wasm serialises them: count, lengths, then names and values, each with a NUL after it."""

from typing import Literal


def parse_pairs(raw: bytes) -> list[tuple[str, str]]:
    """All names and values, in order."""
    count = int.from_bytes(raw[:4], "little")
    lengths = memoryview(raw)[4 : 4 + 8 * count].cast("I")
    at = 4 + 8 * count
    parts = []
    for length in lengths:
        parts.append(raw[at : at + length].decode("utf-8", "surrogateescape"))
        at += length + 1
    return list(zip(parts[::2], parts[1::2], strict=True))


def find_pair(raw: bytes, name: str) -> str | Literal[True] | None:
    """The value of a name in lower case; None if there is none, True if there are several."""
    found = [value for key, value in parse_pairs(raw) if key == name]
    return None if not found else found[0] if len(found) == 1 else True
