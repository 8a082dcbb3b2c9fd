"""Load on a gRPC server: unary calls over HTTP/2, written and read as bytes, so that the generator costs little. Every answer must be good.

A closed loop: so many calls are in flight on so many connections, and each answer is followed by the next call. Header blocks look like
Envoy's: the same fields in each call but for the ids of a trace, all without a table.
"""

import select
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from typing import Final

from hpack import Encoder

from benchmarks.load import LoadError, load_of, polled
from benchmarks.statistics import Load

PATH: Final = "/envoy.service.auth.v3.Authorization/Check"
MESSAGE: Final = b"\x0a" + b"x" * 599  # the size of a CheckRequest
ANSWER: Final = b"\x0a\x00" + b"y" * 40

_PATIENCE_SECONDS: Final = 10.0
_WINDOW: Final = (1 << 31) - 1
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_REFRESH: Final = 1 << 29
_NO_TABLE: Final = b"\x20"  # a table size of 0, as a client says it in the first block after it was asked to


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return struct.pack(">BHBBI", size >> 16, size & 0xFFFF, kind, flags, stream) + payload


_OPENING: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, _WINDOW))
    + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - 65_535))
)
_BODY: Final = b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE
_ANSWER_BODY: Final = b"\0" + len(ANSWER).to_bytes(4, "big") + ANSWER


def _block() -> tuple[bytes, bytes]:
    """The fields of every call, and the beginning of the one that differs: its value of 55 bytes follows."""
    encoder = Encoder()
    encoder.header_table_size = 0
    fields = [
        (":method", "POST"),
        (":path", PATH),
        (":authority", "lateen-extauthz.istio-system.svc.cluster.local:9191"),
        (":scheme", "http"),
        ("te", "trailers"),
        ("grpc-timeout", "2000m"),
        ("content-type", "application/grpc"),
        ("x-lateen-target", "payments/payments-api"),
        ("x-envoy-internal", "true"),
        ("x-forwarded-for", "10.0.0.1"),
    ]
    return bytes(encoder.encode(fields)).lstrip(_NO_TABLE), b"\x00\x0btraceparent\x37"


_FIELDS, _TRACE = _block()


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    calls: int
    next_stream: int = 1
    window: int = 65_535  # what the server takes of us
    received: int = 0
    buffer: bytearray = field(default_factory=bytearray)
    waiting: int = 0  # calls that the server's window holds up
    sent: dict[int, float] = field(default_factory=dict)

    def receive(self) -> bytes:
        """What is there."""
        data = self.socket.recv(262_144)
        if not data:
            raise LoadError("the server closed a connection")
        while isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            data += self.socket.recv(262_144)
        return data

    def start(self, count: int, now: float) -> bytes:
        """The bytes of the next calls, as many as the server's window lets through."""
        parts = []
        count += self.waiting
        room = min(count, self.window // len(_BODY))
        self.waiting = count - room
        for _ in range(room):
            stream = self.next_stream
            self.next_stream += 2
            self.sent[stream] = now
            block = _FIELDS + _TRACE + b"00-%032x-%016x-01" % (stream * 7919, stream)
            parts.append(_frame(_HEADERS, _END_HEADERS, stream, block if stream > 1 else _NO_TABLE + block))
            parts.append(_frame(_DATA, _END_STREAM, stream, _BODY))
        self.window -= room * len(_BODY)
        return b"".join(parts)


def run(addresses: list[str], in_flight: int, seconds: float, tls: ssl.SSLContext | None = None) -> Load:
    """Calls for `seconds`, `in_flight` of them spread over one connection to each address."""
    made = (_Connection(_connect(address, tls), in_flight // len(addresses)) for address in addresses)
    opened = {connection.socket.fileno(): connection for connection in made}
    with polled([connection.socket for connection in opened.values()], str(addresses)) as poll:
        return _closed_loop(opened, poll, seconds)


def _connect(address: str, tls: ssl.SSLContext | None) -> socket.socket:
    try:
        return _dial(address, tls)
    except OSError as error:
        raise LoadError(f"{address}: {error}") from error


def _dial(address: str, tls: ssl.SSLContext | None) -> socket.socket:
    if address.startswith("unix:"):
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(_PATIENCE_SECONDS)
        made.connect(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        made = socket.create_connection((host, int(port)), timeout=_PATIENCE_SECONDS)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is not None:
        made = tls.wrap_socket(made)
    made.sendall(_OPENING)
    return made


def _closed_loop(opened: dict[int, _Connection], poll: select.epoll, seconds: float) -> Load:
    clock = time.perf_counter
    latencies: list[float] = []
    # The first call of a connection comes after the server's SETTINGS: until then it has a table.
    for connection in opened.values():
        _wait_for_settings(connection)
    start = clock()
    deadline = start + seconds
    for connection in opened.values():
        connection.socket.sendall(connection.start(connection.calls, clock()))
    now = start
    while now < deadline:
        ready = poll.poll(_PATIENCE_SECONDS)
        if not ready:
            raise LoadError(f"no answer within {_PATIENCE_SECONDS} s")
        for fd, _ in ready:
            connection = opened[fd]
            data = connection.receive()
            now = clock()
            answers, control = _read(connection, data)
            latencies.extend(now - connection.sent.pop(stream) for stream in answers)
            out = control + connection.start(len(answers), now)
            if out:
                connection.socket.sendall(out)
    return load_of(latencies, now - start)


def _wait_for_settings(connection: _Connection) -> None:
    while True:
        _, control = _read(connection, connection.receive())
        if control:
            connection.socket.sendall(control)
            return


def _read(connection: _Connection, data: bytes) -> tuple[list[int], bytes]:
    """The streams that were answered, and what has to be said about connection and settings."""
    buffer = connection.buffer
    buffer += data
    answers: list[int] = []
    control = b""
    at, end = 0, len(buffer)
    while end - at >= 9:
        high, low, kind, flags, stream = struct.unpack_from(">BHBBI", buffer, at)
        size = high << 16 | low
        if end - at < 9 + size:
            break
        begin = at + 9
        at = begin + size
        if kind == _DATA:
            connection.received += size
            if size and buffer[begin:at] != _ANSWER_BODY:
                raise LoadError(f"a wrong answer: {bytes(buffer[begin:at])!r}")
        elif kind == _HEADERS:
            if flags & _END_STREAM:
                answers.append(stream)
                if size > 40:
                    raise LoadError(f"a call failed: {bytes(buffer[begin:at])!r}")
        elif kind == _WINDOW_UPDATE and stream == 0:
            connection.window += int.from_bytes(buffer[begin:at], "big")
        elif kind == _SETTINGS and not flags & _ACK:
            control += _frame(_SETTINGS, _ACK, 0)
        elif kind == _PING and not flags & _ACK:
            control += _frame(_PING, _ACK, 0, bytes(buffer[begin:at]))
        elif kind in {_RST, _GOAWAY}:
            raise LoadError(f"the server ended it: {bytes(buffer[begin:at])!r}")
    del buffer[:at]
    if connection.received > _REFRESH:
        control += _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", connection.received))
        connection.received = 0
    return answers, control
