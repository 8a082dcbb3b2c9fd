"""Every function of `filters.sdk.host`, with the semantics of Proxy-Wasm 0.2.1 as Envoy implements it (extensions/common/wasm)."""

import itertools
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol

from filters.sdk import host
from filters.testing.headermap import HeaderMap, decode_pairs
from filters.testing.messages import LogLine

NOT_FOUND, BAD_ARGUMENT = 1, 2
LEVELS = ("trace", "debug", "info", "warning", "error", "critical")
COUNTER, GAUGE, HISTOGRAM = 0, 1, 2
UNSIGNED_BITS, SIGNED_BITS = 32, 63
DEFAULT_CPU_MS = 100
ALL = 0xFFFFFFFF

_metrics: dict[tuple[int, str], int] = {}
_metric_kinds: dict[int, tuple[int, str]] = {}
"""Numbers are the process's: a filter's module keeps them, and is imported once."""


class Call(NamedTuple):
    """A callout under way."""

    number: int
    root: int
    stream: int
    cluster: str
    headers: HeaderMap
    body: bytes
    timeout_ms: int


class LocalReply(NamedTuple):
    """What a filter answers in place of the upstream."""

    status: int
    body: bytes
    headers: list[tuple[str, bytes]]


class Context(Protocol):
    """What a callback is about: a stream, or a root context when nothing is filtered."""

    id: int

    def headers(self, which: int) -> HeaderMap | None:
        """The map, if it can be read now."""

    def writable(self, which: int) -> HeaderMap | None:
        """The map, if it can be changed now."""

    def buffer(self, which: int) -> bytearray | None:
        """The bytes of a body, or of the configuration."""

    def property(self, path: tuple[str, ...]) -> bytes | None:
        """An attribute."""

    def reply(self, local: LocalReply) -> bool:
        """Send a local reply after this callback; whether that can be done."""

    def resume(self, direction: int) -> None:
        """Go on after this callback."""


class Shared:
    """Envoy's shared data of one vm_id."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[bytes, int]] = {}
        self._versions = itertools.count(1)

    def get(self, key: str) -> tuple[bytes, int] | None:
        """Value and version."""
        return self._values.get(key)

    def set(self, key: str, value: bytes, version: int = 0) -> bool:
        """Whether the version was that, or 0, or the key absent."""
        old = self._values.get(key)
        if old is not None and version and version != old[1]:
            return False
        self._values[key] = (value, next(self._versions))
        return True


class Functions:
    """The host of one VM."""

    def __init__(self, context_of: Callable[[int], Context | None], clusters: frozenset[str]) -> None:
        self._context_of = context_of
        self._clusters = clusters
        self._call_numbers = itertools.count(1)
        self._values: dict[int, int] = {}
        self.current: Context | None = None
        self.cpu_limit_ms = DEFAULT_CPU_MS
        self.log_lines: list[LogLine] = []
        self.shared = Shared()
        self.calls: list[Call] = []
        self.tick_ms = 0

    @property
    def metrics(self) -> Mapping[str, int]:
        """Counters and gauges by name."""
        kinds = {number: _metric_kinds[number] for number in self._values}
        return {name: self._values[number] for number, (kind, name) in kinds.items() if kind != HISTOGRAM}

    # filters.sdk.host, in its order

    def log(self, level: int, message: str | bytes) -> None:
        self.log_lines.append(LogLine(LEVELS[_number(level)], _text(message).decode("utf-8", "replace")))

    def get_header(self, headers: int, name: str) -> str | Literal[True] | None:
        found = self._here().headers(_number(headers))
        values = found.get_all(_text(name).decode("utf-8", "surrogateescape")) if found is not None else []
        if len(values) > 1:
            return True
        return values[0].decode("utf-8", "surrogateescape") if values else None

    def get_headers(self, headers: int) -> bytes | None:
        found = self._here().headers(_number(headers))
        return b"" if found is None else found.encode()

    def set_headers(self, headers: int, pairs: bytes) -> None:
        found = self._writable(headers)
        for name, _ in found.pairs():
            found.remove(name)
        for name, value in decode_pairs(_text(pairs)):
            found.add(name, value)

    def add_header(self, headers: int, name: str, value: str | bytes) -> None:
        self._writable(headers).add(_text(name).decode(), _text(value))

    def replace_header(self, headers: int, name: str, value: str | bytes) -> None:
        self._writable(headers).replace(_text(name).decode(), _text(value))

    def remove_header(self, headers: int, name: str) -> None:
        self._writable(headers).remove(_text(name).decode())

    def get_property(self, path: str) -> bytes | None:
        return self._here().property(tuple(_text(path).decode("utf-8", "surrogateescape").split("\0")))

    def set_property(self, path: str, value: str | bytes) -> None:
        kept = getattr(self._here(), "state", None)
        if kept is None:
            raise host.HostError(NOT_FOUND)
        kept[_text(path).decode()] = _text(value)

    def get_buffer(self, buffer: int, start: int, size: int) -> bytes | None:
        found = self._here().buffer(_number(buffer))
        if found is None:
            return None
        return bytes(found[_number(start) : start + _number(size)])

    def set_buffer(self, buffer: int, start: int, size: int, data: bytes) -> None:
        found = self._here().buffer(_number(buffer))
        if found is None:
            raise host.HostError(NOT_FOUND)
        content = _text(data)
        if _number(start) == 0 and (_number(size) == 0 or size >= len(found)):
            found[: len(found) if size else 0] = content
        elif start >= len(found):
            found += content
        else:
            raise host.HostError(BAD_ARGUMENT)

    def send_response(self, status: int, details: str, body: str | bytes, headers: bytes, grpc_status: int) -> None:
        _text(details)
        _number(grpc_status)
        local = LocalReply(_number(status), _text(body), decode_pairs(_text(headers)))
        if not self._here().reply(local):
            raise host.HostError(BAD_ARGUMENT)

    def get_shared(self, key: str) -> tuple[bytes, int] | None:
        return self.shared.get(_text(key).decode())

    def set_shared(self, key: str, value: str | bytes, version: int) -> None:
        if not self.shared.set(_text(key).decode(), _text(value), _number(version)):
            raise host.HostError(host.CAS_MISMATCH)

    def define_metric(self, kind: int, name: str) -> int:
        key = _number(kind), _text(name).decode()
        if kind > HISTOGRAM:
            raise host.HostError(BAD_ARGUMENT)
        number = _metrics.setdefault(key, 4 * (len(_metrics) + 1) + kind)
        _metric_kinds[number] = key
        self._values.setdefault(number, 0)
        return number

    def increment_metric(self, metric: int, offset: int) -> None:
        kind = self._metric(metric)
        if kind == HISTOGRAM or (kind == COUNTER and offset <= 0):
            raise host.HostError(BAD_ARGUMENT)
        self._values[metric] += _signed(offset)

    def record_metric(self, metric: int, value: int) -> None:
        kind = self._metric(metric)
        self._values[metric] = _signed(value) + (self._values[metric] if kind == COUNTER else 0)

    def get_metric(self, metric: int) -> int:
        if self._metric(metric) == HISTOGRAM:
            raise host.HostError(BAD_ARGUMENT)
        return self._values[metric]

    def http_call(self, cluster: str, headers: bytes, body: str | bytes, trailers: bytes, timeout_ms: int) -> int:
        name, pairs = _text(cluster).decode(), decode_pairs(_text(headers))
        if name not in self._clusters or not {":method", ":path", ":authority"} <= {key for key, _ in pairs}:
            raise host.HostError(BAD_ARGUMENT)
        number = next(self._call_numbers)
        context = self._here()
        call = Call(number, self.root, context.id, name, HeaderMap(pairs), _text(body), _number(timeout_ms))
        self.calls.append(call)
        return number

    def set_tick_period(self, milliseconds: int) -> None:
        self.tick_ms = _number(milliseconds)

    def continue_stream(self, direction: int) -> None:
        self._here().resume(_number(direction))

    def set_context(self, context: int) -> None:
        found = self._context_of(_number(context))
        if found is None:
            raise host.HostError(BAD_ARGUMENT)
        self.current = found

    def set_cpu_limit(self, milliseconds: int) -> None:
        self.cpu_limit_ms = _number(milliseconds)

    root = 0
    """The root context of the filter."""

    def _here(self) -> Context:
        if self.current is None:
            raise RuntimeError("no callback is running")
        return self.current

    def _writable(self, which: int) -> HeaderMap:
        found = self._here().writable(_number(which))
        if found is None:
            raise host.HostError(BAD_ARGUMENT)
        return found

    def _metric(self, metric: int) -> int:
        if _number(metric) not in _metric_kinds:
            raise host.HostError(NOT_FOUND)
        self._values.setdefault(metric, 0)
        return _metric_kinds[metric][0]


def _number(value: int) -> int:
    """As PyLong_AsUnsignedLong takes it."""
    if not isinstance(value, int):
        raise TypeError(f"an integer is required, not {type(value).__name__}")
    if not 0 <= value < 1 << UNSIGNED_BITS:
        raise OverflowError("out of range of 32 unsigned bits")
    return value


def _signed(value: int) -> int:
    """As PyLong_AsLongLong takes it."""
    if not isinstance(value, int):
        raise TypeError(f"an integer is required, not {type(value).__name__}")
    if not -(1 << SIGNED_BITS) <= value < 1 << SIGNED_BITS:
        raise OverflowError("out of range of 64 signed bits")
    return value


def _text(value: str | bytes) -> bytes:
    """As PyUnicode_AsUTF8AndSize and PyBytes_AsStringAndSize take it."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise TypeError(f"expected str or bytes, not {type(value).__name__}")
    return value.encode()
