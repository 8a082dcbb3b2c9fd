"""Zero what the guest's heap holds but nobody reads: free blocks, and the bytes between the end of an object and its block's.

They are left-overs of the build (times and inode numbers of its files, for example): without them equal input gives equal bytes,
and zeroes cost nothing in the module. The heap is walked block by block as dlmalloc lays it out (wasi-libc's malloc, 32 bits):
size and flags before each block, the flags of neighbours agreeing; the walk ends where they do not. Objects are those of CPython
3.14 on 32 bits.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

PREVIOUS_IN_USE, IN_USE, FLAGS = 1, 2, 7
SMALLEST = 16
SURE = 1000
"""Blocks that must follow one another before they are believed to be the heap."""
LARGE = 256
"""Free blocks from this size on are kept in a tree, with more fields."""
WORD = struct.Struct("<I")
ASCII_STATE, STATE_MASK = 0x64, 0x7C
"""PyASCIIObject.state: one byte a character, compact, ASCII; the three bytes after it are padding."""


def _string(heap: bytearray, at: int) -> int | None:
    if heap[at + 16] & STATE_MASK != ASCII_STATE:
        return None
    heap[at + 17 : at + 20] = bytes(3)
    return at + 20 + _word(heap, at + 8) + 1


def _bytes(heap: bytearray, at: int) -> int | None:
    return at + 16 + _word(heap, at + 8) + 1


def _integer(heap: bytearray, at: int) -> int | None:
    return at + 12 + 4 * max(1, _word(heap, at + 8) >> 3)


def _tuple(heap: bytearray, at: int) -> int | None:
    return at + 16 + 4 * _word(heap, at + 8)


def _cell(_heap: bytearray, at: int) -> int | None:
    return at + 12


# Type -> (bytes of the garbage collector before the object, where the object ends).
SIZES: Mapping[str, tuple[int, Callable[[bytearray, int], int | None]]] = {
    "PyUnicode_Type": (0, _string),
    "PyBytes_Type": (0, _bytes),
    "PyLong_Type": (0, _integer),
    "PyTuple_Type": (8, _tuple),
    "PyCell_Type": (8, _cell),
}


def clear_heap(heap: bytearray, types: Mapping[str, int]) -> int:
    """Clear free blocks and padding in place; `types` are addresses of type objects. The number of blocks that were walked."""
    known = {types[name]: SIZES[name] for name in SIZES if name in types}
    candidates = _string_blocks(heap, types.get("PyUnicode_Type", 0))
    start = next((chunk for chunk in candidates if sum(1 for _ in islice(_blocks(heap, chunk), SURE)) == SURE), None)
    if start is None:
        return 0
    walked, following = 0, start
    for chunk, size, used in _blocks(heap, start):
        following = chunk + size
        if used:
            _clear_tail(heap, chunk + 8, following + 4, known)
        else:
            first = min(following, chunk + (32 if size >= LARGE else 16))
            heap[first:following] = bytes(following - first)
        walked += 1
    _clear_top(heap, following)
    return walked


def _clear_top(heap: bytearray, chunk: int) -> None:
    """The last block, from which new ones are cut, reaches to the end of what the image holds."""
    if chunk + 8 > len(heap):
        return
    head = _word(heap, chunk + 4)
    end = chunk + (head & ~FLAGS)
    if head & FLAGS == PREVIOUS_IN_USE and len(heap) - 2 * SMALLEST < end:
        heap[chunk + 8 : end] = bytes(min(end, len(heap)) - chunk - 8)


def _blocks(heap: bytearray, chunk: int) -> Iterator[tuple[int, int, bool]]:
    """Position, size and use of the blocks from `chunk` on, as long as neighbours agree."""
    while chunk + 8 < len(heap):
        head = _word(heap, chunk + 4)
        size, used = head & ~FLAGS, bool(head & IN_USE)
        following = chunk + size
        if size < SMALLEST or following + 8 > len(heap):
            return
        if used != bool(_word(heap, following + 4) & PREVIOUS_IN_USE):
            return
        yield chunk, size, used
        chunk = following


def _clear_tail(
    heap: bytearray, start: int, end: int, known: Mapping[int, tuple[int, Callable[[bytearray, int], int | None]]]
) -> None:
    for before in (0, 8):
        at = start + before
        if at + 20 > end:
            continue
        entry = known.get(_word(heap, at + 4))
        if entry is None or entry[0] != before:
            continue
        stop = entry[1](heap, at)
        if stop is not None and 0 <= end - stop < 16:
            heap[stop:end] = bytes(end - stop)
        return


def _string_blocks(heap: bytearray, string_type: int) -> Iterator[int]:
    """Blocks that seem to hold a string, lowest first: one of them starts the walk."""
    wanted = WORD.pack(string_type)
    at = heap.find(wanted)
    while at >= 0:
        start = at - 4
        if at % 4 == 0 and start >= 8 and heap[start + 16] & STATE_MASK == ASCII_STATE:
            head = _word(heap, start - 4)
            end = start - 4 + (head & ~FLAGS)
            if head & IN_USE and 0 <= end - (start + 21 + _word(heap, start + 8)) < 16:
                yield start - 8
        at = heap.find(wanted, at + 1)


def _word(heap: bytearray, at: int) -> int:
    return int(WORD.unpack_from(heap, at)[0])
