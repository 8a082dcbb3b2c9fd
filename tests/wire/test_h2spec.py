"""The public conformance suite of HTTP/2 against the server. `make test-deps` installs it where there is a Go toolchain."""

import asyncio
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from lateen.wire.connection import Connection
from lateen.wire.limits import Limits
from tests.wire import frames
from tests.wire.running import server
from tests.wire.serve import Options

# What may fail, with the reason: docs/wire.md lists the same.
EXCEPTIONS: dict[str, str] = {}
# h2spec's own encoder does not heed SETTINGS_HEADER_TABLE_SIZE, which RFC 9113 (4.3.1) makes an error: leave it its table.
LIMITS = {"header_table_bytes": 4096}
SECTIONS = ("generic", "http2", "hpack")


def h2spec() -> str | None:
    """The binary: on the path, or where `go install` puts it."""
    folders = [os.environ.get("GOBIN", ""), str(Path(os.environ.get("GOPATH", Path.home() / "go")) / "bin")]
    return shutil.which("h2spec") or shutil.which("h2spec", path=os.pathsep.join(filter(None, folders)))


needs_h2spec = pytest.mark.skipif(
    h2spec() is None,
    reason="h2spec is not installed: go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible",
)


@needs_h2spec
async def test_why_h2spec_is_left_its_table() -> None:
    """After it has acknowledged a table of size 0, its first header block does not give its own up: a COMPRESSION_ERROR (4.3.1)."""
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, received = Connection(Limits()), bytearray()
        while connection.closed is None:
            writer.write(connection.data_to_send())
            data = await reader.read(65_536)
            if not data:
                break
            connection.receive(data)
            received += data
            if received.startswith(frames.PREFACE):
                del received[: len(frames.PREFACE)]
            for frame in frames.read_frames(received):
                if frame.type == frames.SETTINGS and frame.flags & frames.ACK:
                    seen.append("settings acknowledged")
                if frame.type == frames.HEADERS:
                    seen.append("size update" if frame.payload[0] & 0xE0 == 0x20 else "no size update")
        sent = connection.data_to_send()
        seen.extend(frame.error for frame in frames.read_frames(bytearray(sent)) if frame.type == frames.GOAWAY)
        writer.write(sent)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = str(listener.sockets[0].getsockname()[1])
        command = (str(h2spec()), "--host", "127.0.0.1", "--port", port, "--timeout", "2", "generic/3.2/1")
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        await process.wait()
    assert seen == ["settings acknowledged", "no size update", "COMPRESSION_ERROR"]


@needs_h2spec
def test_h2spec(tmp_path: Path) -> None:
    report = tmp_path / "h2spec.xml"
    with server(Options(limits=dict(LIMITS))) as process:
        host, _, port = process.address.rpartition(":")
        # A second is what some tests wait for silence: long enough here, and the whole takes half a minute at most.
        command = [
            str(h2spec()),
            "--host",
            host,
            "--port",
            port,
            "--timeout",
            "2",
            "--junit-report",
            str(report),
            *SECTIONS,
        ]
        output = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110).stdout
    suites = ET.parse(report).getroot()  # noqa: S314 - of our own making
    cases = [case for suite in suites for case in suite.iter("testcase")]
    failed = {
        f"{case.get('package')}: {case.get('classname')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }
    skipped = [case for case in cases if case.find("skipped") is not None]
    assert len(cases) >= 145, output
    assert not skipped
    assert failed == set(EXCEPTIONS), output
