"""Shared data of a VM seen from outside: a hand-made module of 700 bytes with the same vm_id reads and writes it over HTTP.

Envoy keys shared data by vm_id alone, so a module of any code sees it. GET / with x-key answers the value or 404, POST / sets it.
"""

import http.client
from collections.abc import Sequence

from filters.toolchain.assembler import (
    Code,
    Function,
    add,
    assign,
    assign_variable,
    call,
    const,
    drop,
    function_type,
    give,
    if_,
    is_zero,
    load,
    local,
    variable,
)
from filters.toolchain.binary import name, section, signed, unsigned, vector
from filters.toolchain.code import SymbolUse, VariableUse

MAGIC = b"\0asm\1\0\0\0"
KEY = b"x-key"
KEY_AT, RESULTS, HEAP = 16, 64, 4096
OK, NO_CONTENT, NOT_FOUND = 200, 204, 404
PAGES = 64
HOST = {
    "proxy_get_header_map_value": "iiiii",
    "proxy_get_buffer_bytes": "iiiii",
    "proxy_get_shared_data": "iiiii",
    "proxy_set_shared_data": "iiiii",
    "proxy_send_local_response": "iiiiiiii",
}


def probe_module() -> bytes:
    """The module."""
    functions = _functions()
    index = {title: number for number, title in enumerate([*HOST, *(function.name for function in functions)])}
    types = [function_type(letters, "i") for letters in HOST.values()] + [function.type for function in functions]
    imports = [name("env") + name(title) + b"\0" + unsigned(number) for number, title in enumerate(HOST)]
    exports = [name(function.name) + b"\0" + unsigned(index[function.name]) for function in functions]
    bodies = [_assemble(function, index) for function in functions]
    data = b"\0\x41" + signed(KEY_AT) + b"\x0b" + unsigned(len(KEY)) + KEY
    return MAGIC + b"".join(
        (
            section(1, vector(types)),
            section(2, vector(imports)),
            section(3, vector([unsigned(len(HOST) + number) for number in range(len(functions))])),
            section(5, vector([b"\0" + unsigned(PAGES)])),
            section(6, vector([b"\x7f\1\x41" + signed(HEAP) + b"\x0b"])),
            section(7, vector([*exports, name("memory") + b"\2\0"])),
            section(10, vector([unsigned(len(body)) + body for body in bodies])),
            section(11, vector([data])),
        )
    )


def _functions() -> Sequence[Function]:
    allocate = Function("proxy_on_memory_allocate", "i", "i")
    at = allocate.new_local()
    allocate.emit(assign(at, variable("heap")), assign_variable("heap", add(local(at), local(0))), local(at))

    headers = Function("proxy_on_request_headers", "iii", "i")
    headers.emit(
        if_(is_zero(local(2)), give(const(1))),
        _read_key(),
        if_(
            call(
                "proxy_get_shared_data",
                load(const(RESULTS)),
                load(const(RESULTS + 4)),
                const(RESULTS + 8),
                const(RESULTS + 12),
                const(RESULTS + 16),
            ),
            _answer(NOT_FOUND, const(0), const(0)),
            _answer(OK, load(const(RESULTS + 8)), load(const(RESULTS + 12))),
        ),
        const(1),
    )
    body = Function("proxy_on_request_body", "iii", "i")
    body.emit(
        if_(is_zero(local(2)), give(const(1))),
        _read_key(),
        drop(call("proxy_get_buffer_bytes", const(0), const(0), local(1), const(RESULTS + 8), const(RESULTS + 12))),
        drop(
            call(
                "proxy_set_shared_data",
                load(const(RESULTS)),
                load(const(RESULTS + 4)),
                load(const(RESULTS + 8)),
                load(const(RESULTS + 12)),
                const(0),
            )
        ),
        _answer(NO_CONTENT, const(0), const(0)),
        const(1),
    )
    return allocate, headers, body, Function("proxy_abi_version_0_2_1")


def _read_key() -> Code:
    return (
        *assign_variable("heap", const(HEAP)),
        *drop(
            call(
                "proxy_get_header_map_value",
                const(0),
                const(KEY_AT),
                const(len(KEY)),
                const(RESULTS),
                const(RESULTS + 4),
            )
        ),
    )


def _answer(status: int, pointer: Code, length: Code) -> Code:
    nothing = const(0)
    return drop(
        call("proxy_send_local_response", const(status), nothing, nothing, pointer, length, nothing, nothing, const(-1))
    )


def _assemble(function: Function, index: dict[str, int]) -> bytes:
    out = bytearray()
    for token in function.body():
        if isinstance(token, SymbolUse):
            out += unsigned(index[token.name])
        elif isinstance(token, VariableUse):
            out += bytes([token.opcode, 0])
        elif isinstance(token, bytes):
            out += token
        else:
            raise TypeError(f"{token} in the probe")
    return bytes(out)


class Probe:
    """Implements `filters.testing.hosts.Shared`."""

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, key: str) -> bytes | None:
        status, value = self._ask("GET", key, None)
        return value if status == OK else None

    def set(self, key: str, value: bytes | str) -> None:
        status, text = self._ask("POST", key, value.encode() if isinstance(value, str) else value)
        if status != NO_CONTENT:
            raise RuntimeError(f"the probe answers {status} {text!r}")

    def _ask(self, method: str, key: str, body: bytes | None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            chunked = {} if body is None else {"transfer-encoding": "chunked"}
            connection.request(
                method,
                "/",
                iter([body] if body else []) if body is not None else None,
                {KEY.decode(): key.encode().decode("iso-8859-1"), **chunked},
                encode_chunked=body is not None,
            )
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
