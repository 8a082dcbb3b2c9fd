"""A third client: curl on nghttp2, which asks by hand what a gRPC client would."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.wire import frames, handlers
from tests.wire.running import server
from tests.wire.serve import Options


def has_http2() -> bool:
    """Whether there is a curl that speaks HTTP/2."""
    if shutil.which("curl") is None:
        return False
    return "HTTP2" in subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not has_http2(), reason="there is no curl with HTTP/2")
def test_curl_calls(tmp_path: Path) -> None:
    request, answer = tmp_path / "request", tmp_path / "answer"
    request.write_bytes(frames.message(b"x" * 100_000))
    grpc = ["-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", f"@{request}"]
    with server(Options()) as process:

        def curl(path: str, *options: str) -> str:
            """The header and trailer fields of the answer; one curl for each, since some cannot use a plain connection twice."""
            command = [
                "curl",
                "-sS",
                "--http2-prior-knowledge",
                "--max-time",
                "30",
                "--dump-header",
                "-",
                "-o",
                str(answer),
            ]
            url = f"http://{process.address}{path}"
            return subprocess.run([*command, *options, url], capture_output=True, text=True, check=True).stdout

        for path in (handlers.ECHO, handlers.LATER):
            said = curl(path, *grpc)
            assert said.startswith("HTTP/2 200")
            assert "grpc-status: 0" in said
            assert answer.read_bytes() == request.read_bytes()
        assert "grpc-status: 12" in curl("/t.T/Nothing", *grpc)
        assert curl(handlers.ECHO).startswith("HTTP/2 405")
        assert answer.read_text() == "gRPC calls are POST requests\n"
