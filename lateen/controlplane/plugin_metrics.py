"""The metrics of plugins."""

from collections import Counter as Counts
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

_STATES = ("READY", "PENDING", "FAILED")


class PluginMetrics:
    """What is counted about plugins, in a registry of the caller's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything."""
        self.fetches = Counter("lateen_module_fetches", "Fetches of plugins' modules", ["outcome"], registry=registry)
        self.trials = Counter(
            "lateen_plugin_trials",
            "Plugins tried in an Envoy of their own: ok, refused, or failed (tried again)",
            ["outcome"],
            registry=registry,
        )
        self.natives = Counter(
            "lateen_modules_ahead_of_time",
            "Modules for which machine code was wanted: made, cached, or why the portable module is used",
            ["outcome"],
            registry=registry,
        )
        self._plugins = Gauge("lateen_plugins", "Plugins by how it stands with them", ["state"], registry=registry)

        self.stored = Gauge("lateen_modules_stored", "Modules of plugins on disk", registry=registry)

    def count(self, states: Iterable[str]) -> None:
        """Set the gauge."""
        counts = Counts(states)
        for state in _STATES:
            self._plugins.labels(state).set(counts[state])
