"""What a server counts, for Prometheus."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lateen.wire.server import Server


class ServerMetrics(Collector):
    """Reads `Server.stats` when it is asked. Reasons come from our own code, so the number of series is bounded."""

    def __init__(self, server: Server) -> None:
        """Of one server."""
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """The numbers now."""
        stats = self._server.stats
        yield GaugeMetricFamily("lateen_wire_open_connections", "Connections now", value=stats.open_connections)
        yield GaugeMetricFamily("lateen_wire_calls_in_flight", "Calls whose answer is awaited", value=stats.in_flight)
        yield CounterMetricFamily("lateen_wire_connections", "Connections accepted", value=stats.connections)
        yield CounterMetricFamily("lateen_wire_calls", "Calls handed to a handler", value=stats.calls)
        refused = CounterMetricFamily(
            "lateen_wire_refused", "Connections, streams and calls refused or ended, by reason", labels=["reason"]
        )
        for reason, count in sorted(stats.refused.items()):
            refused.add_metric([reason], count)
        yield refused
