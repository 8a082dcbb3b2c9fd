"""Numbers as the format writes them, against the definition and each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.toolchain.binary import name, read_name, read_signed, read_unsigned, section, signed, unsigned, vector


@given(st.integers(0, 2**64 - 1))
def test_unsigned_is_read_back(value: int) -> None:
    raw = unsigned(value)
    assert read_unsigned(b"\xff" + raw + b"\xff", 1) == (value, 1 + len(raw))


@given(st.integers(-(2**63), 2**63 - 1))
def test_signed_is_read_back(value: int) -> None:
    raw = signed(value)
    assert read_signed(raw + b"\xff", 0) == (value, len(raw))


@pytest.mark.parametrize(
    ("value", "raw"), [(0, b"\0"), (63, b"\x3f"), (64, b"\xc0\0"), (-1, b"\x7f"), (-64, b"\x40"), (-65, b"\xbf\x7f")]
)
def test_signed_is_as_short_as_can_be(value: int, raw: bytes) -> None:
    assert signed(value) == raw


@given(st.text())
def test_name_is_read_back(text: str) -> None:
    assert read_name(name(text), 0) == (text, len(name(text)))


def test_vector_and_section() -> None:
    assert section(1, vector([b"a", b"bc"])) == b"\x01\x04\x02abc"
