"""The short way of a request: Wasm calls the filter's `on_request` itself, and Python code of the SDK runs only if it waits or fails.

For filters that see nothing but the request. The request handed over is one of two that are used again and again, unless the filter
has kept a reference to it or to its headers: then the next request gets a new one.
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
    drop,
    equal,
    give,
    if_,
    is_zero,
    join,
    load,
    local,
    mul,
    or_,
    store,
    sub,
    variable,
)
from filters.toolchain.shim import Arena, Shim, Variable

ROOTS = 1024
"""Entries of the table of handlers. A root context whose place is taken by another goes the long way."""
VECTORCALL_ARGUMENTS_OFFSET = -(1 << 31)
RETURNED, WAITS, FAILED = 0, 1, -1
"""PySendResult."""
NONE = variable("&_Py_NoneStruct")


def add_set_handler(shim: Shim, arena: Arena) -> None:
    """host.set_handler(root, on_request), and the table it writes to; None takes an entry out."""
    table = arena.reserve(8 * ROOTS)
    shim.variables["handlers"] = Variable("i", table)
    cell = arena.reserve(16)
    function = Function("host.set_handler", "iii", "i")
    entry, old = function.new_local(), function.new_local()
    handler = load(local(1), 4)
    function.emit(
        if_(differ(local(2), const(2)), join(drop(call("PyErr_BadArgument")), give(const(0)))),
        if_(is_zero(call("number_argument", load(local(1)), const(cell))), give(const(0))),
        assign(entry, _entry(load(const(cell)))),
        assign(old, load(local(entry), 4)),
        store(local(entry), load(const(cell))),
        if_(
            equal(handler, NONE),
            store(local(entry), const(0), 4),
            join(call("Py_IncRef", handler), store(local(entry), handler, 4)),
        ),
        if_(local(old), call("Py_DecRef", local(old))),
        NONE,
    )
    shim.add(function)


def _entry(root: Code) -> Code:
    return add(variable("handlers"), mul(and_(root, const(ROOTS - 1)), const(8)))


def add_fast_path(shim: Shim, arena: Arena, slow: str, outcome: int, new_request: int) -> Function:
    """proxy_on_request_headers. `slow` is the function for the long way; the others are cells with functions of `dispatch`."""
    pool = arena.reserve(16)
    shim.add(_fill_pool(pool, new_request, arena.text("headers")))
    shim.add(_check_pool())
    shim.add(_tell_outcome(outcome))
    function = Function("proxy_on_request_headers", "iii", "i")
    root, entry, handler, place, request, result, task, sent, frame, action = (function.new_local() for _ in range(10))
    known = and_(equal(load(local(entry)), local(root)), differ(local(root), const(0)))
    function.emit(
        assign(root, call("parent_of", local(0))),
        assign(entry, _entry(local(root))),
        assign(handler, if_(known, load(local(entry), 4), const(0), result="i")),
        if_(is_zero(local(handler)), give(call(slow, local(0), local(1), local(2)))),
        call("begin_callback"),
        assign(place, add(const(pool), if_(local(2), const(8), const(0), result="i"))),
        if_(is_zero(load(local(place))), call("fill_pool", local(place))),
        assign(request, load(local(place))),
        assign(frame, sub(variable("__stack_pointer"), const(32))),
        assign_variable("__stack_pointer", local(frame)),
        store(local(frame), local(request), 4),
        assign(
            result,
            call(
                "PyObject_Vectorcall",
                local(handler),
                add(local(frame), const(4)),
                const(VECTORCALL_ARGUMENTS_OFFSET + 1),
                const(0),
            ),
        ),
        if_(
            local(result), if_(equal(load(local(result), 4), variable("&PyCoro_Type")), _run(result, task, sent, frame))
        ),
        if_(
            is_zero(local(result)), join(assign(sent, const(FAILED)), assign(result, call("PyErr_GetRaisedException")))
        ),
        if_(
            or_(differ(local(sent), const(RETURNED)), differ(local(result), NONE)),
            assign(
                action,
                call(
                    "tell_outcome",
                    local(0),
                    local(root),
                    local(sent),
                    local(request),
                    local(result),
                    local(task),
                ),
            ),
        ),
        if_(local(task), call("Py_DecRef", local(task))),
        call("Py_DecRef", local(result)),
        assign_variable("__stack_pointer", add(local(frame), const(32))),
        call("check_pool", local(place), equal(local(sent), const(WAITS))),
        call("forget_headers"),
        local(action),
    )
    return function


def _run(result: int, task: int, sent: int, frame: int) -> Code:
    """The handler has returned a coroutine: run it until it waits or ends."""
    return join(
        assign(task, local(result)),
        store(local(frame), const(0), 24),
        assign(sent, call("PyIter_Send", local(task), NONE, add(local(frame), const(24)))),
        assign(result, load(local(frame), 24)),
        if_(equal(local(sent), const(FAILED)), assign(result, const(0))),
    )


def _tell_outcome(cell: int) -> Function:
    """(stream, root, sent, request, result, task) -> the action: dispatch.on_request_outcome has these arguments."""
    function = Function("tell_outcome", "iiiiii", "i")
    frame, answer, action = (function.new_local() for _ in range(3))
    function.emit(
        assign(frame, sub(variable("__stack_pointer"), const(32))),
        assign_variable("__stack_pointer", local(frame)),
        *(store(local(frame), call("PyLong_FromLong", local(place)), 4 * place) for place in range(3)),
        store(local(frame), local(3), 12),
        store(local(frame), local(4), 16),
        store(local(frame), if_(local(5), local(5), NONE, result="i"), 20),
        assign(answer, call("PyObject_Vectorcall", load(const(cell)), local(frame), const(6), const(0))),
        *(call("Py_DecRef", load(local(frame), 4 * place)) for place in range(3)),
        assign_variable("__stack_pointer", add(local(frame), const(32))),
        if_(is_zero(local(answer)), call("callback_failed", load(const(cell)))),
        assign(action, call("PyLong_AsLong", local(answer))),
        call("Py_DecRef", local(answer)),
        local(action),
    )
    return function


def _fill_pool(pool: int, cell: int, name: int) -> Function:
    """(place): put a new request there, and its headers beside it. The second place is for requests without a body."""
    function = Function("fill_pool", "i")
    frame = function.new_local()
    ended = if_(equal(local(0), const(pool)), variable("&_Py_FalseStruct"), variable("&_Py_TrueStruct"), result="i")
    function.emit(
        assign(frame, sub(variable("__stack_pointer"), const(16))),
        assign_variable("__stack_pointer", local(frame)),
        store(local(frame), ended),
        store(local(0), call("PyObject_Vectorcall", load(const(cell)), local(frame), const(1), const(0))),
        assign_variable("__stack_pointer", add(local(frame), const(16))),
        if_(is_zero(load(local(0))), call("callback_failed", load(const(cell)))),
        store(local(0), call("PyObject_GetAttrString", load(local(0)), const(name)), 4),
    )
    return function


def _check_pool() -> Function:
    """(place, used): give up the request there if it is used further, or somebody holds it or its headers, or has changed them."""
    function = Function("check_pool", "ii")
    held = or_(differ(load(load(local(0))), const(1)), differ(load(load(local(0), 4)), const(2)))
    function.emit(
        if_(
            or_(local(1), held),
            join(
                call("Py_DecRef", load(local(0), 4)),
                call("Py_DecRef", load(local(0))),
                store(local(0), const(0)),
            ),
        )
    )
    return function
