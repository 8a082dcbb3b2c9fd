"""Headers as Envoy keeps them (envoy/http/header_map.h): names in lower case, values bytes, several of one name side by side."""

from collections.abc import Iterable

# Envoy keeps each of these in one place: a second value is appended to the first (header_map.h, INLINE_REQ_HEADERS and so on,
# and what extensions register). tests/filters/kit/test_agreement.py asks the real one.
REQUEST_INLINE = frozenset(
    """
    :authority :method :path :protocol :scheme accept accept-encoding access-control-request-headers
    access-control-request-method authorization cache-control connection content-encoding content-length
    content-type expect grpc-accept-encoding grpc-timeout if-match if-modified-since if-none-match
    if-unmodified-since keep-alive origin pragma proxy-connection proxy-status referer te transfer-encoding
    upgrade user-agent via x-client-trace-id x-envoy-attempt-count x-envoy-decorator-operation
    x-envoy-downstream-service-cluster x-envoy-downstream-service-node x-envoy-expected-rq-timeout-ms
    x-envoy-external-address x-envoy-force-trace x-envoy-hedge-on-per-try-timeout x-envoy-internal
    x-envoy-ip-tags x-envoy-max-retries x-envoy-original-path x-envoy-original-url
    x-envoy-retriable-header-names x-envoy-retriable-status-codes x-envoy-retry-grpc-on x-envoy-retry-on
    x-envoy-upstream-alt-stat-name x-envoy-upstream-rq-per-try-timeout-ms
    x-envoy-upstream-rq-timeout-alt-response x-envoy-upstream-rq-timeout-ms x-forwarded-client-cert
    x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-request-id
    """.split()  # noqa: SIM905  (a list of one a line is no easier to read)
)
RESPONSE_INLINE = frozenset(
    """
    :status access-control-allow-credentials access-control-allow-headers access-control-allow-methods
    access-control-allow-origin access-control-expose-headers access-control-max-age age cache-control
    connection content-encoding content-length content-type date etag expires grpc-message grpc-status
    keep-alive last-modified location proxy-connection proxy-status server transfer-encoding upgrade vary via
    x-envoy-attempt-count x-envoy-decorator-operation x-envoy-degraded x-envoy-immediate-health-check-fail
    x-envoy-upstream-canary x-envoy-upstream-healthchecked-cluster x-envoy-upstream-service-time x-request-id
    """.split()  # noqa: SIM905  (a list of one a line is no easier to read)
)


class HeaderMap:
    """An ordered multimap, of a request (where Host is :authority) or of a response."""

    def __init__(self, pairs: Iterable[tuple[str, str | bytes]] = (), *, response: bool = False) -> None:
        self._inline = RESPONSE_INLINE if response else REQUEST_INLINE
        self._aliases = {} if response else {"host": ":authority"}
        self._pairs: list[tuple[str, bytes]] = []
        for name, value in pairs:
            self.add(name, _bytes(value))

    def pairs(self) -> list[tuple[str, bytes]]:
        """Everything, in order."""
        return list(self._pairs)

    def text_pairs(self) -> list[tuple[str, str]]:
        """As the SDK reads them."""
        return [(name, value.decode("utf-8", "surrogateescape")) for name, value in self._pairs]

    def get_all(self, name: str) -> list[bytes]:
        """The values of `name`."""
        return [value for key, value in self._pairs if key == name]

    def get(self, name: str) -> str:
        """The first value of `name`, empty if there is none."""
        return next((value.decode("utf-8", "surrogateescape") for key, value in self._pairs if key == name), "")

    def add(self, name: str, value: bytes) -> None:
        """One value more (HeaderMap::addCopy)."""
        name = self._name(name)
        if name in self._inline:
            for place, (key, old) in enumerate(self._pairs):
                if key == name:
                    self._pairs[place] = (name, old + b"," + value if old else value)
                    return
        self._pairs.append((name, value))

    def replace(self, name: str, value: bytes) -> None:
        """One value in place of all (HeaderMap::setCopy)."""
        name = self._name(name)
        for place, (key, _) in enumerate(self._pairs):
            if key == name:
                self._pairs[place] = (name, value)
                self._pairs = [pair for at, pair in enumerate(self._pairs) if at <= place or pair[0] != name]
                return
        self._pairs.append((name, value))

    def remove(self, name: str) -> None:
        """All values of `name`."""
        name = self._name(name)
        self._pairs = [pair for pair in self._pairs if pair[0] != name]

    def _name(self, name: str) -> str:
        name = name.lower()
        return self._aliases.get(name, name)

    def __len__(self) -> int:
        return len(self._pairs)

    def encode(self) -> bytes:
        """As Proxy-Wasm hands them out; nothing at all for an empty map."""
        if not self._pairs:
            return b""
        parts = [part for name, value in self._pairs for part in (name.encode(), value)]
        lengths = b"".join(len(part).to_bytes(4, "little") for part in parts)
        return len(self._pairs).to_bytes(4, "little") + lengths + b"".join(part + b"\0" for part in parts)


def decode_pairs(raw: bytes) -> list[tuple[str, bytes]]:
    """The inverse of `HeaderMap.encode`."""
    count = int.from_bytes(raw[:4], "little")
    at = 4 + 8 * count
    parts = []
    for place in range(2 * count):
        length = int.from_bytes(raw[4 + 4 * place : 8 + 4 * place], "little")
        parts.append(raw[at : at + length])
        at += length + 1
    return [(name.decode(), value) for name, value in zip(parts[::2], parts[1::2], strict=True)]


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
