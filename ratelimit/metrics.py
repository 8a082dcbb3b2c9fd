"""The service's own numbers, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """Every metric of one service, in a registry of its own. Labels come from configuration only, never from requests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._decisions = Counter(
            "lateen_ratelimit_decisions",
            "Descriptors decided, by limit and verdict (within, over, shadow).",
            ("policy", "limit", "verdict"),
            registry=self.registry,
        )
        self.store_failures = Counter(
            "lateen_ratelimit_store_failures",
            "Calls that could not be counted; Envoy applied the failure mode.",
            ("failure_mode",),
            registry=self.registry,
        )
        self.refused = Counter(
            "lateen_ratelimit_refused_calls",
            "Calls for an unknown workload, or by a caller of another namespace.",
            registry=self.registry,
        )
        self.remembered = Counter(
            "lateen_ratelimit_over_limit_remembered",
            "Descriptors answered from memory because their window was over its limit already.",
            registry=self.registry,
        )
        self.call_seconds = Histogram(
            "lateen_ratelimit_call_seconds",
            "Time in ShouldRateLimit.",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
            registry=self.registry,
        )
        self.store_up = Gauge("lateen_ratelimit_store_up", "Whether Redis answered last time.", registry=self.registry)
        for mode in ("allow", "deny"):
            self.store_failures.labels(failure_mode=mode)

    def decision(self, policy: str, limit: str, verdict: str) -> None:
        """Count one descriptor's verdict."""
        self._decisions.labels(policy=policy, limit=limit, verdict=verdict).inc()
