"""JSON over HTTP on a unix socket, for the two local APIs that the runner calls: the control plane's and the CA's."""

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

TIMEOUT_SECONDS = 10.0
MAX_ANSWER_BYTES = 64 << 20


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body, parsed if it was JSON."""

    status: int
    body: Any


def call(
    path: Path, method: str, target: str, *, query: Mapping[str, str] | None = None, body: str | None = None
) -> Answer:
    """One request. OSError (or its subclass TimeoutError) when nobody answers."""
    connection = _UnixConnection(path)
    try:
        connection.request(method, f"{target}?{urlencode(query)}" if query else target, body=body)
        response = connection.getresponse()
        raw = response.read(MAX_ANSWER_BYTES)
    except http.client.HTTPException as error:
        raise OSError(f"{path}: {type(error).__name__} {error}") from error
    finally:
        connection.close()
    try:
        return Answer(response.status, json.loads(raw))
    except ValueError:
        return Answer(response.status, raw.decode(errors="replace"))
