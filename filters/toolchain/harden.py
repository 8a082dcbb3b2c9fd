"""Fatter frames on C's shadow stack, so that CPython notices deep recursion before V8 does.

CPython bounds recursion by the shadow stack in linear memory; V8's own stack (984 KiB, not configurable in Envoy) overflows first
on recursion in C, for example in json.loads("[[[[..."), and that is a trap. With every frame enlarged, and the stack begun lower,
RecursionError comes first.
"""

import re

from filters.toolchain.binary import read_signed, signed
from filters.toolchain.code import GLOBAL_GET, GLOBAL_SET, Body, GlobalUse, Ref
from filters.toolchain.scan import LEB

FRAME_GROWTH = 256
STACK_RESERVE = 7 * 65536
"""Bytes of the shadow stack that C does not get; the shim's data lies there."""
# global.get sp; i32.const N; i32.sub; local.tee X; global.set sp
_ENTER = re.compile(rb"\x41(" + LEB + rb")\x6b\x22(" + LEB + rb")\Z", re.DOTALL)
# local.get X; i32.const N; i32.add; global.set sp
_LEAVE = re.compile(rb"\x20(" + LEB + rb")\x41(" + LEB + rb")\x6a\Z", re.DOTALL)


def grow_frame(body: Body, stack_pointer: Ref, growth: int = FRAME_GROWTH) -> bool:
    """Enlarge the frame of a function in place, if it has exactly one and leaves it in the usual way."""
    writes = [
        place
        for place, token in enumerate(body)
        if isinstance(token, GlobalUse) and token == (stack_pointer, GLOBAL_SET)
    ]
    enter: tuple[int, bytes, bytes] | None = None
    leaves: list[tuple[int, int]] = []
    for place in writes:
        before = body[place - 1]
        if not isinstance(before, bytes):
            return False
        opening = _ENTER.match(before)
        if opening and place > 1 and body[place - 2] == GlobalUse(stack_pointer, GLOBAL_GET):
            if enter is not None:
                return False
            enter = (place - 1, opening[1], opening[2])
            continue
        closing = _LEAVE.search(before)
        if closing is None or enter is None or (closing[2], closing[1]) != enter[1:]:
            return False
        leaves.append((place - 1, closing.start(2)))
    if enter is None:
        return False
    size = signed(read_signed(enter[1], 0)[0] + growth)
    body[enter[0]] = b"\x41" + size + b"\x6b\x22" + enter[2]
    for place, at in leaves:
        before = body[place]
        if isinstance(before, bytes):
            body[place] = before[:at] + size + b"\x6a"
    return True
