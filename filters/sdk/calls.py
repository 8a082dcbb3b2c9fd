"""HTTP calls to a cluster of Envoy, awaited."""

from collections.abc import Iterable, Mapping

from filters.sdk import host
from filters.sdk.headers import encode_pairs
from filters.sdk.messages import Response
from filters.sdk.waiting import CallWait


class HttpCallError(Exception):
    """No response came: no such cluster, no healthy host, or a timeout."""


class HttpClient:
    """`await self.http.get("cluster", "/path")`."""

    __slots__ = ()

    async def get(
        self, cluster: str, path: str = "/", *, headers: Mapping[str, str] | None = None, timeout: float = 1.0
    ) -> Response:
        return await self.request("GET", cluster, path, headers=headers, timeout=timeout)

    async def post(
        self,
        cluster: str,
        path: str = "/",
        body: bytes | str = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 1.0,
    ) -> Response:
        return await self.request("POST", cluster, path, body, headers=headers, timeout=timeout)

    async def request(
        self,
        method: str,
        cluster: str,
        path: str,
        body: bytes | str = b"",
        *,
        headers: Mapping[str, str] | None = None,
        authority: str | None = None,
        timeout: float = 1.0,
    ) -> Response:
        """Send a request; the one being filtered waits meanwhile. HttpCallError if nothing comes back in time."""
        for what, value in (("cluster", cluster), ("method", method), ("path", path)):
            if not isinstance(value, str):
                raise TypeError(f"the {what} of a call must be str, not {type(value).__name__}")
        if not isinstance(body, (bytes, str)):
            raise TypeError(f"the body of a call must be bytes or str, not {type(body).__name__}")
        pairs: list[tuple[str, str]] = [(":method", method), (":path", path), (":authority", authority or cluster)]
        pairs += (headers or {}).items()
        try:
            call = host.http_call(cluster, encode_pairs(pairs), body, bytes(4), max(1, int(timeout * 1000)))
        except host.HostError as error:
            raise HttpCallError(f"cannot call cluster {cluster!r}: {error}") from None
        answer, content = await CallWait(call)
        status = _status(answer)
        if status is None:
            raise HttpCallError(f"no response from cluster {cluster!r} within {timeout} s")
        kept = [(name, value) for name, value in answer if not name.startswith(":")]
        return Response(status, content, kept)


def _status(pairs: Iterable[tuple[str, str]]) -> int | None:
    return next((int(value) for name, value in pairs if name == ":status"), None)
