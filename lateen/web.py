"""HTTP servers of our services: uvicorn on sockets of our own making, private unix ones and TCP. A leaf that anyone may import."""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

_BACKLOG = 128
_LAST_PORT = 65535


class WebServer(uvicorn.Server):
    """uvicorn without its signal handlers: main has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def private_socket(path: Path) -> socket.socket:
    """Listen on a unix socket of mode 0600, in place of one that a dead process left."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} exists and is not a socket")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def tcp_socket(host: str, port: int) -> socket.socket:
    """Listen on an address; OSError at once when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.listen(_BACKLOG)
    return listener


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` or `:port` as a pair; ValueError says what is wrong."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > _LAST_PORT:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def check_address(address: str) -> None:
    """ValueError for what `listen_on` does not understand."""
    if not address.startswith("unix:"):
        split_address(address)


def listen_on(address: str) -> socket.socket:
    """Listen on `host:port`, `[host]:port`, `:port` or `unix:/path`; OSError when it is taken, ValueError when it is no address."""
    if address.startswith("unix:"):
        return private_socket(Path(address.removeprefix("unix:")))
    host, port = split_address(address)
    return tcp_socket(host or "0.0.0.0", port)  # noqa: S104  (what `:port` means)


def web_server(app: Starlette) -> WebServer:
    """A server for `app`: run it with `serve(sockets=[...])`, end it with `should_exit`."""
    return WebServer(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
            limit_concurrency=256,
            h11_max_incomplete_event_size=64 * 1024,
        )
    )
