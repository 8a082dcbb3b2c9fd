"""Headers in Wasm: finding one in what the host has sent, and the methods of `filters.sdk.headers.LiveHeaders` that are called most.

The methods answer the ordinary case and hand everything else (several values, names in upper case, wrong types, errors) to the
Python function they have taken the place of, so that there is one definition of what is right.
"""

from filters.toolchain.assembler import (
    Code,
    Function,
    add,
    and_,
    assign,
    assign_variable,
    call,
    const,
    differ,
    equal,
    give,
    greater,
    if_,
    is_zero,
    join,
    less,
    load,
    load8,
    local,
    mul,
    or_,
    store,
    sub,
    variable,
    while_,
)
from filters.toolchain.exchanges import MAP, NONE, RAW
from filters.toolchain.shim import Arena, Shim, Variable

NOT_FOUND = 1
SEVERAL, REFUSED = 1, 2
"""Results of `find_header` that are no address; 0 is for a header that is not there."""
IRREGULAR = 1
"""Result of `look_up`: the Python function shall answer."""
BYTES_SIZE, BYTES = 8, 16
"""Where a bytes object has its length and content."""
METH_O, METH_FASTCALL = 0x08, 0x80
METHODS = (("get", METH_FASTCALL), ("__getitem__", METH_O), ("__contains__", METH_O), ("__setitem__", METH_FASTCALL))
TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
MOST_ARGUMENTS = 6


def add_header_search(shim: Shim, arena: Arena) -> None:
    """`find_header` and host.get_header."""
    frame = arena.reserve(16)
    shim.variables |= {"found_size": Variable("i"), "host_status": Variable("i"), "headers_size": Variable("i")}
    shim.add(_headers_at_hand())
    shim.add(_fetch_headers(frame))
    shim.add(_same_bytes())
    shim.add(_search_headers())
    shim.add(_find_header())
    shim.add(_find_in(arena.reserve(32), arena.text("surrogateescape")))
    shim.add(_get_header(arena.reserve(32), arena.text("surrogateescape")))


def add_header_methods(shim: Shim, arena: Arena, first_slot: int) -> tuple[int, int]:
    """The methods; addresses of their PyMethodDefs and of the cells for the Python functions they fall back on."""
    frame, cells = arena.reserve(32), arena.reserve(4 * len(METHODS))
    handler = arena.text("surrogateescape")
    shim.add(_lower_case())
    shim.add(_plain_name(arena.place(bytes(byte in TOKEN for byte in range(256)))))
    shim.add(_plain_value())
    shim.add(_fall_back())
    shim.add(_look_up(frame))
    shim.add(_get(cells, handler))
    shim.add(_getitem(cells + 4, handler))
    shim.add(_contains(cells + 8))
    shim.add(_setitem(frame, cells + 12))
    definitions = b""
    for slot, (name, flags) in enumerate(METHODS, first_slot):
        shim.slots[slot] = f"headers.{name}"
        definitions += b"".join(value.to_bytes(4, "little") for value in (arena.text(name), slot, flags, 0))
    return arena.place(definitions), cells


def _same_bytes() -> Function:
    """(a, b, length) -> whether they are equal."""
    function = Function("same_bytes", "iii", "i")
    place = sub(local(2), const(1))
    left, right = load8(add(local(0), local(2))), load8(add(local(1), local(2)))
    function.emit(while_(local(2), join(assign(2, place), if_(differ(left, right), give(const(0))))), const(1))
    return function


def _headers_at_hand() -> Function:
    """(map) -> whether its headers have been fetched, and not been changed since."""
    function = Function("headers_at_hand", "i", "i")
    function.emit(and_(differ(variable("headers"), const(0)), equal(variable("headers_map"), local(0))))
    return function


def _fetch_headers(frame: int) -> Function:
    """(map) -> the host's status. All headers at once: a call of the host costs more than a search, and tells of doubles."""
    function = Function("fetch_headers", "i", "i")
    status = function.new_local()
    function.emit(
        call("forget_headers"),
        store(const(frame), const(0)),
        assign_variable("buffer", variable("header_buffer")),
        assign(status, call("proxy_get_header_map_pairs", local(0), const(frame), const(frame + 4))),
        assign_variable("buffer", variable("scratch")),
        if_(local(status), give(local(status))),
        # Headers that Envoy has let go of: success, and nothing written.
        assign_variable("headers", load(const(frame))),
        assign_variable("headers_size", load(const(frame + 4))),
        assign_variable("headers_map", local(0)),
        const(0),
    )
    return function


def _find_header() -> Function:
    """(map, name, length) -> address of its value (`found_size` bytes), 0 if it is not there, SEVERAL, or REFUSED (`host_status`).

    All headers are fetched by the first call of a callback and searched here.
    """
    function = Function("find_header", "iii", "i")
    status = function.new_local()
    function.emit(
        if_(
            is_zero(call("headers_at_hand", local(0))),
            join(
                assign(status, call("fetch_headers", local(0))),
                if_(equal(local(status), const(NOT_FOUND)), give(const(0))),
                if_(local(status), join(assign_variable("host_status", local(status)), give(const(REFUSED)))),
                if_(is_zero(variable("headers")), give(const(0))),
            ),
        ),
        call("search_headers", variable("headers"), local(1), local(2)),
    )
    return function


def _search_headers() -> Function:
    """(serialised headers, name, length) -> as `find_header`, never REFUSED."""
    function = Function("search_headers", "iii", "i")
    left, table, at, found = (function.new_local() for _ in range(4))
    match = join(
        if_(local(found), give(const(SEVERAL))),
        assign(found, add(add(local(at), local(2)), const(1))),
        assign_variable("found_size", load(local(table), 4)),
    )
    function.emit(
        assign(left, load(local(0))),
        assign(table, add(local(0), const(4))),
        assign(at, add(local(table), mul(local(left), const(8)))),
        while_(
            local(left),
            join(
                if_(
                    equal(load(local(table)), local(2)),
                    if_(call("same_bytes", local(1), local(at), local(2)), match),
                ),
                assign(at, add(add(local(at), const(2)), add(load(local(table)), load(local(table), 4)))),
                assign(table, add(local(table), const(8))),
                assign(left, sub(local(left), const(1))),
            ),
        ),
        local(found),
    )
    return function


def _find_in(frame: int, handler: int) -> Function:
    """host.find_header(headers, name) -> str | None, or True if there are several; the headers as host.get_headers gave them."""
    function = Function("host.find_header", "iii", "i")
    found = function.new_local()
    wrong = or_(differ(local(2), const(2)), differ(load(load(local(1)), 4), variable("&PyBytes_Type")))
    function.emit(
        if_(wrong, join(call("PyErr_BadArgument"), (b"\x1a",), give(const(0)))),
        if_(is_zero(call("text_argument", load(local(1)), const(frame))), give(const(0))),
        if_(is_zero(call("text_argument", load(local(1), 4), const(frame + 8))), give(const(0))),
        if_(less(load(const(frame + 4)), const(4)), give(NONE)),
        assign(found, call("search_headers", load(const(frame)), load(const(frame + 8)), load(const(frame + 12)))),
        if_(is_zero(local(found)), give(NONE)),
        if_(equal(local(found), const(SEVERAL)), give(variable("&_Py_TrueStruct"))),
        _text(found, handler),
    )
    return function


def _get_header(frame: int, handler: int) -> Function:
    """host.get_header(map, name) -> str | None, or True if there are several."""
    function = Function("host.get_header", "iii", "i")
    found = function.new_local()
    arguments = local(1)
    function.emit(
        if_(differ(local(2), const(2)), join(call("PyErr_BadArgument"), (b"\x1a",), give(const(0)))),
        if_(is_zero(call("number_argument", load(arguments), const(frame))), give(const(0))),
        if_(is_zero(call("text_argument", load(arguments, 4), const(frame + 8))), give(const(0))),
        assign(found, call("find_header", load(const(frame)), load(const(frame + 8)), load(const(frame + 12)))),
        if_(is_zero(local(found)), give(NONE)),
        if_(equal(local(found), const(SEVERAL)), give(variable("&_Py_TrueStruct"))),
        if_(equal(local(found), const(REFUSED)), give(call("host_failed", variable("host_status")))),
        _text(found, handler),
    )
    return function


def _text(found: int, handler: int) -> Code:
    return call("PyUnicode_DecodeUTF8", local(found), variable("found_size"), const(handler))


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
    """(text, length) -> whether all of it is printable ASCII."""
    return _every_byte("plain_value", less(sub(local(2), const(0x20)), const(0x7F - 0x20)))


def _fall_back() -> Function:
    """(function, self, arguments, count) -> what the Python function returns."""
    function = Function("fall_back", "iiii", "i")
    frame, place, result = (function.new_local() for _ in range(3))
    size = 4 * (MOST_ARGUMENTS + 2) + 15 & ~15
    function.emit(
        if_(greater(local(3), const(MOST_ARGUMENTS)), assign(3, const(MOST_ARGUMENTS))),
        assign(frame, sub(variable("__stack_pointer"), const(size))),
        assign_variable("__stack_pointer", local(frame)),
        store(local(frame), local(1)),
        while_(
            less(local(place), local(3)),
            join(
                store(
                    add(local(frame), mul(local(place), const(4))), load(add(local(2), mul(local(place), const(4)))), 4
                ),
                assign(place, add(local(place), const(1))),
            ),
        ),
        assign(result, call("PyObject_Vectorcall", local(0), local(frame), add(local(3), const(1)), const(0))),
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
            assign(found, call("find_header", call("PyLong_AsUnsignedLong", load(local(0), MAP)), local(name), length)),
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
    function = Function("headers.get", "iii", "i")
    found, default = function.new_local(), function.new_local()
    function.emit(
        if_(
            less(sub(local(2), const(1)), const(2)),
            join(
                assign(found, call("look_up", local(0), load(local(1)))),
                if_(greater(local(found), const(IRREGULAR)), give(_text(found, handler))),
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
        call("fall_back", load(const(cell)), local(0), local(1), local(2)),
    )
    return function


def _one_argument(function: Function, cell: int) -> Code:
    """Fall back with the argument, which is local 1; through the shadow stack, as it has no address."""
    frame, result = function.new_local(), function.new_local()
    return join(
        assign(frame, sub(variable("__stack_pointer"), const(16))),
        assign_variable("__stack_pointer", local(frame)),
        store(local(frame), local(1)),
        assign(result, call("fall_back", load(const(cell)), local(0), local(frame), const(1))),
        assign_variable("__stack_pointer", add(local(frame), const(16))),
        local(result),
    )


def _getitem(cell: int, handler: int) -> Function:
    """(self, name): KeyError if it is not there."""
    function = Function("headers.__getitem__", "ii", "i")
    found = function.new_local()
    function.emit(
        assign(found, call("look_up", local(0), local(1))),
        if_(greater(local(found), const(IRREGULAR)), give(_text(found, handler))),
        _one_argument(function, cell),
    )
    return function


def _contains(cell: int) -> Function:
    """(self, name)."""
    function = Function("headers.__contains__", "ii", "i")
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
    function = Function("headers.__setitem__", "iii", "i")
    name, value, status = (function.new_local() for _ in range(3))
    name_size, value_size = load(const(frame + 8)), load(const(frame + 12))
    replace = join(
        assign(
            status,
            call(
                "proxy_replace_header_map_value",
                call("PyLong_AsUnsignedLong", load(local(0), MAP)),
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
        call("fall_back", load(const(cell)), local(0), local(1), local(2)),
    )
    return function
