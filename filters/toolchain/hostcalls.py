"""The module `filters.sdk.host` of the guest: C functions that check their arguments, call Envoy and convert the result.

Arguments are converted by CPython's own C API, so a wrong type is a TypeError in the filter and never reaches the host.
"""

from typing import NamedTuple

from filters.toolchain.assembler import (
    Code,
    Function,
    add,
    and_,
    assign,
    assign_variable,
    call,
    const,
    const64,
    differ,
    drop,
    equal,
    give,
    if_,
    is_zero,
    join,
    less,
    load,
    load64,
    local,
    store,
    variable,
    widen,
)
from filters.toolchain.fastpath import add_set_handlers
from filters.toolchain.headercalls import add_header_search
from filters.toolchain.shim import Arena, Shim, Variable

SCRATCH = 64 * 1024
"""Results up to this size are written here; larger ones are allocated and freed again."""
NOT_FOUND = 1
METH_FASTCALL = 0x80


class HostCall(NamedTuple):
    """A function Python calls. Parameters: i = int (u32), l = int (i64), t = str or bytes.

    Result: empty = None, b = bytes | None, t = str | None, u = int (u32), l = int (u64), c = (bytes, int) | None.
    """

    name: str
    host: str
    parameters: str
    result: str = ""


HOST_CALLS = (
    HostCall("log", "proxy_log", "it"),
    HostCall("get_headers", "proxy_get_header_map_pairs", "i", "b"),
    HostCall("set_headers", "proxy_set_header_map_pairs", "it"),
    HostCall("add_header", "proxy_add_header_map_value", "itt"),
    HostCall("replace_header", "proxy_replace_header_map_value", "itt"),
    HostCall("remove_header", "proxy_remove_header_map_value", "it"),
    HostCall("get_property", "proxy_get_property", "t", "b"),
    HostCall("set_property", "proxy_set_property", "tt"),
    HostCall("get_buffer", "proxy_get_buffer_bytes", "iii", "b"),
    HostCall("set_buffer", "proxy_set_buffer_bytes", "iiit"),
    HostCall("send_response", "proxy_send_local_response", "ittti"),
    HostCall("get_shared", "proxy_get_shared_data", "t", "c"),
    HostCall("set_shared", "proxy_set_shared_data", "tti"),
    HostCall("define_metric", "proxy_define_metric", "it", "u"),
    HostCall("increment_metric", "proxy_increment_metric", "il"),
    HostCall("record_metric", "proxy_record_metric", "il"),
    HostCall("get_metric", "proxy_get_metric", "i", "l"),
    HostCall("http_call", "proxy_http_call", "tttti", "u"),
    HostCall("set_tick_period", "proxy_set_tick_period_milliseconds", "i"),
    HostCall("continue_stream", "proxy_continue_stream", "i"),
    HostCall("set_context", "proxy_set_effective_context", "i"),
)
OUTPUTS = {"": 0, "b": 2, "t": 2, "u": 1, "l": 1, "c": 3}
WRITES = frozenset({"set_headers", "add_header", "replace_header", "remove_header", "set_context", "send_response"})
"""After these the headers that were fetched may be others."""
ANSWERING = frozenset({"set_context", "continue_stream"})
"""Only while the answer to an HTTP call is handed over: called at another time, Envoy can go on with what has ended, and crash."""
BAD_ARGUMENT = 2
LONGEST_CPU_MS = 10_000
"""A filter cannot give itself more, so no loop blocks a worker for good. As in filters.sdk.options."""
FLAT = {"i": "i", "l": "l", "t": "ii"}


def add_host_calls(shim: Shim, arena: Arena, first_slot: int) -> tuple[int, int]:
    """Add all functions of the guest's host module; address and length of the PyMethodDef array that describes them."""
    add_memory(shim, arena)
    frame = arena.reserve(128)
    shim.add(_text_argument())
    shim.add(_number_argument())
    shim.add(_host_failed())
    add_release_result(shim)
    for spec in HOST_CALLS:
        flat = "".join(FLAT[letter] for letter in spec.parameters) + "i" * OUTPUTS[spec.result]
        shim.import_all({spec.host: flat})
        shim.add(_wrapper(spec, frame))
    shim.import_all({"proxy_get_header_map_value": "iiiii"})
    add_header_search(shim, arena)
    shim.add(_set_cpu_limit())
    add_set_handlers(shim, arena)
    names = [*(spec.name for spec in HOST_CALLS), "get_header", "find_header", "set_cpu_limit", "set_handlers"]
    definitions = b""
    for slot, name in enumerate(names, first_slot):
        shim.slots[slot] = f"host.{name}"
        definitions += b"".join(value.to_bytes(4, "little") for value in (arena.text(name), slot, METH_FASTCALL, 0))
    return arena.place(definitions), len(names)


def add_memory(shim: Shim, arena: Arena) -> None:
    """Where the host puts results: `proxy_on_memory_allocate` hands out a fixed buffer, no malloc."""
    scratch, headers = arena.reserve(SCRATCH), arena.reserve(SCRATCH)
    shim.variables |= {
        "buffer": Variable("i", scratch),
        "scratch": Variable("i", scratch),
        "header_buffer": Variable("i", headers),
        "headers": Variable("i"),
        "headers_map": Variable("i"),
        "answering": Variable("i"),
    }
    allocate = Function("proxy_on_memory_allocate", "i", "i")
    allocate.emit(if_(less(const(SCRATCH), local(0)), call("malloc", local(0)), variable("buffer"), result="i"))
    shim.add(allocate, export=True)

    release = Function("release", "i")  # what the last host call returned, unless it lies in a fixed buffer
    release.emit(
        if_(
            and_(differ(local(0), variable("scratch")), differ(local(0), variable("header_buffer"))),
            call("free", local(0)),
        )
    )
    shim.add(release)

    forget = Function("forget_headers")
    forget.emit(
        if_(variable("headers"), join(call("release", variable("headers")), assign_variable("headers", const(0))))
    )
    shim.add(forget)


def _text_argument() -> Function:
    """(object, address of pointer and length) -> whether it is a str or bytes; if not, an exception is set."""
    function = Function("text_argument", "ii", "i")
    pointer = function.new_local()
    bytes_object = equal(load(local(0), 4), variable("&PyBytes_Type"))
    function.emit(
        if_(
            bytes_object,
            give(is_zero(call("PyBytes_AsStringAndSize", local(0), local(1), add(local(1), const(4))))),
        ),
        assign(pointer, call("PyUnicode_AsUTF8AndSize", local(0), add(local(1), const(4)))),
        store(local(1), local(pointer)),
        differ(local(pointer), const(0)),
    )
    return function


def _number_argument() -> Function:
    """(object, address) -> whether it is an int that fits into 32 bits, unsigned; if not, an exception is set."""
    function = Function("number_argument", "ii", "i")
    function.emit(
        store(local(1), call("PyLong_AsUnsignedLong", local(0))),
        if_(equal(load(local(1)), const(-1)), give(is_zero(call("PyErr_Occurred")))),
        const(1),
    )
    return function


def _host_failed() -> Function:
    """(status) -> NULL, with HostError(status) set."""
    function = Function("host_failed", "i", "i")
    number = function.new_local()
    function.emit(
        assign(number, call("PyLong_FromUnsignedLong", local(0))),
        call("PyErr_SetObject", variable("host_error"), local(number)),
        call("Py_DecRef", local(number)),
        const(0),
    )
    return function


def _wrong_arguments(count: int) -> Code:
    """Nargs is local 2 of every METH_FASTCALL function."""
    return if_(differ(local(2), const(count)), join(drop(call("PyErr_BadArgument")), give(const(0))))


def _argument(index: int) -> Code:
    return load(local(1), 4 * index)


def _wrapper(spec: HostCall, frame: int) -> Function:
    """(self, arguments, count) -> new reference or NULL. `frame` is fixed memory: no callback re-enters the guest here."""
    function = Function(f"host.{spec.name}", "iii", "i")
    status = function.new_local()
    function.emit(_wrong_arguments(len(spec.parameters)))
    if spec.name in ANSWERING:
        function.emit(if_(is_zero(variable("answering")), give(call("host_failed", const(BAD_ARGUMENT)))))
    passed: list[Code] = []
    at = frame + 32
    for index, letter in enumerate(spec.parameters):
        if letter == "l":
            number = function.new_local("l")
            function.emit(
                assign(number, call("PyLong_AsLongLong", _argument(index))),
                if_(
                    join(local(number), const64(-1), (b"\x51",)),
                    if_(call("PyErr_Occurred"), give(const(0))),
                ),
            )
            passed.append(local(number))
            continue
        check = "text_argument" if letter == "t" else "number_argument"
        function.emit(if_(is_zero(call(check, _argument(index), const(at))), give(const(0))))
        passed += [load(const(at)), load(const(at + 4))] if letter == "t" else [load(const(at))]
        at += 8
    if OUTPUTS[spec.result] > 1:
        function.emit(store(const(frame), const(0)), store(const(frame + 4), const(0)))
    passed += [const(frame + 4 * place) for place in range(OUTPUTS[spec.result])]
    function.emit(assign(status, call(spec.host, *passed)))
    if spec.name in WRITES:
        function.emit(call("forget_headers"))
    if spec.result in ("b", "t", "c"):
        function.emit(if_(equal(local(status), const(NOT_FOUND)), give(variable("&_Py_NoneStruct"))))
    function.emit(if_(local(status), give(call("host_failed", local(status)))), _result(spec.result, function, frame))
    return function


def _result(kind: str, function: Function, frame: int) -> Code:
    pointer, length = load(const(frame)), load(const(frame + 4))
    if kind == "":
        return variable("&_Py_NoneStruct")
    if kind == "u":
        return call("PyLong_FromUnsignedLong", pointer)
    if kind == "l":
        return call("PyLong_FromUnsignedLongLong", load64(const(frame)))
    value = function.new_local()
    make = assign(value, call("PyBytes_FromStringAndSize", pointer, length))
    done = call("release_result", const(frame))
    if kind == "b":
        return join(make, done, local(value))
    number, pair = function.new_local(), function.new_local()
    return join(
        make,
        done,
        if_(is_zero(local(value)), give(const(0))),
        assign(number, call("PyLong_FromUnsignedLong", load(const(frame + 8)))),
        assign(pair, call("PyTuple_New", const(2))),
        if_(is_zero(local(pair)), give(const(0))),
        drop(call("PyTuple_SetItem", local(pair), const(0), local(value))),
        drop(call("PyTuple_SetItem", local(pair), const(1), local(number))),
        local(pair),
    )


def _set_cpu_limit() -> Function:
    """set_cpu_limit(milliseconds): for the callbacks of this VM, from the next one on."""
    function = Function("host.set_cpu_limit", "iii", "i")
    cell = function.new_local()
    function.emit(
        _wrong_arguments(1),
        assign(cell, variable("scratch")),
        if_(is_zero(call("number_argument", _argument(0), local(cell))), give(const(0))),
        if_(less(const(LONGEST_CPU_MS), load(local(cell))), give(call("host_failed", const(BAD_ARGUMENT)))),
        assign_variable("limit_ns", join(widen(load(local(cell))), const64(1_000_000), (b"\x7e",))),
        variable("&_Py_NoneStruct"),
    )
    return function


def add_release_result(shim: Shim) -> None:
    """(address of a pointer): free what it points to, if it was allocated."""
    function = Function("release_result", "i")
    function.emit(if_(load(local(0)), call("release", load(local(0)))))
    shim.add(function)
