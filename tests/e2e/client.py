"""An HTTP client for the tests: plain sockets, no retries, no redirects; calls through a sidecar's listener as applications do."""

import http.client
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """What came back. Status 0: the connection failed, `text` says how."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.text)
        return value

    @property
    def version(self) -> str:
        """Which version of the demo app answered."""
        return str(self.json["version"])


class Client:
    """One keep-alive connection. With `proxy`, the URL of an HTTP proxy, every call goes there."""

    def __init__(self, proxy: str = "", timeout: float = TIMEOUT_SECONDS) -> None:
        self._proxy = urlsplit(proxy)
        self._timeout = timeout
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def call(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        parts = urlsplit(url)
        where = self._proxy.netloc or parts.netloc
        target = url if self._proxy.netloc else (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = self._connections.setdefault(where, http.client.HTTPConnection(where, timeout=self._timeout))
        try:
            connection.request(method, target, body=body, headers={"host": parts.netloc, **(headers or {})})
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return Answer(0, {}, f"{type(error).__name__}: {error}")
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, text)


def call(
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    proxy: str = "",
    timeout: float = TIMEOUT_SECONDS,
) -> Answer:
    """One call on a connection of its own."""
    return Client(proxy, timeout).call(method, url, {"connection": "close", **(headers or {})})


def many(
    count: int, method: str, url: str, headers: Mapping[str, str] | None = None, *, proxy: str = "", threads: int = 8
) -> list[Answer]:
    """`count` calls over `threads` keep-alive connections."""

    def some(number: int) -> list[Answer]:
        client = Client(proxy)
        return [client.call(method, url, headers) for _ in range(number)]

    shares = [count // threads + (index < count % threads) for index in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return [answer for answers in pool.map(some, shares) for answer in answers]
