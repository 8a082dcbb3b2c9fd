"""What can be known of a handler from its code. Used while a module is built, in the guest: the opcodes are CPython 3.14's."""

from opcode import opmap, opname
from types import FunctionType

CO_VARARGS, CO_COROUTINE = 0x04, 0x80
AWAITING = frozenset({opmap["GET_AWAITABLE"], opmap["GET_ANEXT"]})
"""What an await compiles to (CPython's `dis`)."""
SEES_ALL = frozenset({"locals", "vars", "dir", "eval", "exec", "_getframe", "currentframe", "f_locals", "breakpoint"})
"""Names with which a function can get at its variables other than by name."""
REQUEST = 1
"""Place of the request among the parameters of on_response; 0 is self."""


def may_wait(function: object) -> bool:
    """Whether a handler can be suspended: an `async def` with an await in it. What is wrapped counts; what cannot be read may wait."""
    while (inner := getattr(function, "__wrapped__", None)) is not None:
        function = inner
    if not isinstance(function, FunctionType):
        return True
    code = function.__code__
    return bool(code.co_flags & CO_COROUTINE) and any(operation in AWAITING for operation in code.co_code[::2])


def ignores_request(function: object) -> bool:
    """Whether on_response never looks at its request. What is wrapped or cannot be read does look."""
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        return False
    code = function.__code__
    if (
        code.co_argcount <= REQUEST
        or code.co_varnames[REQUEST] in code.co_cellvars
        or SEES_ALL.intersection(code.co_names)
    ):
        return False
    # Caches between the instructions may look like one: then it is only taken to read more than it does.
    return not any(
        REQUEST in ((place,) if name.count("FAST") == 1 else (place >> 4, place & 15))
        for name, place in zip((opname[operation] for operation in code.co_code[::2]), code.co_code[1::2], strict=True)
        if "LOAD_FAST" in name
    )


def without_coroutine(function: object) -> FunctionType | None:
    """The plain function with the body of an `async def` that never waits: calling it runs it. None if it is no such function.

    An `async def` begins by making its coroutine; these two instructions are left out.
    """
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__") or may_wait(function):
        return None
    code = function.__code__
    if not code.co_flags & CO_COROUTINE:
        return None
    instructions = bytearray(code.co_code)
    at = 0
    while instructions[at] in (opmap["COPY_FREE_VARS"], opmap["MAKE_CELL"]):
        at += 2
    if (instructions[at], instructions[at + 2]) != (opmap["RETURN_GENERATOR"], opmap["POP_TOP"]):
        return None
    instructions[at : at + 4] = bytes([opmap["NOP"], 0, opmap["NOP"], 0])
    plain = FunctionType(
        code.replace(co_code=bytes(instructions), co_flags=code.co_flags & ~CO_COROUTINE),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    plain.__kwdefaults__ = function.__kwdefaults__
    plain.__qualname__ = function.__qualname__
    return plain
