"""The walk over the guest's heap clears what nobody reads, and nothing else."""

import struct

from filters.toolchain.heap import SURE, clear_heap

STRING, OTHER = 0x1000, 0x2000
JUNK = b"\xaa"


def block(content: bytes, *, used: bool, previous: bool, size: int) -> bytes:
    """A chunk as dlmalloc lays it out: the foot of the one before, size and flags, content."""
    head = size | 2 * used | previous
    return (struct.pack("<II", 0, head) + content).ljust(size, JUNK)[:size]


def string(text: bytes) -> bytes:
    return struct.pack("<IIIIB", 1, STRING, len(text), 7, 0x64) + JUNK * 3 + text + b"\0"


def heap(*blocks: tuple[bytes, bool, int]) -> bytearray:
    """A heap of these blocks, after enough strings for the walk to be sure."""
    every = [(string(b"start"), True, 40)] * SURE + list(blocks) + [(string(b"end"), True, 40)]
    found, previous = b"", True
    for content, used, size in every:
        found += block(content, used=used, previous=previous, size=size)
        previous = used
    return bytearray(bytes(64) + found + struct.pack("<II", 0, 0x10 | previous) + bytes(16))


def test_padding_of_strings_is_cleared_and_other_objects_are_left_alone() -> None:
    other = struct.pack("<II", 1, OTHER) + JUNK * 16
    content = heap((string(b"text"), True, 40), (other, True, 40))
    at = content.index(b"text\0")
    assert clear_heap(content, {"PyUnicode_Type": STRING}) > SURE
    assert content[at - 3 : at + 8] == bytes(3) + b"text\0" + bytes(3)
    assert other in content


def test_free_blocks_are_cleared_behind_their_links() -> None:
    content = heap((b"LINKLINK" + JUNK * 24, False, 40))
    at = content.index(b"LINKLINK")
    clear_heap(content, {"PyUnicode_Type": STRING})
    assert content[at : at + 32] == b"LINKLINK" + bytes(24)


def test_what_only_looks_like_a_string_starts_no_walk() -> None:
    content = bytearray(bytes(64) + block(string(b"alone"), used=True, previous=True, size=48) + JUNK * 64)
    before = bytes(content)
    assert clear_heap(content, {"PyUnicode_Type": STRING}) == 0
    assert bytes(content) == before


def test_what_is_left_of_the_heap_is_cleared() -> None:
    content = heap()[:-24]
    top = len(content)
    content += struct.pack("<II", 0, 4096 | 1) + JUNK * 4088
    for rest in (b"", b"\0\0\0\0\x28"):
        found = bytearray(content + rest)
        clear_heap(found, {"PyUnicode_Type": STRING})
        assert found[top:] == content[top : top + 8] + bytes(4088) + rest
    used = content[: top + 4] + struct.pack("<I", 4096 | 3) + content[top + 8 :]
    clear_heap(used, {"PyUnicode_Type": STRING})
    assert used.endswith(JUNK * 4088)
