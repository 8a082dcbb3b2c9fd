"""Services and ServiceEntries: nobody behind them, ports that lead nowhere, names that do not say the protocol."""

from lateen.mesh import kubernetes
from lateen.mesh.analyzers.report import SYSTEM_NAMESPACES, Report, label_text
from lateen.mesh.diagnostics import Severity
from lateen.mesh.hosts import service_host
from lateen.mesh.protocols import Protocol, parse_protocol
from lateen.mesh.serviceentry import ServiceEntry, ServiceEntryResolution


def analyze_services(report: Report) -> None:
    """All findings about services."""
    for resource in report.view.get("Service"):
        if isinstance(resource, kubernetes.Service) and resource.spec.type is not kubernetes.ServiceType.EXTERNAL_NAME:
            _service(report, resource)
    for entry in report.view.get("ServiceEntry"):
        if isinstance(entry, ServiceEntry):
            _entry(report, entry)


def _service(report: Report, resource: kubernetes.Service) -> None:
    found = report.view.services_named(service_host(resource.name, resource.namespace))
    service = next((service for service in found if service.origin == resource.key), None)
    if service is None:
        return
    system = resource.namespace in {*SYSTEM_NAMESPACES, report.view.root_namespace}
    for index, port in enumerate(service.ports):
        if port.protocol is Protocol.UNSUPPORTED and not system:
            message = f"the name of port {port.number} does not say its protocol, so proxies have to find out"
            hint = "set appProtocol, or begin the name with http-, http2-, grpc-, tls-, tcp- or the like"
            report.add("IST0118", Severity.INFO, resource, ("spec", "ports", index), message, hint)
    if service.selector is None:
        return
    workloads = [w for w in report.selected(resource.namespace, service.selector) if w.namespace == resource.namespace]
    if not workloads:
        severity = Severity.INFO if system else Severity.WARNING
        hint = report.label_hint(resource.namespace, service.selector)
        message = f"no workload of namespace {resource.namespace} has labels {label_text(service.selector)}"
        report.add("LTN0210", severity, resource, ("spec", "selector"), message, hint)
        return
    for index, port in enumerate(service.ports):
        healthy = any(workload.healthy for workload in workloads)
        if healthy and not report.view.endpoints(service, port):
            names = sorted({name for workload in workloads for name in workload.ports})
            message = f"port {port.number} has no endpoints: no workload has a port named {port.target_port}"
            fallback = f"their ports are named {', '.join(names)}" if names else "write the number of the port"
            meant = report.similar(str(port.target_port), names)
            hint = f'did you mean "{meant}"?' if meant else fallback
            report.add("LTN0211", Severity.WARNING, resource, ("spec", "ports", index, "targetPort"), message, hint)


def _entry(report: Report, entry: ServiceEntry) -> None:
    spec = entry.spec
    if spec.workload_selector is not None:
        labels = spec.workload_selector.labels
        if not any(found.namespace == entry.namespace for found in report.selected(entry.namespace, labels)):
            message = f"no workload of namespace {entry.namespace} has labels {label_text(labels)}"
            hint = report.label_hint(entry.namespace, labels)
            severity = Severity.WARNING if hint else Severity.INFO
            report.add("IST0127", severity, entry, ("spec", "workloadSelector", "labels"), message, hint)
    if spec.addresses or spec.resolution is ServiceEntryResolution.DYNAMIC_DNS:
        return
    for index, port in enumerate(spec.ports):
        if parse_protocol(port.protocol or "") in {Protocol.TCP, Protocol.UNSUPPORTED}:
            message = (
                f"port {port.number} carries {port.protocol or 'an unknown protocol'} but the entry has no addresses"
            )
            hint = "it captures every host on that port: set addresses, or the protocol if it is HTTP or TLS"
            report.add("IST0134", Severity.WARNING, entry, ("spec", "ports", index, "protocol"), message, hint)
