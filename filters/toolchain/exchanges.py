"""The Python objects of a request and its response, kept by Wasm between callbacks and used again for others.

An exchange lives from a stream's first callback to its last; then its objects go to the next stream, unless a filter has kept a
reference to one of them or left something in it: then they are given up. Streams are remembered in a table by number; one whose place
is taken by another is handed to `dispatch.adopt`.
"""

from filters.toolchain.assembler import (
    TRAP,
    Code,
    Function,
    add,
    and_,
    assign,
    assign_variable,
    call,
    const,
    differ,
    drop,
    equal,
    give,
    if_,
    is_zero,
    join,
    less,
    load,
    local,
    mul,
    or_,
    store,
    sub,
    variable,
)
from filters.toolchain.shim import Arena, Shim, Variable

NONE = variable("&_Py_NoneStruct")
TRUE, FALSE = variable("&_Py_TrueStruct"), variable("&_Py_FalseStruct")

# An exchange: references to its objects, 0 for none.
REQUEST, HEADERS, PROPERTIES, RESPONSE, LIVE, RESPONSE_HEADERS = 4, 8, 12, 16, 20, 24
SIZE = 32
NEXT = 0
MOST_FREE = 64
"""Exchanges that wait for their next use."""

# Where objects have their slots: CPython lays them out in the order of their names, after a head of 8 bytes.
ENDED, READ, IN_HEADERS, IN_PROPERTIES = 20, 24, 28, 32
"""Of messages._Live and Request."""
OF_RESPONSE_HEADERS, OF_LIVE = 16, 20
"""Of messages.LiveResponse."""
MAP, PAIRS, RAW = 8, 12, 16
"""Of headers.LiveHeaders."""

STREAMS = 4096
"""Places of the table of streams."""
ID, ROOT, EXCHANGE, STATE = 0, 4, 8, 12
ENTRY_SIZE = 16
IN_PYTHON, RESPONDED = 1, 2
"""State of a stream: `dispatch` has to be asked; on_response has been called."""


def add_exchanges(shim: Shim, arena: Arena, cells: "dict[str, int]") -> None:
    """`cells` have functions of `dispatch`: new_request, new_response, adopt."""
    table = arena.reserve(ENTRY_SIZE * STREAMS)
    shim.variables |= {"stream_table": Variable("i", table), "free": Variable("i"), "free_count": Variable("i")}
    shim.add(_stream_entry())
    shim.add(_create())
    shim.add(_parent_of())
    shim.add(_take(cells["new_request"], arena))
    shim.add(_respond(cells["new_response"], arena))
    shim.add(_held())
    shim.add(_response_held())
    shim.add(_release())
    shim.add(_drop())
    shim.add(_keep_headers(arena.reserve(4)))
    shim.add(_spill(cells["adopt"]))


def _stream_entry() -> Function:
    """(stream) -> its place in the table, which may be another's."""
    function = Function("stream_entry", "i", "i")
    function.emit(add(variable("stream_table"), mul(and_(local(0), const(STREAMS - 1)), const(ENTRY_SIZE))))
    return function


def _create() -> Function:
    """(stream, parent): what Envoy calls first for a stream."""
    function = Function("create_stream", "ii")
    entry = function.new_local()
    function.emit(
        assign(entry, call("stream_entry", local(0))),
        if_(load(local(entry), EXCHANGE), call("spill", local(entry))),
        store(local(entry), local(0), ID),
        store(local(entry), local(1), ROOT),
        store(local(entry), const(0), STATE),
    )
    return function


def _parent_of() -> Function:
    """(stream) -> its root context, 0 if that is no longer known. Whoever asks goes the long way: Python has the stream."""
    function = Function("parent_of", "i", "i")
    entry = function.new_local()
    function.emit(
        assign(entry, call("stream_entry", local(0))),
        if_(differ(load(local(entry), ID), local(0)), give(const(0))),
        store(local(entry), const(IN_PYTHON), STATE),
        load(local(entry), ROOT),
    )
    return function


def _take(cell: int, arena: Arena) -> Function:
    """() -> an exchange, with a request."""
    function = Function("take_exchange", "", "i")
    taken = function.new_local()
    again = join(
        assign_variable("free", load(local(taken), NEXT)),
        assign_variable("free_count", sub(variable("free_count"), const(1))),
        give(local(taken)),
    )
    function.emit(
        assign(taken, variable("free")),
        if_(local(taken), again),
        assign(taken, call("malloc", const(SIZE))),
        if_(is_zero(local(taken)), TRAP),
        store(local(taken), call("made_by", load(const(cell))), REQUEST),
        *_attributes(taken, (REQUEST, "headers", HEADERS), (REQUEST, "properties", PROPERTIES), arena=arena),
        *(store(local(taken), const(0), place) for place in (RESPONSE, LIVE, RESPONSE_HEADERS)),
        local(taken),
    )
    return function


def _respond(cell: int, arena: Arena) -> Function:
    """(exchange): give it a response if it has none."""
    function = Function("respond", "i")
    function.emit(
        if_(load(local(0), RESPONSE), give()),
        store(local(0), call("made_by", load(const(cell))), RESPONSE),
        *_attributes(0, (RESPONSE, "live", LIVE), (RESPONSE, "headers", RESPONSE_HEADERS), arena=arena),
    )
    return function


def _attributes(exchange: int, *attributes: tuple[int, str, int], arena: Arena) -> list[Code]:
    return [
        store(
            local(exchange),
            call("PyObject_GetAttrString", load(local(exchange), owner), const(arena.text(name))),
            place,
        )
        for owner, name, place in attributes
    ]


def _held() -> Function:
    """(exchange) -> whether somebody else has its request or the headers, or has left something in them."""
    function = Function("request_held", "i", "i")
    request = load(local(0), REQUEST)
    function.emit(
        _any(
            differ(load(request), const(1)),
            differ(load(load(local(0), HEADERS)), const(2)),
            differ(load(request, IN_HEADERS), load(local(0), HEADERS)),
            differ(load(request, IN_PROPERTIES), load(local(0), PROPERTIES)),
            differ(load(request, READ), FALSE),
        )
    )
    return function


def _response_held() -> Function:
    """(exchange) -> the same of its response."""
    function = Function("response_held", "i", "i")
    response, live, headers = (load(local(0), place) for place in (RESPONSE, LIVE, RESPONSE_HEADERS))
    function.emit(
        if_(is_zero(response), give(const(0))),
        _any(
            differ(load(response), const(1)),
            differ(load(live), const(2)),
            differ(load(headers), const(3)),
            differ(load(response, OF_LIVE), live),
            differ(load(response, OF_RESPONSE_HEADERS), headers),
            differ(load(live, IN_HEADERS), headers),
            differ(load(live, READ), FALSE),
        ),
    )
    return function


def _any(first: Code, *others: Code) -> Code:
    for other in others:
        first = or_(first, other)
    return first


def _release() -> Function:
    """(exchange): its stream needs it no longer."""
    function = Function("release_exchange", "i")
    headers = load(local(0), HEADERS)
    forget = join(
        call("Py_DecRef", load(headers, RAW)),
        store(headers, NONE, RAW),
        call("Py_DecRef", load(headers, PAIRS)),
        store(headers, NONE, PAIRS),
    )
    usable = and_(less(variable("free_count"), const(MOST_FREE)), is_zero(call("request_held", local(0))))
    function.emit(
        if_(
            and_(usable, is_zero(call("response_held", local(0)))),
            join(
                if_(differ(load(headers, RAW), NONE), forget),
                store(local(0), variable("free"), NEXT),
                assign_variable("free", local(0)),
                assign_variable("free_count", add(variable("free_count"), const(1))),
            ),
            call("drop_exchange", local(0)),
        )
    )
    return function


def _drop() -> Function:
    """(exchange): give its objects up."""
    function = Function("drop_exchange", "i")
    function.emit(
        *(call("Py_DecRef", load(local(0), place)) for place in range(REQUEST, SIZE - 4, 4)),  # 0 is passed over
        call("free", local(0)),
    )
    return function


def _keep_headers(nothing: int) -> Function:
    """(exchange): its request leaves, and the host no longer tells its headers: LiveHeaders.keep with what they are."""
    function = Function("keep_headers", "i")
    headers, kept = function.new_local(), function.new_local()
    function.emit(
        if_(is_zero(call("headers_at_hand", const(0))), drop(call("fetch_headers", const(0)))),
        assign(
            kept,
            if_(
                variable("headers"),
                call("PyBytes_FromStringAndSize", variable("headers"), variable("headers_size")),
                call("PyBytes_FromStringAndSize", const(nothing), const(4)),
                result="i",
            ),
        ),
        if_(is_zero(local(kept)), TRAP),
        assign(headers, load(local(0), HEADERS)),
        if_(differ(load(local(headers), RAW), NONE), call("Py_DecRef", load(local(headers), RAW))),
        store(local(headers), local(kept), RAW),
    )
    # A filter may have put other headers in their place.
    request = load(local(0), REQUEST)
    function.emit(
        if_(
            differ(load(request, IN_HEADERS), local(headers)),
            join(
                call("Py_IncRef", local(headers)),
                call("Py_DecRef", load(request, IN_HEADERS)),
                store(request, local(headers), IN_HEADERS),
            ),
        )
    )
    return function


def _spill(cell: int) -> Function:
    """(entry): Python shall remember this stream, its place is needed."""
    function = Function("spill", "i")
    frame, exchange, result = (function.new_local() for _ in range(3))
    responded = and_(load(local(0), STATE), const(RESPONDED))
    function.emit(
        call("begin_callback"),
        assign(exchange, load(local(0), EXCHANGE)),
        assign(frame, sub(variable("__stack_pointer"), const(16))),
        assign_variable("__stack_pointer", local(frame)),
        store(local(frame), call("PyLong_FromUnsignedLong", load(local(0), ID))),
        store(local(frame), call("PyLong_FromUnsignedLong", load(local(0), ROOT)), 4),
        store(local(frame), load(local(exchange), REQUEST), 8),
        store(local(frame), if_(responded, load(local(exchange), RESPONSE), NONE, result="i"), 12),
        assign(result, call("PyObject_Vectorcall", load(const(cell)), local(frame), const(4), const(0))),
        call("Py_DecRef", load(local(frame))),
        call("Py_DecRef", load(local(frame), 4)),
        assign_variable("__stack_pointer", add(local(frame), const(16))),
        if_(is_zero(local(result)), call("callback_failed", load(const(cell)))),
        call("Py_DecRef", local(result)),
        call("drop_exchange", local(exchange)),
        store(local(0), const(0), EXCHANGE),
    )
    return function


def known(entry: int, stream: int) -> Code:
    """Whether the place `entry` is that of `stream`."""
    return equal(load(local(entry), ID), local(stream))
