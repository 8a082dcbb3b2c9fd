"""Machine code found in memory. That a real Envoy takes it is tested in tests/controlplane/test_ahead_of_time.py."""

from collections.abc import Iterator, Mapping

import pytest

from filters.toolchain import aot
from filters.toolchain.aot import AotError, Region, with_machine_code
from filters.toolchain.binary import name, read_name, read_unsigned, unsigned

MODULE = b"\0asm\1\0\0\0" + bytes(range(256)) * 3
CODE = b"head" * 7 + b"machine code" * 20
BLOCK = unsigned(len(MODULE)) + MODULE + CODE
TITLE = b"precompiled_wee8_v14.6.202.10_linux_x86_64"
HEAP, OTHER = 0x7000_0000, 0x9000_0000


class Pieces:
    """Memory made of pieces at addresses."""

    def __init__(self, pieces: Mapping[int, bytes]) -> None:
        self.pieces = pieces

    def regions(self) -> Iterator[Region]:
        for start, data in self.pieces.items():
            yield Region(start, start + len(data))

    def read(self, start: int, size: int) -> bytes:
        for base, data in self.pieces.items():
            if base <= start < base + len(data):
                return data[start - base : start - base + size]
        return b""


def vector(address: int, size: int) -> bytes:
    return size.to_bytes(8, "little") + address.to_bytes(8, "little")


def memory(*, padding: int = 0, size: int = len(BLOCK), block: bytes = BLOCK, title: bytes = TITLE) -> Pieces:
    """What V8 keeps, behind copies of the module and of the block's beginning that are nothing."""
    before = MODULE + b"\0" * 8 + BLOCK[:300] + bytes(padding)
    return Pieces(
        {
            HEAP: before + block + b"\xee" * 5000,
            OTHER: b"\x55" * 24 + title + b"\0" + vector(HEAP + len(MODULE) + 8, 5) + vector(HEAP + len(before), size),
        }
    )


def test_the_block_is_appended_as_a_section() -> None:
    made = with_machine_code(MODULE, memory())
    assert made.startswith(MODULE)
    assert made[len(MODULE)] == 0
    size, at = read_unsigned(made, len(MODULE) + 1)
    assert at + size == len(made)
    title, at = read_name(made, at)
    assert (title, made[at:]) == (TITLE.decode(), BLOCK)
    assert name(title) in made


@pytest.mark.parametrize("padding", range(0, 320, 7))
def test_nothing_is_lost_between_two_looks(monkeypatch: pytest.MonkeyPatch, padding: int) -> None:
    monkeypatch.setattr(aot, "_STEP", 300)
    assert with_machine_code(MODULE, memory(padding=padding)).endswith(BLOCK)


@pytest.mark.parametrize(
    "found",
    [
        memory(size=len(unsigned(len(MODULE)) + MODULE)),
        memory(size=1 << 40),
        memory(size=len(BLOCK) + 20_000),
        memory(block=b"\0" + BLOCK),
        memory(block=BLOCK[:600] + b"!" + BLOCK[601:]),
        Pieces({HEAP: MODULE, OTHER: TITLE + b"\0"}),
    ],
    ids=["no code", "too much", "beyond the end", "another place", "another module", "nothing"],
)
def test_what_is_not_the_block_is_not_taken(found: Pieces) -> None:
    with pytest.raises(AotError, match="was not found"):
        with_machine_code(MODULE, found)


@pytest.mark.parametrize("title", [b"precompiled_wee8_v", b"precompiled_wee8_v14.6", TITLE[:-1] + b"/"])
def test_an_envoy_without_it_is_told(title: bytes) -> None:
    with pytest.raises(AotError, match="takes no machine code"):
        with_machine_code(MODULE, memory(title=title))
