"""A function body as the linker holds it: bytes that stay as they are, and uses of things whose index is not known yet."""

from typing import Literal, NamedTuple, TypeAlias


class Ref(NamedTuple):
    """A defined function or global: instance of the component (or one of the pseudo-instances below) and index in it."""

    instance: int
    number: int


SHIM = -1
"""Pseudo-instance of the functions and globals we write ourselves."""
HOST = -2
"""Pseudo-instance of the functions Envoy provides."""


class FunctionUse(NamedTuple):
    """The index of a function, after `call`, `return_call` or `ref.func`."""

    ref: Ref


class GlobalUse(NamedTuple):
    """`global.get` or `global.set`."""

    ref: Ref
    opcode: Literal[0x23, 0x24]


class TypeUse(NamedTuple):
    """A type index after `call_indirect`."""

    type: bytes


class BlockTypeUse(NamedTuple):
    """A type index (signed) after `block`, `loop` or `if`."""

    type: bytes


class SymbolUse(NamedTuple):
    """A call by name, in the shim; resolved to a FunctionUse."""

    name: str


class VariableUse(NamedTuple):
    """A global by name, in the shim; resolved to a GlobalUse."""

    name: str
    opcode: Literal[0x23, 0x24]


Token: TypeAlias = bytes | FunctionUse | GlobalUse | TypeUse | BlockTypeUse | SymbolUse | VariableUse
Body: TypeAlias = list[Token]

GLOBAL_GET: Literal[0x23] = 0x23
GLOBAL_SET: Literal[0x24] = 0x24
