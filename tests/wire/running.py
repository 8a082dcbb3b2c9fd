"""Server processes of the tests, what they use, and raw connections to them."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import grpc

from tests.wire import frames
from tests.wire.frames import Coder, Frame
from tests.wire.serve import Options

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0


@dataclass(frozen=True)
class Process:
    """A running `tests.wire.serve`."""

    process: "subprocess.Popen[bytes]"
    addresses: tuple[str, ...]

    @property
    def address(self) -> str:
        return self.addresses[0]

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        """Open files."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())


@contextlib.contextmanager
def server(options: Options) -> Iterator[Process]:
    """A server process, killed at the end."""
    arguments = [sys.executable, "-m", "tests.wire.serve", json.dumps(asdict(options))]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield Process(process, tuple(json.loads(process.stdout.readline())))
    finally:
        process.kill()
        process.wait()


class Raw:
    """A connection whose bytes the test writes itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.coder = Coder()
        self.frames: list[Frame] = []
        self.closed = False
        self._received = bytearray()
        self._next = 1

    @classmethod
    async def open(cls, address: str, *, opened: bool = True) -> Self:
        """Connect; `opened` also sends preface and SETTINGS and acknowledges the server's."""
        if address.startswith("unix:"):
            raw = cls(*await asyncio.open_unix_connection(address.removeprefix("unix:")))
        else:
            host, _, port = address.rpartition(":")
            raw = cls(*await asyncio.open_connection(host, int(port)))
        if opened:
            await raw.send(frames.PREFACE + frames.settings() + frames.settings(ack=True))
        return raw

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> bool:
        """Write; False when the server has gone."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            return False
        return not self.writer.is_closing()

    def next_stream(self) -> int:
        self._next += 2
        return self._next - 2

    async def receive(self, seconds: float = PATIENCE) -> Frame | None:
        """The next frame; None when the server closed the connection. TimeoutError if it does neither."""
        async with asyncio.timeout(seconds):
            while True:
                for frame in frames.read_frames(self._received):
                    self.frames.append(frame)
                    return frame
                try:
                    data = await self.reader.read(65536)
                except OSError:
                    data = b""
                if not data:
                    self.closed = True
                    return None
                self._received += data

    async def until(self, *types: int, stream: int | None = None) -> Frame:
        """The next frame of one of the types (and of the stream)."""
        while (frame := await self.receive()) is not None:
            if frame.type in types and stream in (None, frame.stream):
                return frame
        raise AssertionError("the connection was closed")

    async def end(self) -> str:
        """The code of the GOAWAY the server closes the connection with; "none" if it just closes it."""
        code = "none"
        while (frame := await self.receive()) is not None:
            if frame.type == frames.GOAWAY:
                code = frame.error
        return code

    async def answer(self, stream: int) -> tuple[bytes, dict[str, str]]:
        """The message and all header fields of an answered call."""
        body = b""
        fields: dict[str, str] = {}
        while (frame := await self.receive()) is not None:
            if frame.type == frames.HEADERS:
                block = self.coder.read(frame.payload)
                fields |= dict(block) if frame.stream == stream else {}
            if frame.stream == stream:
                if frame.type == frames.RST_STREAM:
                    return body, {"reset": frame.error}
                body += frame.payload if frame.type == frames.DATA else b""
                if frame.ends_stream:
                    return body[5:], fields
        return body, {"closed": "yes"}


def method(channel: grpc.aio.Channel, path: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    """A method of bytes."""
    made: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    return made
