"""What a test sees of a host, be it the fake or a real Envoy."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from filters.sdk.filter import HttpFilter
from filters.testing.messages import Answer, BodyArgument, Failure, HeadersArgument, LogLine, Upstream, UpstreamRequest

Cluster: TypeAlias = Upstream | Failure
"""What stands behind a cluster's name."""


class Shared(Protocol):
    """The shared data of the filter's VM, seen from another worker."""

    def get(self, key: str) -> bytes | None:
        """The value, if there is one."""

    def set(self, key: str, value: bytes | str) -> None:
        """Set the value whatever it was."""


class FilterHost(Protocol):
    """A filter with one configuration."""

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: HeadersArgument = (),
        body: BodyArgument | None = None,
        trailers: HeadersArgument = (),
        peer_identity: str | None = None,
    ) -> Answer:
        """Send a request through the filter and wait for its end, on_log included.

        A body that is an iterable of chunks is sent chunked, and so is one with trailers. With a `peer_identity` (spiffe://...)
        the client has a certificate with it, and the connection is mutual TLS.
        """

    def tick(self) -> None:
        """Let `on_tick` run once (the fake), or wait until it has (Envoy); ValueError if the filter has no tick_seconds."""

    def close(self) -> None:
        """Forget the filter; the fixture does it."""

    @property
    def calls(self) -> list[UpstreamRequest]:
        """What clusters have received of the filter's own requests, in order."""

    @property
    def logs(self) -> list[str]:
        """What the filter has printed and logged, a line each, tracebacks too."""

    @property
    def log_lines(self) -> list[LogLine]:
        """The same with levels."""

    @property
    def metrics(self) -> Mapping[str, int]:
        """The filter's counters and gauges by name."""

    @property
    def shared(self) -> Shared:
        """The shared data."""


class FilterHostFactory(Protocol):
    """The fixture `filter_host`."""

    def __call__(
        self,
        kind: type[HttpFilter],
        config: Mapping[str, object] | None = None,
        *,
        upstream: Cluster = ...,
        clusters: Mapping[str, Cluster] | None = None,
    ) -> FilterHost:
        """A host with the filter; ConfigError, with every reason, if the filter refuses its configuration.

        `config` is the JSON object a WasmPlugin would carry, options under `lateen` included. Requests that pass the filter go to
        `upstream`; `clusters` are those the filter can call: functions from UpstreamRequest to Response, DOWN or SILENT.
        """
