"""Bodies are split at what they refer to, and nowhere else."""

import pytest

from filters.toolchain.assembler import Function, assign, call, const, if_, local, sub, while_
from filters.toolchain.binary import MalformedModuleError
from filters.toolchain.code import Body, FunctionUse, GlobalUse, Ref, SymbolUse, TypeUse
from filters.toolchain.harden import grow_frame
from filters.toolchain.scan import Scope, scan_body

SCOPE = Scope(lambda index: Ref(0, index), lambda index: Ref(1, index), [b"\x60\0\0", b"\x60\x01\x7f\0"], "test")


def scan(code: bytes, check: tuple[bytes, ...] = ()) -> list[object]:
    body = b"\0" + code + b"\x0b"
    return list(scan_body(body, 0, len(body), SCOPE, check))


def test_plain_instructions_stay_together() -> None:
    code = b"\x20\x00\x41\x80\x01\x6a\x21\x00\x44" + b"\x10" * 8 + b"\x1a"
    assert scan(code) == [b"\0" + code + b"\x0b"]


def test_calls_globals_and_types_are_found() -> None:
    assert scan(b"\x10\x05\x23\x02\x24\x03\x11\x01\x00") == [
        b"\0\x10",
        FunctionUse(Ref(0, 5)),
        b"",
        GlobalUse(Ref(1, 2), 0x23),
        b"",
        GlobalUse(Ref(1, 3), 0x24),
        b"\x11",
        TypeUse(b"\x60\x01\x7f\0"),
        b"\x00\x0b",
    ]


def test_a_constant_that_looks_like_a_call_is_none() -> None:
    assert scan(b"\x41\x10\x1a") == [b"\0\x41\x10\x1a\x0b"]


def test_every_loop_gets_the_check() -> None:
    found = scan(b"\x03\x40\x03\x40\x0c\x00\x0b\x0b", (b"CHECK",))
    assert found == [b"\0\x03\x40", b"CHECK", b"\x03\x40", b"CHECK", b"\x0c\x00\x0b\x0b\x0b"]


def test_branch_tables_are_skipped() -> None:
    code = b"\x20\x00\x0e\x02\x10\x11\x12"
    assert scan(code) == [b"\0" + code + b"\x0b"]


@pytest.mark.parametrize("code", [b"\xfd\x00", b"\x11\x00\x01"], ids=["simd", "second table"])
def test_what_is_not_known_is_refused(code: bytes) -> None:
    with pytest.raises(MalformedModuleError):
        scan(code)


def test_frames_grow_at_entry_and_at_every_exit() -> None:
    pointer = Ref(1, 0)
    enter: Body = [b"\0", GlobalUse(pointer, 0x23), b"\x41\x20\x6b\x22\x01", GlobalUse(pointer, 0x24)]
    leave: Body = [
        b"\x20\x01\x41\x20\x6a",
        GlobalUse(pointer, 0x24),
        b"\x0f",
        b"\x20\x01\x41\x20\x6a",
        GlobalUse(pointer, 0x24),
    ]
    body: Body = [*enter, *leave, b"\x0b"]
    assert grow_frame(body, pointer, 256)
    assert body[2] == b"\x41\xa0\x02\x6b\x22\x01"
    assert [body[4], body[7]] == [b"\x20\x01\x41\xa0\x02\x6a"] * 2


def test_frames_that_are_left_in_another_way_stay_as_they_are() -> None:
    pointer = Ref(1, 0)
    body: Body = [
        b"\0",
        GlobalUse(pointer, 0x23),
        b"\x41\x20\x6b\x22\x01",
        GlobalUse(pointer, 0x24),
        b"\x20\x01",
        GlobalUse(pointer, 0x24),
    ]
    before = list(body)
    assert not grow_frame(body, pointer, 256)
    assert body == before


def test_frames_grow_in_functions_that_ask_for_their_bottom() -> None:
    pointer = Ref(1, 0)
    leave: Body = [b"\x20\x02\x41\x20\x6a", GlobalUse(pointer, 0x24), b"\x0b"]
    body: Body = [
        b"\0",
        GlobalUse(pointer, 0x23),
        b"\x41\x20\x6b\x22\x01\x21\x02\x20\x01",
        GlobalUse(pointer, 0x24),
        *leave,
    ]
    assert grow_frame(body, pointer, 256)
    assert body[2] == b"\x41\xa0\x02\x6b\x22\x01\x21\x02\x20\x01"
    assert body[4] == b"\x20\x02\x41\xa0\x02\x6a"


@pytest.mark.parametrize("copy", [b"", b"\x20\x01\x22\x03\x1a"], ids=["kept", "copied"])
def test_functions_that_ask_for_the_depth_without_a_frame_get_one(copy: bytes) -> None:
    pointer = Ref(1, 0)
    given_back = b"\x20\x03" if copy else b"\x20\x01"
    leave: Body = [given_back, GlobalUse(pointer, 0x24), b"\x0f", given_back, GlobalUse(pointer, 0x24), b"\x0b"]
    body: Body = [b"\0", GlobalUse(pointer, 0x23), b"\x21\x01" + copy, b"\x1a", *leave]
    assert grow_frame(body, pointer, 256)
    entered: Body = [b"\x21\x01\x20\x01\x41\x80\x02\x6b", GlobalUse(pointer, 0x24), copy, b"\x1a"]
    assert body == [b"\0", GlobalUse(pointer, 0x23), *entered, *leave]


def test_functions_that_give_back_something_else_get_none() -> None:
    pointer = Ref(1, 0)
    body: Body = [b"\0", GlobalUse(pointer, 0x23), b"\x21\x01", b"\x20\x02", GlobalUse(pointer, 0x24), b"\x0b"]
    before = list(body)
    assert not grow_frame(body, pointer, 256)
    assert body == before


def test_assembled_functions_can_be_scanned_again() -> None:
    function = Function("count", "i", "i")
    function.emit(while_(local(0), assign(0, sub(local(0), const(1)))), if_(local(0), call("other")), const(1))
    body = function.body()
    assert body[1] == SymbolUse("other")
    raw = b"".join(token if isinstance(token, bytes) else b"\x09" for token in body)
    assert FunctionUse(Ref(0, 9)) in scan_body(raw, 0, len(raw), SCOPE)
