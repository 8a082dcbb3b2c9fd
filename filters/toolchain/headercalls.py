"""Headers in Wasm: fetching them all, and finding one in them."""

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
from filters.toolchain.exchanges import NONE
from filters.toolchain.shim import Arena, Shim, Variable

NOT_FOUND = 1
SEVERAL, REFUSED = 1, 2
"""Results of `find_header` that are no address; 0 is for a header that is not there."""

MANY = 2
"""Headers read in a callback from which on it is cheaper to fetch all of them: a call for one costs about half of that."""


def add_header_search(shim: Shim, arena: Arena) -> None:
    """`find_header` and host.get_header."""
    frame = arena.reserve(16)
    shim.variables |= {"found_size": Variable("i"), "host_status": Variable("i"), "headers_size": Variable("i")}
    shim.variables |= {"reads": Variable("i"), "expected_reads": Variable("i", MANY)}
    shim.add(_headers_at_hand())
    shim.add(_fetch_headers(frame))
    shim.add(_same_bytes())
    shim.add(_search_headers())
    shim.add(_find_single(frame))
    shim.add(_find_header())
    shim.add(_find_in(arena.reserve(32), arena.text("surrogateescape")))
    shim.add(_get_header(arena.reserve(32), arena.text("surrogateescape")))


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


def _find_single(frame: int) -> Function:
    """(map, name, length) -> as `find_header`, REFUSED if all headers have to be fetched to know.

    Only pseudo-headers are asked for one by one: of others there may be several, and the host would tell the first.
    """
    function = Function("find_single", "iii", "i")
    status, found = function.new_local(), function.new_local()
    function.emit(
        if_(less(variable("expected_reads"), const(MANY)), (), give(const(REFUSED))),
        if_(or_(differ(variable("reads"), const(1)), less(local(2), const(1))), give(const(REFUSED))),
        if_(differ(load8(local(1)), const(ord(":"))), give(const(REFUSED))),
        store(const(frame), const(0)),
        assign(
            status,
            call("proxy_get_header_map_value", local(0), local(1), local(2), const(frame), const(frame + 4)),
        ),
        if_(equal(local(status), const(NOT_FOUND)), give(const(0))),
        if_(local(status), give(const(REFUSED))),
        assign(found, load(const(frame))),
        assign_variable("found_size", load(const(frame + 4))),
        if_(equal(local(found), variable("scratch")), give(local(found))),
        if_(local(found), call("release", local(found))),
        const(REFUSED),
    )
    return function


def _find_header() -> Function:
    """(map, name, length) -> address of its value (`found_size` bytes), 0 if it is not there, SEVERAL, or REFUSED (`host_status`).

    All headers are fetched by the first call of a callback and searched here, unless one is all that the filter will read.
    """
    function = Function("find_header", "iii", "i")
    status, found = function.new_local(), function.new_local()
    function.emit(
        assign_variable("reads", add(variable("reads"), const(1))),
        if_(
            is_zero(call("headers_at_hand", local(0))),
            join(
                assign(found, call("find_single", local(0), local(1), local(2))),
                if_(differ(local(found), const(REFUSED)), give(local(found))),
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
        text(found, handler),
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
        text(found, handler),
    )
    return function


def text(found: int, handler: int) -> Code:
    """The value that was found, as a str."""
    return call("PyUnicode_DecodeUTF8", local(found), variable("found_size"), const(handler))
