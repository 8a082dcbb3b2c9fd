"""What this service counts, in a registry of its own."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lateen.jwks.keeper import KeyStatus

_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)


class Metrics:
    """Counters of decisions, and gauges read when asked for."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = CollectorRegistry()
        self._decisions = Counter(
            "lateen_authz_decisions",
            "Decisions by verdict and deciding policy",
            ["verdict", "policy"],
            registry=self.registry,
        )
        self._counters: dict[tuple[str, str], Counter] = {}
        self._audit = Counter(
            "lateen_authz_audit_matches", "Requests that an AUDIT rule matched", ["policy"], registry=self.registry
        )
        self._dry_run = Counter(
            "lateen_authz_dry_run_decisions",
            "What the dry-run policies would have said, by verdict and deciding policy",
            ["verdict", "policy"],
            registry=self.registry,
        )
        self._dropped = Counter(
            "lateen_authz_decision_log_dropped",
            "Lines of the decision log over its limit, dropped",
            registry=self.registry,
        )
        self._seconds = Histogram(
            "lateen_authz_check_seconds",
            "Time from a decoded call to its answer",
            buckets=_BUCKETS,
            registry=self.registry,
        )

    def decided(self, verdict: str, policy: str, seconds: float) -> None:
        """Count one decision; policies are the operators' own, so their number is bounded."""
        counter = self._counters.get((verdict, policy))
        if counter is None:
            counter = self._counters[verdict, policy] = self._decisions.labels(verdict, policy)
        counter.inc()
        self._seconds.observe(seconds)

    def reported(self, audit: str, dry_run: str) -> None:
        """Count what decides nothing: the AUDIT policy that matched, and what dry-run policies said (`deny by NAMESPACE/NAME rule 0`)."""
        if audit:
            self._audit.labels(audit).inc()
        if dry_run:
            verdict, _, rule = dry_run.partition(" by ")
            self._dry_run.labels(verdict.partition(":")[0], rule.partition(" ")[0] or "none").inc()

    def log_dropped(self) -> None:
        """Count a line of the decision log that was not written."""
        self._dropped.inc()

    def watch(
        self,
        keys: Callable[[], Iterable[KeyStatus]],
        gauges: Iterable[tuple[str, str, Callable[[], float]]],
    ) -> None:
        """Expose the state of the key sources, and gauges given as (name, help, value)."""
        self.registry.register(_State(keys, tuple(gauges)))

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)


class _State(Collector):
    def __init__(
        self, keys: Callable[[], Iterable[KeyStatus]], gauges: tuple[tuple[str, str, Callable[[], float]], ...]
    ) -> None:
        self._keys = keys
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("lateen_jwks_up", "Whether the last fetch of a key source succeeded", labels=["uri"])
        held = GaugeMetricFamily("lateen_jwks_keys", "Keys held of a key source", labels=["uri"])
        age = GaugeMetricFamily("lateen_jwks_age_seconds", "Age of the keys held of a key source", labels=["uri"])
        for status in self._keys():
            up.add_metric([status.uri], float(not status.failures and status.age is not None))
            held.add_metric([status.uri], float(status.keys))
            if status.age is not None:
                age.add_metric([status.uri], status.age)
        yield from (up, held, age)
        for name, text, value in self._gauges:
            yield GaugeMetricFamily(name, text, value=value())
