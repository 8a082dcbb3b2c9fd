"""What Envoy calls (Proxy-Wasm ABI 0.2.1): each callback becomes one vectorcall of a function of `filters.sdk.dispatch`."""

from typing import NamedTuple

from filters.toolchain.assembler import (
    TRAP,
    Code,
    Function,
    add,
    assign,
    assign_variable,
    call,
    const,
    drop,
    give,
    if_,
    is_zero,
    join,
    less,
    load,
    local,
    store,
    sub,
    variable,
    while_,
)
from filters.toolchain.exchanges import add_exchanges
from filters.toolchain.fastpath import WAYS, add_short_ways
from filters.toolchain.methods import add_methods
from filters.toolchain.shim import Arena, Shim, Variable

DISPATCH = "filters.sdk.dispatch"
HOST = "filters.sdk.host"
VECTORCALL_ARGUMENTS_OFFSET = -(1 << 31)
OTHERS = ("on_outcome", "on_log_failed", "new_request", "new_response", "adopt")
"""Functions of `dispatch` that no callback of Envoy leads to directly."""


class Callback(NamedTuple):
    """A callback of the ABI and the Python function behind it."""

    export: str
    parameters: int
    returns: bool = False
    needs_parent: bool = False
    """The handler gets the root context of the stream as a last argument."""
    streams_only: bool = False
    """Nothing to do when the SDK holds no stream."""
    answering: bool = False
    """A stream that has been waiting goes on: see hostcalls.ANSWERING."""

    @property
    def handler(self) -> str:
        return self.export.removeprefix("proxy_")


CALLBACKS = (
    Callback("proxy_on_configure", 2, returns=True),
    Callback("proxy_on_request_headers", 3, returns=True, needs_parent=True),
    Callback("proxy_on_request_body", 3, returns=True, streams_only=True),
    Callback("proxy_on_request_trailers", 2, returns=True, streams_only=True),
    Callback("proxy_on_response_headers", 3, returns=True, needs_parent=True),
    Callback("proxy_on_response_body", 3, returns=True, streams_only=True),
    Callback("proxy_on_response_trailers", 2, returns=True, streams_only=True),
    Callback("proxy_on_http_call_response", 5, answering=True),
    Callback("proxy_on_tick", 1),
    Callback("proxy_on_log", 1, needs_parent=True),
    Callback("proxy_on_delete", 1, streams_only=True),
)
START = "on_start"


def add_callbacks(shim: Shim, arena: Arena, definitions: int, count: int, dropped: frozenset[str]) -> None:
    """Add all exports; `definitions` are the PyMethodDefs of the host module, whose slots were the last ones taken."""
    shim.variables |= {"streams": Variable("i"), "host_error": Variable("i")}
    kept = [callback for callback in CALLBACKS if callback.export not in dropped]
    names = [START, *(callback.handler for callback in kept), *OTHERS]
    handlers = arena.reserve(4 * len(names))
    cells = {title: handlers + 4 * place for place, title in enumerate(names)}

    failed = Function("callback_failed", "i")
    failed.emit(call("PyErr_WriteUnraisable", local(0)), TRAP)
    shim.add(failed)
    shim.add(_made_by())
    add_exchanges(shim, arena, cells)
    add_short_ways(shim, cells)
    created = Function("proxy_on_context_create", "ii")
    created.emit(call("create_stream", local(0), local(1)))
    shim.add(created, export=True)
    for callback in kept:
        function = _callback(callback, cells[callback.handler])
        way = WAYS.get(callback.export)
        if way is not None:
            function.name = f"long_way:{callback.handler}"
            shim.add(way(function.name), export=True)
        shim.add(function, export=way is None)
    shim.add(Function("proxy_abi_version_0_2_1"), export=True)
    shim.add(_initialize(arena, definitions, count, names, handlers))
    add_methods(shim, arena, max(shim.slots) + 1)
    # Once for each configuration, the first time before anything else; in `_initialize` host calls are not yet allowed.
    started = Function("proxy_on_vm_start", "ii", "i")
    started.emit(if_(is_zero(variable("host_error")), call("start_guest")), const(1))
    shim.add(started, export=True)


def _made_by() -> Function:
    """(a function of `dispatch`) -> the object it makes."""
    function = Function("made_by", "i", "i")
    made = function.new_local()
    function.emit(
        assign(made, call("PyObject_Vectorcall", local(0), const(0), const(0), const(0))),
        if_(is_zero(local(made)), call("callback_failed", local(0))),
        local(made),
    )
    return function


def _callback(callback: Callback, handler: int) -> Function:
    function = Function(callback.export, "i" * callback.parameters, "i" if callback.returns else "")
    result, frame, value = (function.new_local() for _ in range(3))
    if callback.streams_only:
        nothing = give(const(0)) if callback.returns else give()
        function.emit(if_(is_zero(call("PyDict_Size", variable("streams"))), nothing))
    arguments = [local(index) for index in range(callback.parameters)]
    if callback.needs_parent:
        arguments.append(call("parent_of", local(0)))
    size = 4 * len(arguments) + 4 + 15 & ~15
    if callback.answering:
        function.emit(assign_variable("answering", const(1)))
    function.emit(
        call("begin_callback"),
        assign(frame, sub(variable("__stack_pointer"), const(size))),
        assign_variable("__stack_pointer", local(frame)),
        *(
            store(local(frame), call("PyLong_FromUnsignedLong", argument), 4 * place)
            for place, argument in enumerate(arguments, 1)
        ),
        assign(
            result,
            call(
                "PyObject_Vectorcall",
                load(const(handler)),
                add(local(frame), const(4)),
                const(VECTORCALL_ARGUMENTS_OFFSET + len(arguments)),
                const(0),
            ),
        ),
        *(call("Py_DecRef", load(local(frame), 4 * place)) for place, _ in enumerate(arguments, 1)),
        assign_variable("__stack_pointer", add(local(frame), const(size))),
        call("forget_headers"),
        if_(is_zero(local(result)), call("callback_failed", load(const(handler)))),
    )
    if callback.answering:
        function.emit(assign_variable("answering", const(0)))
    if callback.returns:
        function.emit(assign(value, call("PyLong_AsLong", local(result))))
    function.emit(call("Py_DecRef", local(result)))
    if callback.returns:
        function.emit(local(value))
    return function


def _initialize(arena: Arena, definitions: int, count: int, names: list[str], handlers: int) -> Function:
    """Give Python its host functions and look up the handlers."""
    function = Function("start_guest")
    module, at, result = (function.new_local() for _ in range(3))
    titles = arena.place(b"".join(arena.text(name).to_bytes(4, "little") for name in names))
    definition = add(const(definitions), local(at))
    function.emit(
        call("begin_callback"),
        drop(call("PyGILState_Ensure")),  # for good: there is one thread
        assign(module, call("PyImport_AddModule", const(arena.text(HOST)))),
        while_(
            less(local(at), const(16 * count)),
            join(
                drop(
                    call(
                        "PyObject_SetAttrString",
                        local(module),
                        load(definition),
                        call("PyCFunction_NewEx", definition, const(0), const(0)),
                    )
                ),
                assign(at, add(local(at), const(16))),
            ),
        ),
        assign_variable("host_error", _attribute(module, arena.text("HostError"))),
        assign_variable("cpu_limit_error", _attribute(module, arena.text("CpuLimitExceeded"))),
        assign(module, call("PyImport_AddModule", const(arena.text(DISPATCH)))),
        assign_variable("streams", _attribute(module, arena.text("streams"))),
        call("install_methods"),
        assign(at, const(0)),
        while_(
            less(local(at), const(4 * len(names))),
            join(
                assign(result, call("PyObject_GetAttrString", local(module), load(add(const(titles), local(at))))),
                if_(is_zero(local(result)), call("callback_failed", local(module))),
                store(add(const(handlers), local(at)), local(result)),
                assign(at, add(local(at), const(4))),
            ),
        ),
        assign(result, call("PyObject_Vectorcall", load(const(handlers)), const(0), const(0), const(0))),
        if_(is_zero(local(result)), call("callback_failed", load(const(handlers)))),
        call("Py_DecRef", local(result)),
    )
    return function


def _attribute_of(value: Code, name: int) -> Code:
    return call("PyObject_GetAttrString", value, const(name))


def _attribute(module: int, name: int) -> Code:
    return _attribute_of(local(module), name)
