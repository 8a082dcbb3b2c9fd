"""The short way of a request: Wasm calls a filter's handlers itself, and Python code of the SDK runs only if one waits, answers or fails.

What is out of the ordinary is told to `dispatch.on_outcome`; from then on the stream is Python's, and its callbacks go the long way.
"""

from collections.abc import Mapping

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
from filters.toolchain.exchanges import (
    ENDED,
    EXCHANGE,
    FALSE,
    ID,
    IN_PYTHON,
    LIVE,
    NONE,
    REQUEST,
    RESPONDED,
    RESPONSE,
    ROOT,
    STATE,
    TRUE,
    known,
)
from filters.toolchain.headercalls import MANY
from filters.toolchain.shim import Arena, Shim, Variable

ROOTS = 1024
"""Entries of the table of handlers. A root context whose place is taken by another goes the long way."""
ROOT_ID, ON_REQUEST, ON_RESPONSE, ON_LOG, FLAGS = 0, 4, 8, 12, 16
SELF = 16
"""From a handler to the object it is bound to: a method is taken apart, to be called without another call in between."""
EXPECTED = 28
"""From a handler to how many headers it read when it was called last: see headercalls.MANY."""
HANDLERS_SIZE = 48
METHOD_FUNCTION, METHOD_SELF = 8, 12
"""Where a bound method has them."""
RUNS_REQUEST, RUNS_RESPONSE, KEEPS_STREAM, KEEPS_HEADERS = 1, 2, 4, 8
"""Flags, as in `dispatch`."""
VECTORCALL_ARGUMENTS_OFFSET = -(1 << 31)
RETURNED, WAITS, FAILED = 0, 1, -1
"""PySendResult."""


def add_set_handlers(shim: Shim, arena: Arena) -> None:
    """host.set_handlers(root, on_request, on_response, on_log, flags), and the table it writes to; None is no handler."""
    shim.variables["handlers"] = Variable("i", arena.reserve(HANDLERS_SIZE * ROOTS))
    cell = arena.reserve(16)
    function = Function("host.set_handlers", "iii", "i")
    entry, old, handler, bound = (function.new_local() for _ in range(4))
    take_apart = join(
        assign(bound, load(local(handler), METHOD_SELF)),
        assign(handler, load(local(handler), METHOD_FUNCTION)),
    )
    function.emit(
        if_(differ(local(2), const(5)), join(drop(call("PyErr_BadArgument")), give(const(0)))),
        if_(is_zero(call("number_argument", load(local(1)), const(cell))), give(const(0))),
        if_(is_zero(call("number_argument", load(local(1), 16), const(cell + 8))), give(const(0))),
        assign(entry, _handlers_place(load(const(cell)))),
        store(local(entry), load(const(cell)), ROOT_ID),
        store(local(entry), load(const(cell + 8)), FLAGS),
    )
    for place in (ON_REQUEST, ON_RESPONSE, ON_LOG):
        function.emit(
            assign(handler, load(local(1), place)),
            assign(bound, const(0)),
            if_(equal(local(handler), NONE), assign(handler, const(0))),
            if_(local(handler), if_(equal(load(local(handler), 4), variable("&PyMethod_Type")), take_apart)),
        )
        for value, at in ((handler, place), (bound, place + SELF)):
            function.emit(
                call("Py_IncRef", local(value)),
                assign(old, load(local(entry), at)),
                store(local(entry), local(value), at),
                call("Py_DecRef", local(old)),
            )
    function.emit(NONE)
    shim.add(function)


def _handlers_place(root: Code) -> Code:
    return add(variable("handlers"), mul(and_(root, const(ROOTS - 1)), const(HANDLERS_SIZE)))


def add_short_ways(shim: Shim, cells: Mapping[str, int]) -> None:
    """What the functions of this module share; `cells` have functions of `dispatch`: on_outcome, on_log_failed."""
    shim.variables |= {"outcome": Variable("i"), "task": Variable("i")}
    shim.add(_handlers_of())
    shim.add(_run_handler())
    shim.add(_tell_outcome(cells["on_outcome"]))
    shim.add(_tell_log_failed(cells["on_log_failed"]))


def _handlers_of() -> Function:
    """(entry, stream) -> the handlers of the stream's root context; 0 if they are not known, or the stream is Python's."""
    function = Function("handlers_of", "ii", "i")
    place, root = function.new_local(), function.new_local()
    foreign = or_(is_zero(known(0, 1)), and_(load(local(0), STATE), const(IN_PYTHON)))
    function.emit(
        if_(foreign, give(const(0))),
        assign(root, load(local(0), ROOT)),
        assign(place, _handlers_place(local(root))),
        if_(or_(differ(load(local(place), ROOT_ID), local(root)), is_zero(local(root))), give(const(0))),
        local(place),
    )
    return function


def request_way(long: str) -> Function:
    """proxy_on_request_headers; `long` is the function for the long way."""
    function = Function("proxy_on_request_headers", "iii", "i")
    entry, handlers, exchange, action, answered = (function.new_local() for _ in range(5))
    long_way = give(call(long, local(0), local(1), local(2)))
    request = load(local(exchange), REQUEST)
    run = assign(
        answered,
        _run(handlers, ON_REQUEST, request, const(0), _flag(handlers, RUNS_REQUEST)),
    )
    tell = join(
        assign(action, call("tell_outcome", local(entry), local(answered), request, const(0))),
        call("release_exchange", local(exchange)),
    )
    held = call("request_held", local(exchange))
    leaves = if_(load(local(handlers), ON_RESPONSE), or_(_flag(handlers, KEEPS_HEADERS), held), const(0), result="i")
    # Those that are kept are all fetched anyway.
    keeps = store(local(handlers), const(MANY), ON_REQUEST + EXPECTED)
    passes = if_(
        _flag(handlers, KEEPS_STREAM),
        join(
            if_(leaves, call("keep_headers", local(exchange))),
            store(local(entry), local(exchange), EXCHANGE),
        ),
        call("release_exchange", local(exchange)),
    )
    function.emit(
        *_find(entry, handlers, long_way),
        if_(load(local(entry), EXCHANGE), join(call("spill", local(entry)), long_way)),
        if_(or_(load(local(handlers), ON_REQUEST), _flag(handlers, KEEPS_STREAM)), (), give(const(0))),
        call("begin_callback"),
        assign(exchange, call("take_exchange")),
        store(request, if_(local(2), TRUE, FALSE, result="i"), ENDED),
        if_(_flag(handlers, KEEPS_HEADERS), keeps),
        if_(load(local(handlers), ON_REQUEST), run, assign_variable("outcome", NONE)),
        if_(_unusual(answered), tell, passes),
        call("forget_headers"),
        local(action),
    )
    return function


def response_way(long: str) -> Function:
    """proxy_on_response_headers."""
    function = Function("proxy_on_response_headers", "iii", "i")
    entry, handlers, exchange, action, answered, passing = (function.new_local() for _ in range(6))
    long_way = give(call(long, local(0), local(1), local(2)))
    request, response = load(local(exchange), REQUEST), load(local(exchange), RESPONSE)
    tell = join(
        assign(action, call("tell_outcome", local(entry), local(answered), request, response)),
        store(local(entry), const(0), EXCHANGE),
        call("release_exchange", local(exchange)),
    )
    done = if_(
        local(passing),
        call("release_exchange", local(exchange)),
        store(local(entry), const(RESPONDED), STATE),
    )
    function.emit(
        *_find(entry, handlers, long_way),
        if_(is_zero(load(local(handlers), ON_RESPONSE)), give(const(0))),
        *_exchange_of_stream(entry, handlers, exchange, passing, long_way),
        call("respond", local(exchange)),
        store(load(local(exchange), LIVE), if_(local(2), TRUE, FALSE, result="i"), ENDED),
        assign(
            answered,
            _run(handlers, ON_RESPONSE, request, response, _flag(handlers, RUNS_RESPONSE)),
        ),
        if_(_unusual(answered), tell, done),
        call("forget_headers"),
        local(action),
    )
    return function


def log_way(long: str) -> Function:
    """proxy_on_log."""
    function = Function("proxy_on_log", "i")
    entry, handlers, exchange, answered, passing = (function.new_local() for _ in range(5))
    long_way = join(call(long, local(0)), give())
    request, response = load(local(exchange), REQUEST), load(local(exchange), RESPONSE)
    function.emit(
        *_find(entry, handlers, long_way),
        if_(is_zero(load(local(handlers), ON_LOG)), give()),
        *_exchange_of_stream(entry, handlers, exchange, passing, long_way),
        call("respond", local(exchange)),
        assign(answered, _run(handlers, ON_LOG, request, response, const(0))),
        if_(equal(local(answered), const(FAILED)), call("tell_log_failed")),
        call("Py_DecRef", variable("outcome")),
        if_(local(passing), call("release_exchange", local(exchange))),
        call("forget_headers"),
    )
    return function


def delete_way(long: str) -> Function:
    """proxy_on_delete."""
    function = Function("proxy_on_delete", "i")
    entry = function.new_local()
    exchange = load(local(entry), EXCHANGE)
    function.emit(
        assign(entry, call("stream_entry", local(0))),
        if_(
            and_(known(entry, 0), differ(exchange, const(0))),
            join(call("release_exchange", exchange), store(local(entry), const(0), EXCHANGE), give()),
        ),
        call(long, local(0)),
    )
    return function


WAYS = {
    "proxy_on_request_headers": request_way,
    "proxy_on_response_headers": response_way,
    "proxy_on_log": log_way,
    "proxy_on_delete": delete_way,
}
"""Callbacks with a short way."""


def _find(entry: int, handlers: int, long_way: Code) -> list[Code]:
    return [
        assign(entry, call("stream_entry", local(0))),
        assign(handlers, call("handlers_of", local(entry), local(0))),
        if_(is_zero(local(handlers)), join(_spill_own(entry), long_way)),
    ]


def _spill_own(entry: int) -> Code:
    """Handlers that are no longer known: what Wasm has of the stream goes to Python, too."""
    return if_(and_(known(entry, 0), differ(load(local(entry), EXCHANGE), const(0))), call("spill", local(entry)))


def _exchange_of_stream(entry: int, handlers: int, exchange: int, passing: int, long_way: Code) -> list[Code]:
    """That of the stream, or one for this callback only (`passing`) if the filter needs none to stay."""
    return [
        assign(exchange, load(local(entry), EXCHANGE)),
        assign(passing, is_zero(local(exchange))),
        if_(and_(local(passing), differ(_flag(handlers, KEEPS_STREAM), const(0))), long_way),
        call("begin_callback"),
        if_(local(passing), assign(exchange, call("take_exchange"))),
    ]


def _flag(handlers: int, flag: int) -> Code:
    return and_(load(local(handlers), FLAGS), const(flag))


def _unusual(answered: int) -> Code:
    return or_(differ(local(answered), const(RETURNED)), differ(variable("outcome"), NONE))


def _run(handlers: int, handler: int, request: Code, response: Code, runs: Code) -> Code:
    return call("run_handler", add(local(handlers), const(handler)), request, response, runs)


def _run_handler() -> Function:
    """(place of a handler, request, response or 0, whether it may return a coroutine) -> a PySendResult.

    `outcome` is what it has returned, waits for or raised; `task` its coroutine, or 0.
    """
    function = Function("run_handler", "iiii", "i")
    frame, result, sent = (function.new_local() for _ in range(3))
    run = join(
        assign_variable("task", local(result)),
        store(local(frame), const(0), 16),
        assign(sent, call("PyIter_Send", local(result), NONE, add(local(frame), const(16)))),
        assign(result, load(local(frame), 16)),
        if_(equal(local(sent), const(FAILED)), assign(result, const(0))),
    )
    bound, answering = differ(load(local(0), SELF), const(0)), differ(local(2), const(0))
    function.emit(
        assign(frame, sub(variable("__stack_pointer"), const(32))),
        assign_variable("__stack_pointer", local(frame)),
        store(local(frame), load(local(0), SELF), 4),
        store(local(frame), local(1), 8),
        store(local(frame), local(2), 12),
        assign_variable("task", const(0)),
        assign_variable("reads", const(0)),
        assign_variable("expected_reads", load(local(0), EXPECTED)),
        assign(
            result,
            call(
                "PyObject_Vectorcall",
                load(local(0)),
                sub(add(local(frame), const(8)), mul(bound, const(4))),
                add(add(bound, answering), const(VECTORCALL_ARGUMENTS_OFFSET + 1)),
                const(0),
            ),
        ),
        if_(local(3), if_(local(result), if_(equal(load(local(result), 4), variable("&PyCoro_Type")), run))),
        if_(
            is_zero(local(result)),
            join(assign(sent, const(FAILED)), assign(result, call("PyErr_GetRaisedException"))),
        ),
        assign_variable("__stack_pointer", add(local(frame), const(32))),
        assign_variable("outcome", local(result)),
        store(local(0), variable("reads"), EXPECTED),
        assign_variable("expected_reads", const(MANY)),
        if_(variable("task"), if_(is_zero(local(sent)), _finish_task())),
        local(sent),
    )
    return function


def _finish_task() -> Code:
    return join(call("Py_DecRef", variable("task")), assign_variable("task", const(0)))


def _tell_outcome(cell: int) -> Function:
    """(entry, sent, request, response or 0) -> the action; from now on the stream is Python's. Gives `outcome` and `task` up."""
    function = Function("tell_outcome", "iiii", "i")
    frame, answer, action, place = (function.new_local() for _ in range(4))
    numbers = (load(local(0), ID), load(local(0), ROOT), local(1))
    function.emit(
        store(local(0), const(IN_PYTHON), STATE),
        assign(frame, sub(variable("__stack_pointer"), const(32))),
        assign_variable("__stack_pointer", local(frame)),
        *(store(local(frame), call("PyLong_FromLong", number), 4 * index) for index, number in enumerate(numbers)),
        store(local(frame), local(2), 12),
        store(local(frame), if_(local(3), local(3), NONE, result="i"), 16),
        store(local(frame), variable("outcome"), 20),
        store(local(frame), if_(variable("task"), variable("task"), NONE, result="i"), 24),
        assign(place, variable("task")),
        assign(answer, call("PyObject_Vectorcall", load(const(cell)), local(frame), const(7), const(0))),
        *(call("Py_DecRef", load(local(frame), 4 * index)) for index in (0, 1, 2, 5)),
        call("Py_DecRef", local(place)),
        assign_variable("__stack_pointer", add(local(frame), const(32))),
        if_(is_zero(local(answer)), call("callback_failed", load(const(cell)))),
        assign(action, call("PyLong_AsLong", local(answer))),
        call("Py_DecRef", local(answer)),
        local(action),
    )
    return function


def _tell_log_failed(cell: int) -> Function:
    """On_log has raised `outcome`."""
    function = Function("tell_log_failed")
    frame, answer = function.new_local(), function.new_local()
    function.emit(
        assign(frame, sub(variable("__stack_pointer"), const(16))),
        assign_variable("__stack_pointer", local(frame)),
        store(local(frame), variable("outcome")),
        assign(answer, call("PyObject_Vectorcall", load(const(cell)), local(frame), const(1), const(0))),
        assign_variable("__stack_pointer", add(local(frame), const(16))),
        if_(is_zero(local(answer)), call("callback_failed", load(const(cell)))),
        call("Py_DecRef", local(answer)),
    )
    return function
