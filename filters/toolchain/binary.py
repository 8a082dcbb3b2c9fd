"""Integers, names and vectors as WebAssembly's binary format writes them (WebAssembly 2.0, section 5)."""

from collections.abc import Callable, Iterator, Mapping, Sequence


class MalformedModuleError(ValueError):
    """The input is no module or component of the kind this linker understands."""


LONGEST_NUMBER = 70
"""Bits a number of the format is written with at most (64, in groups of seven)."""
MOST_SECTIONS = 10_000
MOST_ITEMS = 100_000
"""In a section: seven times as many as CPython has functions."""


def read_unsigned(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number and the position after it; IndexError where `data` ends, as for all that read."""
    value = shift = 0
    while shift < LONGEST_NUMBER:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise MalformedModuleError(f"the number before byte {at} is too long")


def read_signed(data: bytes, at: int) -> tuple[int, int]:
    """A signed LEB128 number and the position after it."""
    value = shift = 0
    while shift < LONGEST_NUMBER:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return (value - (1 << shift) if byte & 64 else value), at
    raise MalformedModuleError(f"the number before byte {at} is too long")


def read_name(data: bytes, at: int) -> tuple[str, int]:
    """A length-prefixed UTF-8 name and the position after it."""
    length, at = read_unsigned(data, at)
    raw = data[at : at + length]
    if len(raw) < length:
        raise IndexError(length)
    try:
        return raw.decode(), at + length
    except UnicodeDecodeError:
        raise MalformedModuleError(f"the name at byte {at} is not UTF-8") from None


def read_custom_name(data: bytes, start: int, end: int) -> tuple[str, int]:
    """The name of the custom section between two places, and where its content begins."""
    try:
        title, at = read_name(data, start)
    except IndexError:
        at = end + 1
    if at > end:
        raise MalformedModuleError(f"the section at byte {start} has no name")
    return title, at


def read_sections(
    data: bytes, start: int, end: int, titles: Mapping[int, str] | None = None
) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each section between two places; MalformedModuleError where one goes beyond the end."""
    at = start
    for _ in range(MOST_SECTIONS):
        if at >= end:
            return
        number = data[at]
        try:
            size, begin = read_unsigned(data, at + 1)
        except IndexError:
            size, begin = 1, end
        at = begin + size
        if at > end:
            title = (titles or {}).get(number, str(number))
            raise MalformedModuleError(f"cut short: it ends at byte {end}, in the middle of a section ({title})")
        yield number, begin, at
    raise MalformedModuleError(f"it has more than {MOST_SECTIONS} sections")


def read_items(data: bytes, start: int, end: int, read: Callable[[bytes, int], int]) -> None:
    """The counted items of a section: `read` takes one and says where it ends. MalformedModuleError if they do not fill it."""
    count = 0
    try:
        count, at = read_unsigned(data, start)
        if count > MOST_ITEMS:
            raise MalformedModuleError(f"the section at byte {start} has {count} items, more than {MOST_ITEMS}")
        while count and at < end:
            at = read(data, at)
            count -= 1
    except IndexError:
        at = -1
    if count or at != end:
        raise MalformedModuleError(f"the section at byte {start} does not hold what it says")


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
