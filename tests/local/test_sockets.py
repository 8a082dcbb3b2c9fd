"""Against real sockets of real processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from lateen.local.sockets import Listener, listens, own_listeners, parse_listeners
from tests.e2e.running import until

# Listens at the address of its argument, in a child of its own, and says where.
SERVER = """
import os, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family, dualstack_ipv6=family == socket.AF_INET6)
if os.fork():
    server.close()
    os.wait()
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""
Start = Callable[..., tuple[int, int]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Run SERVER at an address; its pid and port."""
    running = []

    def run(address: str, port: int = 0) -> tuple[int, int]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, address, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        running.append(process)
        assert process.stdout is not None
        return process.pid, int(process.stdout.readline())

    yield run
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


@pytest.mark.parametrize("address", ["127.77.0.1", "0.0.0.0", "::"])
def test_what_a_child_of_the_process_binds_is_served(start: Start, address: str) -> None:
    pid, port = start(address)
    assert listens(pid, "127.77.0.1", port)
    assert not listens(pid, "127.77.0.1", port + 1)
    assert [listener.port for listener in own_listeners(pid)] == [port]


def test_another_address_is_not_served_and_is_named(start: Start) -> None:
    pid, port = start("127.0.0.1")
    assert not listens(pid, "127.77.0.1", port)
    assert [str(listener) for listener in own_listeners(pid)] == [f"127.0.0.1:{port}"]


def test_a_stranger_on_every_address_is_not_the_application(start: Start) -> None:
    stranger, port = start("0.0.0.0")
    assert listens(stranger, "127.77.0.1", port)
    assert not listens(start("127.77.0.2")[0], "127.77.0.1", port)


def test_a_process_that_has_gone_serves_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    until(lambda: not os.path.exists(f"/proc/{process.pid}"))  # noqa: PTH110
    assert not listens(process.pid, "127.0.0.1", 1)
    assert not listens(0, "127.0.0.1", 1)
    assert own_listeners(process.pid) == ()


def test_a_connection_is_no_listener() -> None:
    with socket.create_server(("127.77.0.3", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.77.0.3", port)) as client:
            assert not listens(os.getpid(), "127.77.0.3", client.getsockname()[1])


def test_mapped_addresses_are_ipv4() -> None:
    line = "0: 0000000000000000FFFF00000100007F:1F90 0:0 0A 0:0 0:0 0 0 0 4711 1 x"
    if sys.byteorder == "little":
        (found,) = parse_listeners([line])
        assert str(found) == "127.0.0.1:8080"
        assert isinstance(found, Listener)
        assert found.serves("127.0.0.1")
        assert found.inode == 4711
