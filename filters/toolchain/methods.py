"""The methods of `filters.sdk.headers.LiveHeaders` that are called most, in Wasm, and its operators; `Counter.add`.

They answer the ordinary case and hand everything else (several values, names in upper case, wrong types, errors) to the Python function
they have taken the place of, so that there is one definition of what is right.
"""

from typing import NamedTuple

from filters.toolchain.assembler import (
    Code,
    Function,
    add,
    add64,
    and64,
    and_,
    assign,
    assign_variable,
    call,
    const,
    const64,
    differ,
    differ64,
    drop,
    equal,
    give,
    greater,
    if_,
    is_zero,
    join,
    less,
    less64,
    load,
    load8,
    load64,
    local,
    mul,
    or64,
    or_,
    store,
    sub,
    sub64,
    variable,
    while_,
)
from filters.toolchain.exchanges import MAP, NONE, RAW
from filters.toolchain.headercalls import REFUSED, text
from filters.toolchain.shim import Arena, Shim

IRREGULAR = 1
"""Result of `look_up`: the Python function shall answer."""
METRIC_ID = 8
"""Where metrics.Counter has its _id."""
BYTES_SIZE, BYTES = 8, 16
"""Where a bytes object has its length and content."""
DIGIT = 12
"""Where a small int has its value."""
METH_O, METH_FASTCALL, METH_KEYWORDS = 0x08, 0x80, 0x02
AS_SEQUENCE, AS_MAPPING = 52, 56
"""Where a type has the tables of its operators."""
SUBSCRIPT, ASSIGN_SUBSCRIPT, CONTAINS = 4, 8, 28
"""Where these have the functions behind [], [] = (and del), and in."""
TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
MOST_ARGUMENTS = 6


class Takeover(NamedTuple):
    """Methods of a Python class that ours take the place of."""

    module: str
    name: str
    methods: tuple[tuple[str, int], ...]
    """Name and calling convention; the function is called CLASS.NAME."""
    definitions: int
    """Address of their PyMethodDefs."""
    cells: int
    """Where the Python functions are kept: ours fall back on them."""


HEADERS = (("get", METH_FASTCALL), ("__getitem__", METH_O), ("__contains__", METH_O), ("__setitem__", METH_FASTCALL))
COUNTER = (("add", METH_FASTCALL | METH_KEYWORDS),)


def add_methods(shim: Shim, arena: Arena, first_slot: int) -> None:
    """All methods, and the function `install_methods` that puts them into their classes when a VM starts."""
    frame = arena.reserve(32)
    handler = arena.text("surrogateescape")
    shim.add(_lower_case())
    shim.add(_plain_name(arena.place(bytes(byte in TOKEN for byte in range(256)))))
    shim.add(_plain_value())
    shim.add(_fall_back())
    shim.add(_look_up(frame))
    headers = _takeover(shim, arena, "filters.sdk.headers", "LiveHeaders", HEADERS, first_slot)
    shim.add(_get(headers.cells, handler))
    shim.add(_getitem(headers.cells + 4, handler))
    shim.add(_contains(headers.cells + 8))
    shim.add(_setitem(frame, headers.cells + 12))
    counter = _takeover(shim, arena, "filters.sdk.metrics", "Counter", COUNTER, first_slot + len(HEADERS))
    shim.add(_counter_add(counter.cells))
    shim.add(_install_operators(shim, arena, first_slot + len(HEADERS) + len(COUNTER)))
    shim.add(_install_methods(arena, (headers, counter)))


def _takeover(  # noqa: PLR0917
    shim: Shim, arena: Arena, module: str, name: str, methods: tuple[tuple[str, int], ...], first_slot: int
) -> Takeover:
    definitions = b""
    for slot, (method, flags) in enumerate(methods, first_slot):
        shim.slots[slot] = f"{name}.{method}"
        definitions += b"".join(value.to_bytes(4, "little") for value in (arena.text(method), slot, flags, 0))
    return Takeover(module, name, methods, arena.place(definitions), arena.reserve(4 * len(methods)))


def _install_methods(arena: Arena, takeovers: tuple[Takeover, ...]) -> Function:
    function = Function("install_methods")
    kind, old, method = (function.new_local() for _ in range(3))
    for found in takeovers:
        module = call("PyImport_AddModule", const(arena.text(found.module)))
        function.emit(
            assign(kind, call("PyObject_GetAttrString", module, const(arena.text(found.name)))),
            if_(is_zero(local(kind)), call("callback_failed", NONE)),
        )
        for place in range(len(found.methods)):
            definition = found.definitions + 16 * place
            function.emit(
                assign(old, call("PyObject_GetAttrString", local(kind), load(const(definition)))),
                if_(is_zero(local(old)), call("callback_failed", local(kind))),
                store(const(found.cells), local(old), 4 * place),
                assign(method, call("PyDescr_NewMethod", local(kind), const(definition))),
                drop(call("PyObject_SetAttrString", local(kind), load(const(definition)), local(method))),
            )
        if found.methods is HEADERS:
            function.emit(call("install_operators", local(kind)))
    return function


def _install_operators(shim: Shim, arena: Arena, slot: int) -> Function:
    """(LiveHeaders): its operators call our functions, with no method to be looked up. After the methods: these set operators, too."""
    delitem = arena.reserve(4)
    shim.add(_assign_or_delete(delitem))
    shim.add(_is_in())
    shim.slots |= {slot: "LiveHeaders.assign_or_delete", slot + 1: "LiveHeaders.is_in"}
    get_slot = next(number for number, name in shim.slots.items() if name == "LiveHeaders.__getitem__")
    function = Function("install_operators", "i")
    mapping, sequence = load(local(0), AS_MAPPING), load(local(0), AS_SEQUENCE)
    function.emit(
        store(const(delitem), call("PyObject_GetAttrString", local(0), const(arena.text("__delitem__")))),
        store(mapping, const(get_slot), SUBSCRIPT),
        store(mapping, const(slot), ASSIGN_SUBSCRIPT),
        store(sequence, const(slot + 1), CONTAINS),
    )
    return function


def _assign_or_delete(delitem: int) -> Function:
    """(self, name, value or 0 to delete) -> 0, -1 with an exception."""
    function = Function("LiveHeaders.assign_or_delete", "iii", "i")
    frame, result = function.new_local(), function.new_local()
    function.emit(
        assign(frame, sub(variable("__stack_pointer"), const(16))),
        assign_variable("__stack_pointer", local(frame)),
        store(local(frame), local(1)),
        store(local(frame), local(2), 4),
        assign(
            result,
            if_(
                local(2),
                call("LiveHeaders.__setitem__", local(0), local(frame), const(2)),
                call("fall_back", load(const(delitem)), local(0), local(frame), const(1), const(0)),
                result="i",
            ),
        ),
        assign_variable("__stack_pointer", add(local(frame), const(16))),
        if_(is_zero(local(result)), give(const(-1))),
        call("Py_DecRef", local(result)),
        const(0),
    )
    return function


def _is_in() -> Function:
    """(self, name) -> 1 or 0, -1 with an exception."""
    function = Function("LiveHeaders.is_in", "ii", "i")
    result, answer = function.new_local(), function.new_local()
    function.emit(
        assign(result, call("LiveHeaders.__contains__", local(0), local(1))),
        if_(is_zero(local(result)), give(const(-1))),
        assign(answer, call("PyObject_IsTrue", local(result))),
        call("Py_DecRef", local(result)),
        local(answer),
    )
    return function


def _counter_add(cell: int) -> Function:
    """(self, arguments, count, names of the last of them): add(amount=1), of a counter that is defined."""
    function = Function("Counter.add", "iiii", "i")
    number, status = function.new_local(), function.new_local()
    amount = function.new_local("l")
    given = load(local(1))
    increment = join(
        assign(status, call("proxy_increment_metric", call("PyLong_AsUnsignedLong", local(number)), local(amount))),
        if_(local(status), give(call("host_failed", local(status)))),
        give(NONE),
    )
    known = and_(differ(local(number), const(0)), differ(local(number), NONE))
    function.emit(
        assign(number, load(local(0), METRIC_ID)),
        if_(
            and_(and_(known, is_zero(local(3))), less(local(2), const(2))),
            join(
                assign(amount, const64(1)),
                if_(
                    local(2),
                    join(
                        assign(amount, const64(0)),
                        if_(
                            equal(load(given, 4), variable("&PyLong_Type")),
                            assign(amount, call("PyLong_AsLongLong", given)),
                        ),
                    ),
                ),
                if_(less64(sub64(local(amount), const64(1)), const64((1 << 63) - 1)), increment),
                call("PyErr_Clear"),
            ),
        ),
        call("fall_back", load(const(cell)), local(0), local(1), local(2), local(3)),
    )
    return function


def _every_byte(name: str, test: Code) -> Function:
    """(text, length) -> whether `test` holds for all bytes; the byte is local 2, its place local 1."""
    function = Function(name, "ii", "i")
    byte = function.new_local()
    function.emit(
        while_(
            local(1),
            join(
                assign(1, sub(local(1), const(1))),
                assign(byte, load8(add(local(0), local(1)))),
                if_(is_zero(test), give(const(0))),
            ),
        ),
        const(1),
    )
    return function


def _lower_case() -> Function:
    """(text, length) -> whether it is ASCII without capital letters."""
    capital = less(sub(local(2), const(ord("A"))), const(26))
    return _every_byte("lower_case", and_(is_zero(capital), less(local(2), const(0x80))))


def _plain_name(table: int) -> Function:
    """(text, length) -> whether it is a header name in lower case; a pseudo-header's begins with a colon."""
    colon = and_(equal(local(2), const(ord(":"))), is_zero(local(1)))
    return _every_byte("plain_name", or_(load8(add(local(2), const(table))), colon))


def _plain_value() -> Function:
    """(text, length) -> whether all of it is printable ASCII: eight bytes at a time, the rest one by one."""
    function = Function("plain_value", "ii", "i")
    byte = function.new_local()
    eight = function.new_local("l")
    high, below_space, above_tilde = (
        const64(int.from_bytes([value] * 8) - (value >> 7 << 64)) for value in (0x80, 0x60, 1)
    )
    # The high bit of each byte: of the byte, or of one more, it must not be set; of the byte and 0x60 it must.
    wrong = or64(
        or64(local(eight), add64(local(eight), above_tilde)),
        sub64(const64(-1), add64(local(eight), below_space)),
    )
    function.emit(
        while_(
            less(const(7), local(1)),
            join(
                assign(eight, load64(local(0))),
                if_(differ64(and64(wrong, high), const64(0)), give(const(0))),
                assign(0, add(local(0), const(8))),
                assign(1, sub(local(1), const(8))),
            ),
        ),
        while_(
            local(1),
            join(
                assign(1, sub(local(1), const(1))),
                assign(byte, load8(add(local(0), local(1)))),
                if_(less(const(0x7E - 0x20), sub(local(byte), const(0x20))), give(const(0))),
            ),
        ),
        const(1),
    )
    return function


def _fall_back() -> Function:
    """(function, self, arguments, count, names of the last of them or 0) -> what the Python function returns."""
    function = Function("fall_back", "iiiii", "i")
    frame, place, result, total = (function.new_local() for _ in range(4))
    size = 4 * (MOST_ARGUMENTS + 2) + 15 & ~15
    function.emit(
        assign(total, local(3)),
        if_(local(4), assign(total, add(local(3), call("PyTuple_Size", local(4))))),
        if_(
            greater(local(total), const(MOST_ARGUMENTS)),
            join(drop(call("PyErr_BadArgument")), give(const(0))),
        ),
        assign(frame, sub(variable("__stack_pointer"), const(size))),
        assign_variable("__stack_pointer", local(frame)),
        store(local(frame), local(1)),
        while_(
            less(local(place), local(total)),
            join(
                store(
                    add(local(frame), mul(local(place), const(4))), load(add(local(2), mul(local(place), const(4)))), 4
                ),
                assign(place, add(local(place), const(1))),
            ),
        ),
        assign(result, call("PyObject_Vectorcall", local(0), local(frame), add(local(3), const(1)), local(4))),
        assign_variable("__stack_pointer", add(local(frame), const(size))),
        local(result),
    )
    return function


def _is_text(value: Code) -> Code:
    return equal(load(value, 4), variable("&PyUnicode_Type"))


def _look_up(frame: int) -> Function:
    """(self, name) -> address of the one value, 0 if there is none, IRREGULAR."""
    function = Function("look_up", "ii", "i")
    name, found, raw = (function.new_local() for _ in range(3))
    length = load(const(frame))
    kept = and_(equal(load(local(raw), 4), variable("&PyBytes_Type")), greater(load(local(raw), BYTES_SIZE), const(3)))
    function.emit(
        if_(is_zero(_is_text(local(1))), give(const(IRREGULAR))),
        assign(name, call("PyUnicode_AsUTF8AndSize", local(1), const(frame))),
        if_(is_zero(local(name)), join(call("PyErr_Clear"), give(const(IRREGULAR)))),
        assign(raw, load(local(0), RAW)),
        if_(
            equal(local(raw), NONE),
            assign(found, call("find_header", load(load(local(0), MAP), DIGIT), local(name), length)),
            join(
                if_(is_zero(kept), give(const(IRREGULAR))),
                assign(found, call("search_headers", add(local(raw), const(BYTES)), local(name), length)),
            ),
        ),
        if_(greater(local(found), const(REFUSED)), give(local(found))),
        if_(local(found), give(const(IRREGULAR))),
        is_zero(call("lower_case", local(name), length)),
    )
    return function


def _get(cell: int, handler: int) -> Function:
    """(self, arguments, count): get(name, default=None, /)."""
    function = Function("LiveHeaders.get", "iii", "i")
    found, default = function.new_local(), function.new_local()
    function.emit(
        if_(
            less(sub(local(2), const(1)), const(2)),
            join(
                assign(found, call("look_up", local(0), load(local(1)))),
                if_(greater(local(found), const(IRREGULAR)), give(text(found, handler))),
                if_(
                    is_zero(local(found)),
                    join(
                        assign(default, if_(equal(local(2), const(2)), load(local(1), 4), NONE, result="i")),
                        call("Py_IncRef", local(default)),
                        give(local(default)),
                    ),
                ),
            ),
        ),
        call("fall_back", load(const(cell)), local(0), local(1), local(2), const(0)),
    )
    return function


def _one_argument(function: Function, cell: int) -> Code:
    """Fall back with the argument, which is local 1; through the shadow stack, as it has no address."""
    frame, result = function.new_local(), function.new_local()
    return join(
        assign(frame, sub(variable("__stack_pointer"), const(16))),
        assign_variable("__stack_pointer", local(frame)),
        store(local(frame), local(1)),
        assign(result, call("fall_back", load(const(cell)), local(0), local(frame), const(1), const(0))),
        assign_variable("__stack_pointer", add(local(frame), const(16))),
        local(result),
    )


def _getitem(cell: int, handler: int) -> Function:
    """(self, name): KeyError if it is not there."""
    function = Function("LiveHeaders.__getitem__", "ii", "i")
    found = function.new_local()
    function.emit(
        assign(found, call("look_up", local(0), local(1))),
        if_(greater(local(found), const(IRREGULAR)), give(text(found, handler))),
        _one_argument(function, cell),
    )
    return function


def _contains(cell: int) -> Function:
    """(self, name)."""
    function = Function("LiveHeaders.__contains__", "ii", "i")
    found = function.new_local()
    function.emit(
        assign(found, call("look_up", local(0), local(1))),
        if_(greater(local(found), const(IRREGULAR)), give(variable("&_Py_TrueStruct"))),
        if_(is_zero(local(found)), give(variable("&_Py_FalseStruct"))),
        _one_argument(function, cell),
    )
    return function


def _setitem(frame: int, cell: int) -> Function:
    """(self, arguments, count): one value in the place of all."""
    function = Function("LiveHeaders.__setitem__", "iii", "i")
    name, value, status = (function.new_local() for _ in range(3))
    name_size, value_size = load(const(frame + 8)), load(const(frame + 12))
    replace = join(
        assign(
            status,
            call(
                "proxy_replace_header_map_value",
                load(load(local(0), MAP), DIGIT),
                local(name),
                name_size,
                local(value),
                value_size,
            ),
        ),
        call("forget_headers"),
        if_(local(status), give(call("host_failed", local(status)))),
        give(NONE),
    )
    plain = if_(
        and_(call("plain_name", local(name), name_size), call("plain_value", local(value), value_size)),
        if_(greater(name_size, const(1)), replace),
    )
    texts = if_(
        and_(_is_text(load(local(1))), _is_text(load(local(1), 4))),
        join(
            assign(name, call("PyUnicode_AsUTF8AndSize", load(local(1)), const(frame + 8))),
            assign(value, call("PyUnicode_AsUTF8AndSize", load(local(1), 4), const(frame + 12))),
            if_(
                or_(is_zero(local(name)), is_zero(local(value))),
                call("PyErr_Clear"),
                plain,
            ),
        ),
    )
    function.emit(
        if_(and_(equal(local(2), const(2)), equal(load(local(0), RAW), NONE)), texts),
        call("fall_back", load(const(cell)), local(0), local(1), local(2), const(0)),
    )
    return function
