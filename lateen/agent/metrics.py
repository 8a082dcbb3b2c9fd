"""The agent's numbers as Prometheus text; names are Istio's where Istio has one. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from lateen.agent.rotation import State


@dataclass(frozen=True, slots=True)
class Sample:
    """One proxy's numbers."""

    proxy: str
    state: State
    not_after: datetime | None
    issued: int
    failed: int


def render_metrics(samples: Iterable[Sample], now: datetime) -> str:
    """Everything, in Prometheus' text format."""
    samples = sorted(samples, key=lambda sample: sample.proxy)
    states = Counter(sample.state for sample in samples)
    lines = _head("lateen_agent_proxies", "gauge", "proxies by the state of their identity")
    lines += [f'lateen_agent_proxies{{state="{state.value}"}} {states[state]}' for state in State]
    lines += _head("istio_agent_cert_expiry_seconds", "gauge", "seconds until the certificate served expires")
    lines += [
        f'istio_agent_cert_expiry_seconds{{resource_name="default",proxy="{sample.proxy}"}} '
        f"{(sample.not_after - now).total_seconds():.0f}"
        for sample in samples
        if sample.not_after is not None
    ]
    lines += _head("lateen_agent_certificates_total", "counter", "certificates obtained")
    lines += [f'lateen_agent_certificates_total{{proxy="{sample.proxy}"}} {sample.issued}' for sample in samples]
    lines += _head("lateen_agent_certificate_failures_total", "counter", "requests for a certificate that failed")
    lines += [
        f'lateen_agent_certificate_failures_total{{proxy="{sample.proxy}"}} {sample.failed}' for sample in samples
    ]
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
