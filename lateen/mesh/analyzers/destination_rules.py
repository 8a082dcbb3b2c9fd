"""DestinationRule: hosts that do not exist, subsets that select nobody, TLS that contradicts a PeerAuthentication."""

from collections.abc import Mapping

from lateen.mesh.analyzers.report import Report, label_text
from lateen.mesh.destinationrule import ClientTLSSettings, DestinationRule, PortTrafficPolicy, TLSmode
from lateen.mesh.diagnostics import Severity
from lateen.mesh.hosts import covers, fqdn, is_wildcard
from lateen.mesh.peerauthentication import MutualTlsMode
from lateen.mesh.services import Endpoint, Service
from lateen.mesh.yaml_source import Path

_SHOWN_VALUES = 8
_TOPOLOGY = (
    "topology.istio.io/",
    "topology.kubernetes.io/",
    "failure-domain.beta.kubernetes.io/",
    "kubernetes.io/hostname",
)


def analyze_destination_rules(report: Report) -> None:
    """All findings about DestinationRules."""
    for rule in report.view.get("DestinationRule"):
        if isinstance(rule, DestinationRule):
            services = _services(report, rule)
            if services:
                _subsets(report, rule, services)
                _mutual_tls(report, rule, services)
            else:
                _unknown_host(report, rule)


def _services(report: Report, rule: DestinationRule) -> list[Service]:
    host = fqdn(rule.spec.host, rule.namespace)
    if is_wildcard(host):
        return [service for name, service in report.view.services.items() if covers(host, name)]
    service = report.service(rule.spec.host, rule.namespace)
    # A rule may stand with the clients of a service that is hidden from its own namespace.
    return [service] if service else list(report.view.services_named(host))


def _unknown_host(report: Report, rule: DestinationRule) -> None:
    host = fqdn(rule.spec.host, rule.namespace)
    # `*.local` and the like are written for services yet to come.
    if (is_wildcard(host) and covers(host, "a.b.svc.cluster.local")) or report.is_generated_host(host):
        return
    severity = Severity.INFO if report.is_system_host(host) else Severity.WARNING
    hint = report.host_hint(rule.spec.host, rule.namespace)
    report.add("IST0101", severity, rule, ("spec", "host"), f"host {host} does not exist", hint)


def _subsets(report: Report, rule: DestinationRule, services: list[Service]) -> None:
    endpoints = [e for service in services for port in service.ports for e in report.view.endpoints(service, port)]
    if not endpoints:
        return  # reported where the service is
    for index, subset in enumerate(rule.spec.subsets):
        wanted = {key: value for key, value in subset.labels.items() if not key.startswith(_TOPOLOGY)}
        if any(all(endpoint.labels.get(key) == value for key, value in wanted.items()) for endpoint in endpoints):
            continue
        message = f"subset {subset.name} selects no endpoint: none has labels {label_text(wanted)}"
        hint = _labels_hint(wanted, endpoints)
        report.add("IST0173", Severity.WARNING, rule, ("spec", "subsets", index, "labels"), message, hint)


def _labels_hint(wanted: Mapping[str, str], endpoints: list[Endpoint]) -> str:
    """The values that the endpoints do have for the first label that none of them has."""
    for key, value in sorted(wanted.items()):
        values = sorted({endpoint.labels[key] for endpoint in endpoints if key in endpoint.labels})
        if value not in values:
            few = ", ".join(values[:_SHOWN_VALUES])
            return f"{key} of the endpoints is {few}" if values else f"no endpoint has a label {key}"
    return "no endpoint has all of these labels"


def _mutual_tls(report: Report, rule: DestinationRule, services: list[Service]) -> None:
    """A rule that forbids mutual TLS towards workloads that demand it breaks every call, and the other way round."""
    policy = rule.spec.traffic_policy
    if policy is None:
        return
    _conflict(report, rule, ("spec", "trafficPolicy", "tls", "mode"), policy.tls, services=services, only=None)
    for index, setting in enumerate(policy.port_level_settings):
        path: Path = ("spec", "trafficPolicy", "portLevelSettings", index, "tls", "mode")
        number = setting.port.number if setting.port else None
        if number is not None:
            _conflict(report, rule, path, setting.tls, services=services, only=number)


def _conflict(
    report: Report,
    rule: DestinationRule,
    path: Path,
    tls: ClientTLSSettings | None,
    *,
    services: list[Service],
    only: int | None,
) -> None:
    if tls is None or tls.mode not in {TLSmode.DISABLE, TLSmode.ISTIO_MUTUAL}:
        return
    refused = MutualTlsMode.STRICT if tls.mode is TLSmode.DISABLE else MutualTlsMode.DISABLE
    own_ports = {setting.port.number for setting in _port_settings(rule) if setting.port} if only is None else set()
    for service in services:
        for port in service.ports:
            if port.number in own_ports or (only is not None and port.number != only):
                continue
            for endpoint in report.view.endpoints(service, port):
                workload = endpoint.workload
                if workload is None:
                    continue
                if report.view.mtls_mode(workload.namespace, workload.labels, endpoint.port) is refused:
                    applying = report.view.peer_authentications(workload.namespace, workload.labels)
                    source = f"{applying[0].key} " if applying else ""
                    message = f"{tls.mode} towards {service.hostname}:{port.number}, but {source}makes it {refused}"
                    hint = "remove tls: mutual TLS is then chosen by what each endpoint accepts"
                    report.add("IST0113", Severity.ERROR, rule, path, message, hint)
                    return


def _port_settings(rule: DestinationRule) -> tuple[PortTrafficPolicy, ...]:
    return rule.spec.traffic_policy.port_level_settings if rule.spec.traffic_policy else ()
