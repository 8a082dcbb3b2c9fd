"""HTTP calls to a cluster of Envoy, awaited."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from filters.sdk import host
from filters.sdk.headers import encode_pairs, header_items
from filters.sdk.messages import Response
from filters.sdk.waiting import CallWait

HeadersArgument: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]] | None
LONGEST_SECONDS = 0xFFFFFFFF / 1000


class HttpCallError(Exception):
    """The call could not be made: Envoy has no such cluster."""


class HttpClient:
    """`await self.http.get("cluster", "/path")`."""

    __slots__ = ()

    async def get(
        self, cluster: str, path: str = "/", *, headers: HeadersArgument = None, timeout: float = 1.0
    ) -> Response:
        return await self.request("GET", cluster, path, headers=headers, timeout=timeout)

    async def post(
        self,
        cluster: str,
        path: str = "/",
        body: bytes | str = b"",
        *,
        headers: HeadersArgument = None,
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
        headers: HeadersArgument = None,
        authority: str | None = None,
        timeout: float = 1.0,
    ) -> Response:
        """Send a request; the one being filtered waits meanwhile, at most `timeout` seconds: then the answer is Envoy's 504.

        HttpCallError if it cannot be sent: there is no such cluster.
        """
        for what, value in (("cluster", cluster), ("method", method), ("path", path)):
            if not isinstance(value, str):
                raise TypeError(f"the {what} of a call must be str, not {type(value).__name__}")
        if not isinstance(body, (bytes, str)):
            raise TypeError(f"the body of a call must be bytes or str, not {type(body).__name__}")
        if path[:1] not in ("/", "*"):
            raise ValueError(f"the path of a call begins with /, not {path!r:.100}")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(f"the timeout of a call must be seconds, not {type(timeout).__name__}")
        if not 0 < timeout <= LONGEST_SECONDS:
            raise ValueError(f"the timeout of a call must be more than 0 seconds, and no more than 49 days: {timeout}")
        pairs: list[tuple[str, str]] = [(":method", method), (":path", path), (":authority", authority or cluster)]
        pairs += header_items(headers or ())
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
