"""Fatter frames on C's shadow stack, so that CPython notices deep recursion before V8 does.

CPython bounds recursion by the shadow stack in linear memory; V8's own stack (984 KiB, not configurable in Envoy) overflows first
on recursion in C, for example in json.loads("[[[[..."), and that is a trap. With every frame enlarged, and the stack begun lower,
RecursionError comes first. A function that asks how deep the stack is, and has no frame itself, gets one: repr(), ==, isinstance()
and the release of nested objects go through such functions, and would else recurse without a trace on the shadow stack.
"""

import re

from filters.toolchain.binary import read_signed, signed
from filters.toolchain.code import GLOBAL_GET, GLOBAL_SET, Body, GlobalUse, Ref
from filters.toolchain.scan import LEB

FRAME_GROWTH = 256
STACK_RESERVE = 7 * 65536
"""Bytes of the shadow stack that C does not get; the shim's data lies there."""
# global.get sp; i32.const N; i32.sub; local.tee X; [local.set F; local.get X;] global.set sp
_ENTER = re.compile(rb"\x41(" + LEB + rb")\x6b\x22(" + LEB + rb")(?:\x21(" + LEB + rb")\x20\2)?\Z", re.DOTALL)
# local.get X or F; i32.const N; i32.add; global.set sp
_LEAVE = re.compile(rb"\x20(" + LEB + rb")\x41(" + LEB + rb")\x6a\Z", re.DOTALL)
# global.get sp; local.set F
_KEEP = re.compile(rb"\x21(" + LEB + rb")", re.DOTALL)
# local.get F, or of a copy of it; global.set sp
_GIVE_BACK = re.compile(rb"\x20(" + LEB + rb")\Z", re.DOTALL)


def grow_frame(body: Body, stack_pointer: Ref, growth: int = FRAME_GROWTH) -> bool:
    """Enlarge the frame of a function in place, if it has exactly one and leaves it in the usual way."""
    reads = _uses(body, GlobalUse(stack_pointer, GLOBAL_GET))
    writes = _uses(body, GlobalUse(stack_pointer, GLOBAL_SET))
    if len(reads) != 1 or not writes:
        return False
    start = reads[0]
    return _grow(body, start, writes, growth) or _make(body, start, writes, growth)


def _uses(body: Body, use: GlobalUse) -> list[int]:
    return [place for place, token in enumerate(body) if isinstance(token, GlobalUse) and token == use]


def _grow(body: Body, start: int, writes: list[int], growth: int) -> bool:
    """A frame of N bytes; its bottom is X, and F in functions that ask for it."""
    first, *others = writes
    entering = body[start + 1]
    found = _ENTER.match(entering) if first == start + 2 and isinstance(entering, bytes) else None
    if found is None:
        return False
    leaves: list[tuple[int, bytes]] = []
    for place in others:
        before = body[place - 1]
        closing = _LEAVE.search(before) if isinstance(before, bytes) else None
        if closing is None or (closing[1], closing[2]) != (found[3] or found[2], found[1]):
            return False
        leaves.append((place - 1, closing.string[: closing.start(2)]))
    size = signed(read_signed(found[1], 0)[0] + growth)
    body[start + 1] = b"\x41" + size + found.string[found.end(1) :]
    for place, before in leaves:
        body[place] = before + size + b"\x6a"
    return True


def _make(body: Body, start: int, writes: list[int], growth: int) -> bool:
    """No frame, but the stack pointer is kept in F, and given back at every exit: between the two it can be lower."""
    keeping = body[start + 1]
    found = _KEEP.match(keeping) if isinstance(keeping, bytes) else None
    if found is None:
        return False
    kept = b"\x20" + found[1]
    for place in writes:
        before = body[place - 1]
        closing = _GIVE_BACK.search(before) if isinstance(before, bytes) else None
        if closing is None or not (closing[0] == kept or _holds(body, kept + b"\x22" + closing[1])):
            return False
    lower = found[0] + kept + b"\x41" + signed(growth) + b"\x6b"
    body[start + 1 : start + 2] = [lower, body[writes[0]], found.string[found.end() :]]
    return True


def _holds(body: Body, code: bytes) -> bool:
    return any(code in token for token in body if isinstance(token, bytes))
