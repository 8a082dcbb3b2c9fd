"""The boundary to Envoy.

Inside the module each function here is replaced by one in Wasm with this very signature (see filters.toolchain.hostcalls); the
bodies below answer when there is no host, for example while a module is imported by a test.

Numbers are Proxy-Wasm's. A wrong type is a TypeError, a refusal of the host a HostError.
"""

from typing import Final, Literal, NoReturn

from filters.sdk.pairs import find_pair

REQUEST_HEADERS: Final = 0
RESPONSE_HEADERS: Final = 2
CALL_HEADERS: Final = 6

REQUEST_BODY: Final = 0
RESPONSE_BODY: Final = 1
CALL_BODY: Final = 4
CONFIGURATION: Final = 7

DEBUG, INFO, WARN, ERROR = 1, 2, 3, 4
CONTINUE, PAUSE = 0, 1
REQUEST, RESPONSE = 0, 1

REASONS = {
    1: "not found",
    2: "bad argument",
    3: "cannot be serialised",
    4: "cannot be parsed",
    5: "bad expression",
    6: "invalid memory access",
    7: "empty",
    8: "compare and set mismatch",
    9: "result mismatch",
    10: "internal failure",
    11: "broken connection",
    12: "not implemented",
}
CAS_MISMATCH: Final = 8


class HostError(Exception):
    """Envoy has refused a call; `status` is Proxy-Wasm's number."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        return f"envoy refused the call: {REASONS.get(self.status, self.status)}"


class CpuLimitExceeded(BaseException):
    """The callback has used up its time, by an endless loop for example. `except Exception` does not catch it."""


def _missing() -> NoReturn:
    raise RuntimeError("there is no Envoy here: call this while a request is handled, not while the module is imported")


def log(level: int, message: str | bytes) -> None:
    _missing()


def get_header(headers: int, name: str) -> str | Literal[True] | None:
    """True if there are several: only get_headers tells them apart."""
    _missing()


def get_headers(headers: int) -> bytes | None:
    _missing()


def set_headers(headers: int, pairs: bytes) -> None:
    _missing()


def add_header(headers: int, name: str, value: str | bytes) -> None:
    _missing()


def replace_header(headers: int, name: str, value: str | bytes) -> None:
    _missing()


def remove_header(headers: int, name: str) -> None:
    _missing()


def get_property(path: str) -> bytes | None:
    _missing()


def set_property(path: str, value: str | bytes) -> None:
    _missing()


def get_buffer(buffer: int, start: int, size: int) -> bytes | None:
    _missing()


def set_buffer(buffer: int, start: int, size: int, data: bytes) -> None:
    _missing()


def send_response(status: int, details: str, body: str | bytes, headers: bytes, grpc_status: int) -> None:
    _missing()


def get_shared(key: str) -> tuple[bytes, int] | None:
    _missing()


def set_shared(key: str, value: str | bytes, version: int) -> None:
    _missing()


def define_metric(kind: int, name: str) -> int:
    _missing()


def increment_metric(metric: int, offset: int) -> None:
    _missing()


def record_metric(metric: int, value: int) -> None:
    _missing()


def get_metric(metric: int) -> int:
    _missing()


def http_call(cluster: str, headers: bytes, body: str | bytes, trailers: bytes, timeout_ms: int) -> int:
    _missing()


def set_tick_period(milliseconds: int) -> None:
    _missing()


def continue_stream(direction: int) -> None:
    _missing()


def set_context(context: int) -> None:
    _missing()


def set_cpu_limit(milliseconds: int) -> None:
    _missing()


def set_handlers(root: int, on_request: object, on_response: object, on_log: object, flags: int) -> None:
    """Let Wasm call these for the streams of a root context (see filters.toolchain.fastpath); elsewhere there is no short way."""


def find_header(raw: bytes, name: str) -> str | Literal[True] | None:
    """Look for a header in what `get_headers` has returned; True if there are several."""
    return find_pair(raw, name)
