"""The control plane's Prometheus metrics, under Istio's names so that its dashboards and alerts keep working."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from lateen.controlplane.names import CDS, ECDS, EDS, LDS, RDS, SDS, WORKLOAD_LIMITS, WORKLOAD_POLICY
from lateen.controlplane.plugin_metrics import PluginMetrics

SHORT_NAMES = {
    CDS: "CDS",
    EDS: "EDS",
    LDS: "LDS",
    RDS: "RDS",
    SDS: "SDS",
    ECDS: "ECDS",
    WORKLOAD_POLICY: "POLICY",
    WORKLOAD_LIMITS: "LIMITS",
}
"""The names of types in `proxy-status`; in metrics they are in lower case."""

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0)
_BYTES = (1e3, 1e4, 1e5, 1e6, 4e6, 1e7, 4e7)


def label_of(type_url: str) -> str:
    """The value of the label `type`."""
    return SHORT_NAMES.get(type_url, "other").lower()


class Metrics:
    """One control plane's metrics, in a registry of their own."""

    def __init__(self, version: str) -> None:
        """Register everything."""
        registry = CollectorRegistry()
        self.registry = registry
        ProcessCollector(registry=registry)
        self.connections = Gauge("pilot_xds", "Open xDS streams", ["type"], registry=registry)
        self.pushes = Counter("pilot_xds_pushes", "Responses sent", ["type"], registry=registry)
        self.size = Histogram(
            "pilot_xds_config_size_bytes", "Size of responses", ["type"], buckets=_BYTES, registry=registry
        )
        self.rejects = Counter("pilot_total_xds_rejects", "Responses refused by a proxy", ["type"], registry=registry)
        self.refused = {
            type_url: Gauge(
                f"pilot_xds_{label_of(type_url)}_reject", f"Resources of {short} refused at present", registry=registry
            )
            for type_url, short in SHORT_NAMES.items()
        }
        self.convergence = Histogram(
            "pilot_proxy_convergence_time",
            "Seconds between a change and its acknowledgement by a proxy",
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_time = Histogram(
            "pilot_proxy_queue_time",
            "Seconds between a change and the snapshot of a proxy",
            buckets=_SECONDS,
            registry=registry,
        )
        self.push_time = Histogram(
            "pilot_xds_push_time", "Seconds to compute one proxy's snapshot", buckets=_SECONDS, registry=registry
        )
        self.view_time = Histogram(
            "pilot_pushcontext_init_seconds", "Seconds to build a view of the mesh", buckets=_SECONDS, registry=registry
        )
        self.debounce_time = Histogram(
            "pilot_debounce_time",
            "Seconds from the first change to the view that holds it",
            buckets=_SECONDS,
            registry=registry,
        )
        self.triggers = Counter("pilot_push_triggers", "What made pushes necessary", ["type"], registry=registry)
        self.internal_errors = Counter(
            "pilot_total_xds_internal_errors", "Snapshots or views that could not be computed", registry=registry
        )
        self.denied = Counter(
            "lateen_xds_denied", "Streams refused because of the peer's identity or its requests", registry=registry
        )
        self.gated = Counter(
            "lateen_xds_policy_waits",
            "Listener pushes that waited for ext_authz to take a policy",
            ["outcome"],
            registry=registry,
        )
        self.services = Gauge("pilot_services", "Services known", registry=registry)
        self.virtual_services = Gauge("pilot_virt_services", "VirtualServices known", registry=registry)
        self.diagnostics = Gauge(
            "lateen_config_diagnostics", "Findings in the configuration", ["severity"], registry=registry
        )
        self.file_errors = Gauge("lateen_config_broken_files", "Files whose last good content stays", registry=registry)
        self.plugins = PluginMetrics(registry)
        Gauge("pilot_info", "The control plane's version", ["version"], registry=registry).labels(version).set(1)

    def render(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)
