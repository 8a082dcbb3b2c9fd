"""Integers, names and vectors as WebAssembly's binary format writes them (WebAssembly 2.0, section 5)."""

from collections.abc import Sequence


class MalformedModuleError(ValueError):
    """The input is no module or component of the kind this linker understands."""


def read_unsigned(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def read_signed(data: bytes, at: int) -> tuple[int, int]:
    """A signed LEB128 number and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return (value - (1 << shift) if byte & 64 else value), at


def read_name(data: bytes, at: int) -> tuple[str, int]:
    """A length-prefixed UTF-8 name and the position after it."""
    length, at = read_unsigned(data, at)
    return data[at : at + length].decode(), at + length


def unsigned(value: int) -> bytes:
    """`value` as unsigned LEB128."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed(value: int) -> bytes:
    """`value` as signed LEB128."""
    out = bytearray()
    while not -64 <= value < 64:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value & 127)
    return bytes(out)


def name(text: str) -> bytes:
    """A length-prefixed name."""
    raw = text.encode()
    return unsigned(len(raw)) + raw


def vector(items: Sequence[bytes]) -> bytes:
    """A counted sequence."""
    return unsigned(len(items)) + b"".join(items)


def section(number: int, payload: bytes) -> bytes:
    """A section with its length."""
    return bytes([number]) + unsigned(len(payload)) + payload
