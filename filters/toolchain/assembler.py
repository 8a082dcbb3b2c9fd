"""A small assembler for the functions we write ourselves: an expression is a tuple of tokens, `call("f", local(0))` nests.

i32 unless a name says otherwise. Names (of functions, C symbols, host functions, globals) are resolved by the linker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from filters.toolchain.binary import read_unsigned, signed, unsigned, vector
from filters.toolchain.code import GLOBAL_GET, GLOBAL_SET, Body, SymbolUse, Token, VariableUse

Code: TypeAlias = tuple[Token, ...]

VALUE_TYPES = {"i": 0x7F, "l": 0x7E, "f": 0x7D, "d": 0x7C}
"""Letters for value types: i = i32, l = i64, f = f32, d = f64."""
EMPTY = 0x40


def function_type(parameters: str, results: str) -> bytes:
    """The type `(parameters) -> (results)`, letters as in VALUE_TYPES."""
    return b"\x60" + b"".join(
        vector([bytes([VALUE_TYPES[letter]]) for letter in part]) for part in (parameters, results)
    )


def letters_of_type(type_: bytes) -> tuple[str, str]:
    """Letters of the parameters and results of an encoded function type; the inverse of `function_type`."""
    letters = {value: letter for letter, value in VALUE_TYPES.items()}
    count, at = read_unsigned(type_, 1)
    parameters = "".join(letters[value] for value in type_[at : at + count])
    results, at = read_unsigned(type_, at + count)
    return parameters, "".join(letters[value] for value in type_[at : at + results])


def join(*codes: Code) -> Code:
    """One after the other."""
    return tuple(token for code in codes for token in code)


def const(value: int) -> Code:
    """An i32; addresses above 2 GiB wrap, as the instruction has it."""
    return (b"\x41" + signed(value if value < 1 << 31 else value - (1 << 32)),)


def const64(value: int) -> Code:
    return (b"\x42" + signed(value),)


def local(index: int) -> Code:
    return (b"\x20" + unsigned(index),)


def assign(index: int, value: Code) -> Code:
    return join(value, (b"\x21" + unsigned(index),))


def variable(name: str) -> Code:
    return (VariableUse(name, GLOBAL_GET),)


def assign_variable(name: str, value: Code) -> Code:
    return join(value, (VariableUse(name, GLOBAL_SET),))


def call(name: str, *arguments: Code) -> Code:
    return join(*arguments, (b"\x10", SymbolUse(name)))


def drop(value: Code) -> Code:
    return join(value, (b"\x1a",))


def if_(condition: Code, then: Code, otherwise: Code = (), result: str = "") -> Code:
    """`if`; `result` is the letter of its value, if it has one."""
    kind = VALUE_TYPES[result] if result else EMPTY
    tail: Code = join((b"\x05",), otherwise) if otherwise else ()
    return join(condition, (b"\x04" + bytes([kind]),), then, tail, (b"\x0b",))


def while_(condition: Code, body: Code) -> Code:
    """A loop that tests first."""
    return join((b"\x02\x40\x03\x40",), condition, (b"\x45\x0d\x01",), body, (b"\x0c\x00\x0b\x0b",))


def give(value: Code = ()) -> Code:
    """`return`."""
    return join(value, (b"\x0f",))


TRAP: Code = (b"\x00",)


def _binary(opcode: int, left: Code, right: Code) -> Code:
    return join(left, right, (bytes([opcode]),))


def add(left: Code, right: Code) -> Code:
    return _binary(0x6A, left, right)


def sub(left: Code, right: Code) -> Code:
    return _binary(0x6B, left, right)


def mul(left: Code, right: Code) -> Code:
    return _binary(0x6C, left, right)


def and_(left: Code, right: Code) -> Code:
    return _binary(0x71, left, right)


def or_(left: Code, right: Code) -> Code:
    return _binary(0x72, left, right)


def equal(left: Code, right: Code) -> Code:
    return _binary(0x46, left, right)


def differ(left: Code, right: Code) -> Code:
    return _binary(0x47, left, right)


def less(left: Code, right: Code) -> Code:
    """Unsigned."""
    return _binary(0x49, left, right)


def greater(left: Code, right: Code) -> Code:
    """Unsigned."""
    return _binary(0x4B, left, right)


def is_zero(value: Code) -> Code:
    return join(value, (b"\x45",))


def add64(left: Code, right: Code) -> Code:
    return _binary(0x7C, left, right)


def and64(left: Code, right: Code) -> Code:
    return _binary(0x83, left, right)


def or64(left: Code, right: Code) -> Code:
    return _binary(0x84, left, right)


def differ64(left: Code, right: Code) -> Code:
    return _binary(0x52, left, right)


def sub64(left: Code, right: Code) -> Code:
    return _binary(0x7D, left, right)


def less64(left: Code, right: Code) -> Code:
    """Unsigned."""
    return _binary(0x54, left, right)


def divide64(left: Code, right: Code) -> Code:
    """Unsigned."""
    return _binary(0x80, left, right)


def remainder64(left: Code, right: Code) -> Code:
    """Unsigned."""
    return _binary(0x82, left, right)


def is_zero64(value: Code) -> Code:
    return join(value, (b"\x50",))


def narrow(value: Code) -> Code:
    """i64 to i32."""
    return join(value, (b"\xa7",))


def widen(value: Code) -> Code:
    """Unsigned i32 to i64."""
    return join(value, (b"\xad",))


def load(address: Code, offset: int = 0) -> Code:
    return join(address, (b"\x28\x02" + unsigned(offset),))


def load8(address: Code, offset: int = 0) -> Code:
    return join(address, (b"\x2d\x00" + unsigned(offset),))


def load64(address: Code, offset: int = 0) -> Code:
    return join(address, (b"\x29\x02" + unsigned(offset),))


def store(address: Code, value: Code, offset: int = 0) -> Code:
    return join(address, value, (b"\x36\x02" + unsigned(offset),))


def store8(address: Code, value: Code, offset: int = 0) -> Code:
    return join(address, value, (b"\x3a\x00" + unsigned(offset),))


def store64(address: Code, value: Code, offset: int = 0) -> Code:
    return join(address, value, (b"\x37\x02" + unsigned(offset),))


@dataclass
class Function:
    """A function of the shim under construction: parameters are locals 0..n-1, `new_local` adds more."""

    name: str
    parameters: str = ""
    results: str = ""
    locals: str = ""
    code: list[Code] = field(default_factory=list)

    def new_local(self, letter: str = "i") -> int:
        self.locals += letter
        return len(self.parameters) + len(self.locals) - 1

    def emit(self, *codes: Code) -> None:
        self.code.extend(codes)

    @property
    def type(self) -> bytes:
        return function_type(self.parameters, self.results)

    def body(self) -> Body:
        """Locals, instructions, end: neighbouring bytes are joined."""
        header = vector([b"\1" + bytes([VALUE_TYPES[letter]]) for letter in self.locals])
        return _merge((header, *(token for code in self.code for token in code), b"\x0b"))


def _merge(tokens: Sequence[Token]) -> Body:
    body: Body = []
    for token in tokens:
        if isinstance(token, bytes) and body and isinstance(last := body[-1], bytes):
            body[-1] = last + token
        else:
            body.append(token)
    return body
