"""The language of the plays in `plays/`: what a client sends, what the server is told, what it says, and what must come back.

    > HEADERS 1 /t.T/Echo grpc-timeout=1S END_STREAM     the client sends frames (one a line); OPEN leaves END_HEADERS out
    > DATA 1 message(hello) END_STREAM                   also: 100*x, hex(00ff), message(x)+message(y), plain words
    = CALL 1 /t.T/Echo hello                             the events the server's user sees, all of them, in order
    ! answer 1 olleh                                     what the user does: answer, fail, drain, after SECONDS
    < HEADERS 1 :status=200                              the frames that come back, all of them, in order; fields are a subset

Acknowledgements of our own SETTINGS and window updates are passed over unless a line asks for them. The opening (preface and SETTINGS
both ways) is played first unless the play begins with a line `raw`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.wire import frames
from tests.wire.frames import Coder, Frame

DIRECTORY = Path(__file__).parent / "plays"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a play."""

    number: int
    mark: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"line {self.number}: {self.mark} {' '.join(self.words)}"


@dataclass(frozen=True, slots=True)
class Play:
    """A file of `plays/`."""

    name: str
    raw: bool
    limits: dict[str, int]
    lines: tuple[Line, ...]


def all_plays() -> list[Play]:
    return [parse_play(path.stem, path.read_text()) for path in sorted(DIRECTORY.glob("*.play"))]


def parse_play(name: str, text: str) -> Play:
    """A play; ValueError with the line if it is not one."""
    raw = False
    limits: dict[str, int] = {}
    lines: list[Line] = []
    for number, written in enumerate(text.splitlines(), 1):
        line = written.partition(" #")[0].strip() if not written.startswith("#") else ""
        if not line:
            continue
        mark, *words = line.split()
        if line == "raw":
            raw = True
        elif mark == "limits":
            limits |= {key: int(value) for key, _, value in (word.partition("=") for word in words)}
        elif mark in "><=!":
            lines.append(Line(number, mark, tuple(words)))
        else:
            raise ValueError(f"{name}.play:{number}: a line begins with >, <, = or !")
    return Play(name, raw, limits, tuple(lines))


def payload(text: str) -> bytes:
    """The bytes that a word of a play means."""
    if "+" in text:
        return b"".join(map(payload, text.split("+")))
    if found := re.fullmatch(r"(\w+)\((.*)\)", text):
        name, inner = found.groups()
        match name:
            case "message":
                return frames.message(payload(inner))
            case "compressed":
                return frames.message(payload(inner), compressed=1)
            case "hex":
                return bytes.fromhex(inner)
            case "long":  # a message that says it is as long as that
                return frames.message(b"", length=int(inner))
        raise ValueError(f"no such payload: {text}")
    if found := re.fullmatch(r"(\d+)\*(.+)", text):
        return payload(found[2]) * int(found[1])
    return text.encode()


def sent(line: Line, coder: Coder) -> bytes:
    """The bytes of a `>` line."""
    kind, *words = line.words
    flags = {word for word in words if word in ("END_STREAM", "OPEN", "ACK", "PADDED", "PRIORITY", "LITERAL")}
    words = [word for word in words if word not in flags]
    end, done = "END_STREAM" in flags, "OPEN" not in flags
    match kind:
        case "PREFACE":
            return frames.PREFACE
        case "RAW":
            return payload(words[0])
        case "SETTINGS":
            return frames.settings(_numbers(words), ack="ACK" in flags)
        case "HEADERS":
            return _headers(int(words[0]), coder.block(_fields(words[1:])), end=end, done=done, flags=flags)
        case "CONTINUATION":
            return frames.continuation(int(words[0]), coder.block(_fields(words[1:], whole=False)), done=done)
        case "DATA":
            body = payload(words[1]) if len(words) > 1 else b""
            if "PADDED" in flags:
                padded = bytes([7]) + body + bytes(7)
                return frames.frame(
                    frames.DATA, int(words[0]), padded, frames.PADDED | (frames.END_STREAM if end else 0)
                )
            return frames.data(int(words[0]), body, end=end)
        case "PING":
            return frames.ping(payload(words[0]) if words else b"01234567", ack="ACK" in flags)
        case "RST_STREAM":
            return frames.rst_stream(int(words[0]), frames.ERRORS.index(words[1]) if len(words) > 1 else 8)
        case "WINDOW_UPDATE":
            return frames.window_update(int(words[0]), int(words[1]))
        case "GOAWAY":
            return frames.goaway()
        case "FRAME":  # type stream payload flags, as numbers
            return frames.frame(
                int(words[0]),
                int(words[1]),
                payload(words[2]) if len(words) > 2 else b"",
                int(words[3]) if len(words) > 3 else 0,
            )
    raise ValueError(f"{line}: no such frame")


def _headers(stream: int, block: bytes, *, end: bool, done: bool, flags: set[str]) -> bytes:
    bits = (frames.END_STREAM if end else 0) | (frames.END_HEADERS if done else 0)
    if "PRIORITY" in flags:
        bits, block = bits | frames.PRIORITISED, b"\x00\x00\x00\x00\x0f" + block
    if "PADDED" in flags:
        bits, block = bits | frames.PADDED, b"\x07" + block + bytes(7)
    return frames.frame(frames.HEADERS, stream, block, bits)


def _fields(words: list[str], *, whole: bool = True) -> list[tuple[str, str]]:
    given = [_field(word) for word in words if not word.startswith("/")]
    paths = [word for word in words if word.startswith("/")]
    return frames.request_fields(paths[0], *given) if paths and whole else given


def _field(word: str) -> tuple[str, str]:
    name, _, value = word.removeprefix(":").partition("=")
    name = ":" + name if word.startswith(":") else name
    return name, payload(value).decode() if "*" in value else value


def _numbers(words: list[str]) -> dict[str, int]:
    return {name: int(value) for name, _, value in (word.partition("=") for word in words)}


def described(frame: Frame, coder: Coder) -> Iterator[str]:
    """The words of a frame that came back, as a `<` line would have them."""
    yield frame.name
    if frame.type not in (frames.SETTINGS, frames.PING, frames.GOAWAY):
        yield str(frame.stream)
    match frame.type:
        case frames.DATA:
            yield (
                frame.payload.decode("latin-1")
                if not frame.payload.startswith(b"\0\0\0")
                else f"message({frame.payload[5:].decode('latin-1')})"
            )
        case frames.HEADERS:
            yield from (f"{name}={value}" for name, value in coder.read(frame.payload))
        case frames.SETTINGS:
            yield from (f"{name}={value}" for name, value in frame.settings().items())
        case frames.RST_STREAM | frames.GOAWAY:
            yield frame.error
        case frames.WINDOW_UPDATE:
            yield str(int.from_bytes(frame.payload, "big"))
        case frames.PING:
            yield frame.payload.decode("latin-1")
    if frame.ends_stream:
        yield "END_STREAM"
    if frame.type in (frames.SETTINGS, frames.PING) and frame.flags & frames.ACK:
        yield "ACK"
