"""Stop a callback that runs too long.

Every loop of the guest counts `fuel` down; when it is used up the clock is read. Past the limit, CpuLimitExceeded is raised in
the Python code, so an endless loop becomes an exception with a traceback. Code that goes on regardless (a C loop, or a handler
that catches everything) is trapped after a few more attempts, and Envoy starts a new VM.
"""

from filters.toolchain.assembler import (
    TRAP,
    Code,
    Function,
    add,
    assign,
    assign_variable,
    call,
    const,
    const64,
    drop,
    give,
    greater,
    if_,
    is_zero,
    is_zero64,
    join,
    less64,
    load,
    load64,
    local,
    sub,
    sub64,
    variable,
)
from filters.toolchain.shim import Arena, Limits, Shim, Variable

FUEL = 200_000
"""Loop iterations between two looks at the clock: about a millisecond."""
HANDLING_FUEL = 10 * FUEL
"""Loop iterations after an exception before the clock counts again: the SDK logs a traceback with fewer."""
ATTEMPTS = 4
"""Exceptions raised before the VM is given up."""


def add_deadline(shim: Shim, arena: Arena, limits: Limits) -> None:
    """Add `begin_callback`, `out_of_fuel` and the replacement of PyErr_CheckSignals."""
    clock = arena.reserve(8)
    shim.variables |= {
        "fuel": Variable("i"),
        "attempts": Variable("i"),
        "started_ns": Variable("l"),
        "limit_ns": Variable("l", limits.cpu_ms * 1_000_000),
        "cpu_limit_error": Variable("i"),
    }
    shim.import_all({"proxy_get_current_time_nanoseconds": "i"})

    now = Function("now_ns", results="l")
    now.emit(drop(call("proxy_get_current_time_nanoseconds", const(clock))), load64(const(clock)))
    shim.add(now)

    begin = Function("begin_callback")
    # An exception that was asked for and not yet raised must not hit the next request.
    forget = join(_raise_later(const(0)), assign_variable("attempts", const(0)))
    begin.emit(
        if_(variable("attempts"), forget),
        assign_variable("fuel", const(FUEL)),
        assign_variable("started_ns", const64(0)),
    )
    shim.add(begin)

    shim.add(_expired())

    out = Function("out_of_fuel")
    out.emit(
        assign_variable("fuel", const(FUEL)),
        if_(call("expired"), _raise_later(variable("cpu_limit_error"))),
    )
    shim.add(out)

    # Long loops in C (regular expressions, big integers) ask this function whether to stop.
    signals = Function("check_signals", results="i")
    signals.emit(
        if_(is_zero(call("expired")), give(const(0))),
        _raise_later(const(0)),  # one that out_of_fuel has asked for meanwhile would hit who handles this one
        call("PyErr_SetNone", _error_class()),
        const(-1),
    )
    shim.add(signals)
    shim.overrides["PyErr_CheckSignals"] = "check_signals"


def loop_check() -> Code:
    """What the linker puts at the head of every loop of the guest."""
    return join(
        assign_variable("fuel", sub(variable("fuel"), const(1))),
        join(variable("fuel"), const(0), (b"\x48",)),  # i32.lt_s
        (b"\x04\x40",),
        call("out_of_fuel"),
        (b"\x0b",),
    )


def _expired() -> Function:
    function = Function("expired", results="i")
    moment = function.new_local("l")
    at = local(moment)
    half = join(variable("limit_ns"), const64(1), (b"\x88",))
    # The first look only starts the clock: short callbacks never read it. After an exception half the limit is left.
    start = if_(variable("attempts"), sub64(at, half), at, result="l")
    function.emit(
        assign(moment, call("now_ns")),
        if_(is_zero64(variable("started_ns")), join(assign_variable("started_ns", start), give(const(0)))),
        if_(less64(sub64(at, variable("started_ns")), variable("limit_ns")), give(const(0))),
        assign_variable("attempts", add(variable("attempts"), const(1))),
        if_(greater(variable("attempts"), const(ATTEMPTS)), TRAP),
        # Half the limit more for `except` and `finally`; what is done in a few steps has no limit, since on a busy machine
        # any of them can take that long.
        assign_variable("fuel", const(HANDLING_FUEL)),
        assign_variable("started_ns", const64(0)),
        const(1),
    )
    return function


def _error_class() -> Code:
    """The SDK's exception; before it is known (while the VM starts) TimeoutError."""
    return if_(
        variable("cpu_limit_error"), variable("cpu_limit_error"), load(variable("&PyExc_TimeoutError")), result="i"
    )


def _raise_later(exception: Code) -> Code:
    return drop(call("PyThreadState_SetAsyncExc", call("PyThread_get_thread_ident"), exception))
