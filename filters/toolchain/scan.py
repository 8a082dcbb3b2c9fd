"""Find what a function body refers to. Most of it refers to nothing: one regular expression runs over those instructions.

The opcodes are those clang emits for CPython (WebAssembly 2.0, section 5.4); anything else is refused by name, never guessed.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from filters.toolchain.binary import MalformedModuleError, read_signed, read_unsigned
from filters.toolchain.code import BlockTypeUse, Body, FunctionUse, GlobalUse, Ref, Token, TypeUse

LEB = rb"[\x80-\xff]*+[\x00-\x7f]"
_FREE = (
    rb"[\x00\x01\x05\x0b\x0f\x1a\x1b\x45-\xc4\xd1]",  # operators without immediates
    rb"[\x0c\x0d\x20-\x22\x41\x42]" + LEB,  # branches, locals, integer constants
    rb"[\x28-\x3e][\x00-\x3f]" + LEB,  # loads and stores
    rb"[\x3f\x40]\x00",  # memory.size, memory.grow
    rb"\x43.{4}|\x44.{8}",  # floating point constants
    rb"\xfc(?:[\x00-\x07]|\x0a\x00\x00|\x0b\x00)",  # saturating truncation, memory.copy, memory.fill
    rb"[\x02\x04][\x40\x6f\x70\x7b-\x7f]",  # block, if with an inline type
)
_FREE_LOOP = rb"\x03[\x40\x6f\x70\x7b-\x7f]"
# Possessive: no instruction is ever read a second time.
_RUN = re.compile(rb"(?:" + rb"|".join((*_FREE, _FREE_LOOP)) + rb")*+", re.DOTALL)
_RUN_TO_LOOP = re.compile(rb"(?:" + rb"|".join(_FREE) + rb")*+", re.DOTALL)

CALLS = frozenset({0x10, 0x12, 0xD2})
INDIRECT_CALLS = frozenset({0x11, 0x13})
GLOBALS = frozenset({0x23, 0x24})
LOOP = 0x03
BR_TABLE = 0x0E
TYPED_SELECT = 0x1C
REF_NULL = 0xD0
INLINE_TYPES = frozenset({0x40, 0x6F, 0x70, 0x7B, 0x7C, 0x7D, 0x7E, 0x7F})


class Scope(NamedTuple):
    """How the indices of one instance read."""

    function: Callable[[int], Ref]
    variable: Callable[[int], Ref]
    types: Sequence[bytes]
    label: str


def scan_body(raw: bytes, start: int, end: int, scope: Scope, loop_check: Sequence[Token] = ()) -> Body:
    """Split the body at `raw[start:end]` at its references, and put `loop_check` at the head of every loop."""
    at = _skip_locals(raw, start)
    run = (_RUN_TO_LOOP if loop_check else _RUN).match
    body: Body = []
    while True:
        match = run(raw, at, end)
        at = match.end() if match else at
        if at >= end:
            break
        opcode = raw[at]
        if opcode in CALLS:
            body.append(raw[start : at + 1])
            index, start = read_unsigned(raw, at + 1)
            body.append(FunctionUse(scope.function(index)))
        elif opcode in GLOBALS:
            body.append(raw[start:at])
            index, start = read_unsigned(raw, at + 1)
            body.append(GlobalUse(scope.variable(index), 0x23 if opcode == 0x23 else 0x24))
        elif opcode in INDIRECT_CALLS:
            body.append(raw[start : at + 1])
            index, start = read_unsigned(raw, at + 1)
            body.append(TypeUse(scope.types[index]))
            table, at = read_unsigned(raw, start)
            if table != 0:
                raise MalformedModuleError(f"{scope.label} calls through table {table}: only table 0 is supported")
            continue
        elif opcode in (0x02, LOOP, 0x04):
            start = _block(raw, start, at, scope, body)
            if opcode == LOOP:
                body += loop_check
        elif opcode == BR_TABLE:
            at = _skip_branch_table(raw, at + 1)
            continue
        elif opcode == TYPED_SELECT:
            count, at = read_unsigned(raw, at + 1)
            at += count
            continue
        elif opcode == REF_NULL:
            at += 2
            continue
        else:
            raise MalformedModuleError(f"opcode {opcode:#x} in {scope.label} is not supported")
        at = start
    body.append(raw[start:end])
    return body


def _skip_locals(raw: bytes, at: int) -> int:
    groups, at = read_unsigned(raw, at)
    for _ in range(groups):
        at = read_unsigned(raw, at)[1] + 1
    return at


def _skip_branch_table(raw: bytes, at: int) -> int:
    count, at = read_unsigned(raw, at)
    for _ in range(count + 1):
        _, at = read_unsigned(raw, at)
    return at


def _block(raw: bytes, start: int, at: int, scope: Scope, body: Body) -> int:
    """Append up to and including the block's type; the position after it."""
    if raw[at + 1] in INLINE_TYPES:
        body.append(raw[start : at + 2])
        return at + 2
    body.append(raw[start : at + 1])
    index, after = read_signed(raw, at + 1)
    body.append(BlockTypeUse(scope.types[index]))
    return after
