"""WASI as far as CPython calls it, on top of Proxy-Wasm: clocks and randomness are real, output goes to Envoy's log, the rest fails.

componentize-py's `--stub-wasi` leaves a trap behind every function of WASI 0.2; those listed here get a body. Layouts of results
follow the canonical ABI (Component Model, CanonicalABI.md).
"""

from filters.toolchain.assembler import (
    Code,
    Function,
    assign,
    call,
    const,
    const64,
    divide64,
    drop,
    local,
    narrow,
    remainder64,
    store,
    store64,
)
from filters.toolchain.shim import Shim

NANOSECONDS = 1_000_000_000
STREAM_CREDIT = 1 << 16
"""Bytes a writer may hand over at once."""
CLOSED = 1
ACCESS_DENIED = 1
POLLABLE = 9
STDIN, STDOUT, STDERR = 1, 2, 3
"""Handles of the streams; those of the outputs are also Proxy-Wasm's log levels info and warn."""


def add_wasi(shim: Shim) -> None:
    """Add a body for every function of WASI that CPython can reach."""
    shim.import_all({"random_get": "ii"}, module="wasi_snapshot_preview1")
    _clocks(shim)
    _random(shim)
    _streams(shim)
    _nothing_there(shim)
    _sockets(shim)


def _stub(shim: Shim, name: str, parameters: str, results: str, *code: Code) -> Function:
    function = Function(f"wasi:{name}", parameters, results)
    function.emit(*code)
    shim.add(function)
    shim.stubs[f"wasi:{name}"] = function.name
    return function


def _clocks(shim: Shim) -> None:
    _stub(shim, "clocks/monotonic-clock#now", "", "l", call("now_ns"))
    _stub(shim, "clocks/monotonic-clock#resolution", "", "l", const64(1000))
    # Sleeping would block a worker: whatever is waited for is ready at once.
    _stub(shim, "clocks/monotonic-clock#subscribe-duration", "l", "i", const(POLLABLE))
    _stub(shim, "clocks/monotonic-clock#subscribe-instant", "l", "i", const(POLLABLE))
    _stub(shim, "io/poll#[method]pollable.block", "i", "")
    _stub(shim, "io/poll#[resource-drop]pollable", "i", "")
    now = Function("wasi:clocks/wall-clock#now", "i")
    moment = now.new_local("l")
    now.emit(
        assign(moment, call("now_ns")),
        store64(local(0), divide64(local(moment), const64(NANOSECONDS))),
        store(local(0), narrow(remainder64(local(moment), const64(NANOSECONDS))), 8),
    )
    shim.add(now)
    shim.stubs[now.name] = now.name
    _stub(shim, "clocks/wall-clock#resolution", "i", "", store64(local(0), const64(0)), store(local(0), const(1000), 8))


def _random(shim: Shim) -> None:
    function = Function("wasi:random/random#get-random-bytes", "li")
    pointer = function.new_local()
    size = narrow(local(0))
    function.emit(
        assign(pointer, call("malloc", size)),
        drop(call("random_get", local(pointer), size)),
        store(local(1), local(pointer)),
        store(local(1), size, 4),
    )
    shim.add(function)
    shim.stubs[function.name] = function.name


def _streams(shim: Shim) -> None:
    output, stdin = "io/streams#[method]output-stream.", "io/streams#[method]input-stream."
    succeed = store(local(1), const(0))
    _stub(shim, output + "check-write", "ii", "", succeed, store64(local(1), const64(STREAM_CREDIT), 8))
    write = drop(call("proxy_log", local(0), local(1), local(2)))
    _stub(shim, output + "write", "iiii", "", write, store(local(3), const(0)))
    _stub(shim, output + "blocking-flush", "ii", "", succeed)
    _stub(shim, output + "subscribe", "i", "i", const(POLLABLE))
    _stub(shim, stdin + "subscribe", "i", "i", const(POLLABLE))
    _stub(shim, stdin + "read", "ili", "", *_fail(2, CLOSED))
    for resource in ("io/streams#[resource-drop]input-stream", "io/streams#[resource-drop]output-stream"):
        _stub(shim, resource, "i", "")
    _stub(shim, "io/error#[resource-drop]error", "i", "")


def _nothing_there(shim: Shim) -> None:
    """No environment, no arguments, no directories (so every open() fails), no terminal."""
    for name in ("cli/environment#get-environment", "cli/environment#get-arguments"):
        _stub(shim, name, "i", "", *_empty_list())
    _stub(shim, "filesystem/preopens#get-directories", "i", "", *_empty_list())
    for handle, name in ((STDIN, "stdin"), (STDOUT, "stdout"), (STDERR, "stderr")):
        _stub(shim, f"cli/{name}#get-{name}", "", "i", const(handle))
        _stub(shim, f"cli/terminal-{name}#get-terminal-{name}", "i", "", store(local(0), const(0)))


def _sockets(shim: Shim) -> None:
    _stub(shim, "sockets/instance-network#instance-network", "", "i", const(POLLABLE))
    _stub(shim, "sockets/ip-name-lookup#resolve-addresses", "iiii", "", *_fail(3, ACCESS_DENIED))
    for kind in ("tcp", "udp"):
        _stub(shim, f"sockets/{kind}-create-socket#create-{kind}-socket", "ii", "", *_fail(1, ACCESS_DENIED))


def _empty_list() -> tuple[Code, Code]:
    """Any aligned pointer, length 0."""
    return store(local(0), const(4)), store(local(0), const(0), 4)


def _fail(result: int, error: int) -> tuple[Code, Code]:
    """A `result` with its error case."""
    return store(local(result), const(1)), store(local(result), const(error), 4)
