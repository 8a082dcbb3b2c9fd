"""What each safety measure of `lateen.wire` costs: the sans-IO core as it is, and with one measure at a time taken out of its source.

Run it with `python -m benchmarks.wire_safety`. No sockets: bytes of 16 batches of 25 calls with a message of 600 bytes go in, answers
come out. A measure that costs less than the spread of the figures is shown with what was found all the same.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from hpack import Encoder

from benchmarks.statistics import Spread
from benchmarks.timing import cpu_per_call
from lateen.wire import frames
from lateen.wire.call import Call
from lateen.wire.connection import Connection
from lateen.wire.headers import HeaderCache
from lateen.wire.limits import Limits

_CONNECTION: Final = "lateen.wire.connection"
_SPEAKER: Final = "lateen.wire.speaker"
_STREAMS: Final = "lateen.wire.streams"
_MODULES: Final = (_STREAMS, _SPEAKER, _CONNECTION)
_BATCHES, _BATCH = 16, 25
_MESSAGE: Final = b"\x0a" + b"x" * 599
_PATH: Final = "/envoy.service.auth.v3.Authorization/Check"

Edit = tuple[str, str, str]  # of a module: this text, by that

MEASURES: Final[Mapping[str, Sequence[Edit]]] = {
    "flow control of what we receive": [
        (
            _CONNECTION,
            "        self._credit -= size\n        if self._credit < limits",
            "        if self._credit < limits",
        ),
        (_CONNECTION, "        stream.credit -= size\n        if stream.credit < 0:", "        if False:"),
    ],
    "flow control of what we send": [
        (
            _SPEAKER,
            "elif size <= stream.window and size <= sending.window and size <= sending.frame_size:",
            "elif True:",
        ),
        (_SPEAKER, "            sending.window -= size\n", ""),
    ],
    "bounds on output": [
        (_SPEAKER, "        if len(message) > self._limits.response_bytes:", "        if False:"),
        (
            _SPEAKER,
            "        elif (self._unsent > self._share or self._life.stalled_since != NEVER) and not self._has_room(size):",
            "        elif False:",
        ),
        (_SPEAKER, "            self._unsent += size\n            self._out.append", "            self._out.append"),
    ],
    "deadlines and timeouts": [
        (
            _CONNECTION,
            "        due = now + limits.request_timeout\n        if head.timeout is not None:",
            "        if False:",
        ),
        (_CONNECTION, "        if due < self._next:", "        if False:"),
        (_CONNECTION, "        elif stream.deadline <= self._now:", "        elif False:"),
        (_CONNECTION, "            self._life.last_call = self._now\n", ""),
    ],
    "stream limit and stream order": [
        (_CONNECTION, "        if len(self._streams) >= limits.concurrent_streams:", "        if False:"),
        (_CONNECTION, "        if stream_id <= self._last_id:", "        if False:"),
        (_CONNECTION, "        if not stream_id & 1:", "        if False:"),
        (
            _CONNECTION,
            "        self._last_id = stream_id\n        self.opened += 1\n",
            "        self._last_id = stream_id\n",
        ),
    ],
    "frame sizes, header blocks, first frames": [
        (_CONNECTION, "            if size > frames.DEFAULT_FRAME_SIZE:", "            if False:"),
        (_CONNECTION, "            if self._block is not None and (", "            if False and ("),
        (_CONNECTION, "        if not self._life.configured:", "        if False:"),
        (_CONNECTION, "        if len(block) > limits.header_block_bytes:", "        if False:"),
    ],
    "padding, priority, small frames": [
        (_CONNECTION, "        if flags & (frames.PADDED | frames.HAS_PRIORITY):", "        if False:"),
        (
            _CONNECTION,
            "        if flags & frames.PADDED:\n            payload = frames.unpad(payload)\n        if flags",
            "        if flags",
        ),
    ],
    "the form of the message": [
        (
            _STREAMS,
            '        if size >= 0 and body[0] == 0 and int.from_bytes(body[1:5], "big") == size and size <= most:',
            "        if True:",
        ),
        (_STREAMS, "        if length is not None and length != len(body):", "        if False:"),
        (_STREAMS, "        if self.head.refusal is not None:", "        if False:"),
    ],
    "draining and counting": [
        (_SPEAKER, "        self.answered += 1\n", ""),
        (
            _SPEAKER,
            "        if self._draining > 1 and not self._streams:\n            self.closed",
            "        if False:\n            self.closed",
        ),
        (_CONNECTION, "        if self._draining > 1:\n            return", "        if False:\n            return"),
        (_CONNECTION, "            if self.closed is not None:\n                return\n", ""),
    ],
}


def without(edits: Sequence[Edit]) -> type[Connection]:
    """`Connection` with parts of its source replaced; ValueError if one is no longer there."""
    saved = {name: sys.modules[name] for name in _MODULES}
    try:
        for name in _MODULES:
            source = _source(name)
            for module, old, new in edits:
                if module == name:
                    if old not in source:
                        raise ValueError(f"{name} no longer has {old.strip()!r}")
                    source = source.replace(old, new)
            changed = ModuleType(name)
            # The benchmark is about this very source.
            exec(compile(source, name, "exec"), changed.__dict__)  # noqa: S102
            sys.modules[name] = changed
        made: Any = sys.modules[_CONNECTION]
        connection: type[Connection] = made.Connection
        return connection
    finally:
        sys.modules.update(saved)


def measure(*, rounds: int, seconds: float) -> dict[str, Spread]:
    """Microseconds a call: as it is, without each measure, and with headers that differ in every call."""
    limits = Limits()
    same, varying = _batches(varying=False), _batches(varying=True)
    cases: dict[str, Callable[[], object]] = {"as it is": _case(Connection, limits, same)}
    cases |= {f"without {name}": _case(without(edits), limits, same) for name, edits in MEASURES.items()}
    cases["without all of these"] = _case(
        without([edit for edits in MEASURES.values() for edit in edits]), limits, same
    )
    cases["headers of a trace, other ones in each call"] = _case(Connection, limits, varying, keep=False)
    found = cpu_per_call(cases, rounds=rounds, seconds=seconds)
    calls = _BATCHES * _BATCH
    return {name: value.scaled(1 / calls) for name, value in found.items()}


def _case(kind: type[Connection], limits: Limits, batches: Sequence[bytes], *, keep: bool = True) -> Callable[[], None]:
    """One connection's life; `keep` what was decoded for the next."""
    kept = HeaderCache(limits)

    def run() -> None:
        connection = kind(limits, 0.0, cache=kept if keep else HeaderCache(limits))
        connection.receive(_GREETING, 0.0)
        for batch in batches:
            for event in connection.receive(batch, 0.0):
                if isinstance(event, Call):
                    connection.answer(event.stream_id, b"\x08\x01")
            connection.data_to_send()
        if connection.answered not in {0, _BATCHES * _BATCH} or connection.open_streams:
            raise RuntimeError("not every call was answered")

    return run


def _source(name: str) -> str:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"no source of {name}")
    return Path(spec.origin).read_text(encoding="utf-8")


_GREETING: Final = (
    frames.PREFACE
    + frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 1 << 20})
    + frames.SETTINGS_ACK
    + frames.window_update(0, 1 << 30)
)


def _batches(*, varying: bool) -> list[bytes]:
    encoder = Encoder()
    encoder.header_table_size = 0
    batches: list[bytes] = []
    number = 0
    for _ in range(_BATCHES):
        batch = b""
        for _ in range(_BATCH):
            fields = [
                (":method", "POST"),
                (":path", _PATH),
                (":authority", "outbound|9191||lateen-extauthz"),
                (":scheme", "http"),
                ("te", "trailers"),
                ("grpc-timeout", "2000m"),
                ("content-type", "application/grpc"),
                ("x-lateen-target", "payments/api"),
                ("x-envoy-internal", "true"),
                ("x-forwarded-for", "10.0.0.1"),
            ]
            if varying:
                fields.append(("traceparent", f"00-{number * 7919:032x}-{number:016x}-01"))
                fields.append(("x-request-id", f"{number * 31337:08x}-1111-2222-3333-{number:012x}"))
            stream_id = 2 * number + 1
            body = bytes(1) + len(_MESSAGE).to_bytes(4, "big") + _MESSAGE
            batch += frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, bytes(encoder.encode(fields)))
            batch += frames.frame(frames.DATA, frames.END_STREAM, stream_id, body)
            number += 1
        batches.append(batch)
    return batches


def main() -> None:
    """Print the table: of each case its best round, since whatever else the machine does only adds."""
    found = measure(rounds=15, seconds=0.1)
    whole = found["as it is"].low
    print(f"{'core of lateen.wire':48} {'us a call':>10} {'difference':>11}")
    for name, value in found.items():
        print(f"{name:48} {value.low:10.2f} {value.low - whole:+11.2f}")


if __name__ == "__main__":
    main()
