"""Gateways of both APIs: workloads, certificates, conflicts, and routes that do not attach or whose backends are missing."""

from collections.abc import Iterable, Iterator, Sequence

from lateen.mesh import gateway as istio
from lateen.mesh import gatewayapi
from lateen.mesh.analyzers.report import Report, label_text
from lateen.mesh.diagnostics import Severity
from lateen.mesh.gateway_attachment import (
    DEFAULT_CLASSES,
    GROUP,
    PRIVILEGED_OFFSET,
    BackendResolution,
    ListenerStatus,
    bind_port,
)
from lateen.mesh.hosts import service_host
from lateen.mesh.httproute import BackendObjectReference, HTTPRoute
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.workloads import Workload
from lateen.mesh.yaml_source import Path

_INSTALLED_WITH_ISTIO = frozenset({"egressgateway", "eastwestgateway"})
_CLASSES_TO_COME = frozenset({"istio-waypoint", "istio-east-west", "istio-remote"})
_REFUSED_CODES = {"RefNotPermitted": "LTN0202", "InvalidKind": "LTN0203", "BackendNotFound": "IST0101"}


def analyze_gateways(report: Report) -> None:
    """All findings about Gateways and HTTPRoutes."""
    gateways = [gateway for gateway in report.view.get("IstioGateway") if isinstance(gateway, istio.Gateway)]
    selected = _selected(report, gateways)
    for gateway in gateways:
        workloads = selected[gateway.key]
        if gateway.spec.selector and not workloads:
            _selects_nothing(report, gateway)
        _credentials(report, gateway, workloads)
    _conflicts(report, gateways)
    _taken_ports(report, gateways, selected)
    for status in (report.view.gateway_status(gateway.key) for gateway in report.view.k8s_gateways()):
        for listener in status.listeners:
            if listener.reason:
                _listener(report, status.gateway, listener)
        for parent in status.parents:
            if parent.reason:
                path: Path = ("spec", "parentRefs", parent.index)
                report.add(
                    "LTN0201", Severity.ERROR, parent.route, path, f"not attached ({parent.reason}): {parent.message}"
                )
    _classes(report)
    for route in report.view.get("HTTPRoute"):
        if isinstance(route, HTTPRoute):
            _parents(report, route)
            _backends(report, route)


# Istio's Gateway


def _selected(report: Report, gateways: Iterable[istio.Gateway]) -> dict[ResourceKey, list[Workload]]:
    found: dict[ResourceKey, list[Workload]] = {gateway.key: [] for gateway in gateways}
    for workload in report.view.workloads:
        for gateway in report.view.istio_gateways(workload):
            found[gateway.key].append(workload)
    return found


def _selects_nothing(report: Report, gateway: istio.Gateway) -> None:
    selector = gateway.spec.selector
    message = f"no workload has labels {label_text(selector)}"
    if selector.get("istio") in _INSTALLED_WITH_ISTIO:
        hint = "of Istio's own gateways only the ingress gateway is here: declare a Gateway API Gateway or a Deployment"
        report.add("IST0101", Severity.WARNING, gateway, ("spec", "selector"), message, hint)
        return
    hint = report.label_hint(report.view.root_namespace, selector)
    report.add("IST0101", Severity.ERROR, gateway, ("spec", "selector"), message, hint)


def _credentials(report: Report, gateway: istio.Gateway, workloads: Sequence[Workload]) -> None:
    """A gateway reads Secrets of the namespace its own workloads run in."""
    namespaces = sorted({workload.namespace for workload in workloads}) or [gateway.namespace]
    for index, server in enumerate(gateway.spec.servers):
        for path, name in _credential_names(server):
            if "://" in name:
                continue
            for namespace in namespaces:
                if not report.view.secret(namespace, name):
                    message = f"Secret {namespace}/{name} does not exist"
                    at: Path = ("spec", "servers", index, "tls", *path)
                    report.add("IST0101", Severity.WARNING, gateway, at, message, _secret_hint(report, namespace, name))


def _credential_names(server: istio.Server) -> Iterator[tuple[Path, str]]:
    if server.tls is None:
        return
    if server.tls.credential_name:
        yield ("credentialName",), server.tls.credential_name
    for number, name in enumerate(server.tls.credential_names):
        yield ("credentialNames", number), name
    if server.tls.ca_cert_credential_name:
        yield ("caCertCredentialName",), server.tls.ca_cert_credential_name


def _secret_hint(report: Report, namespace: str, name: str) -> str:
    secrets = report.view.get("Secret")
    elsewhere = sorted(secret.namespace for secret in secrets if secret.name == name and secret.namespace != namespace)
    if elsewhere:
        return f"it exists in namespace {elsewhere[0]}, but it must stand in {namespace}, where the gateway runs"
    meant = report.similar(name, [secret.name for secret in secrets if secret.namespace == namespace])
    return f'did you mean "{meant}"?' if meant else "add the Secret, or let lateen.yaml make it (certificates)"


def _conflicts(report: Report, gateways: Iterable[istio.Gateway]) -> None:
    """The same selector, port and host in two servers: the older one has it."""
    taken: dict[tuple[str, int, str, str], istio.Gateway] = {}
    for gateway in gateways:
        for index, server in enumerate(gateway.spec.servers):
            for number, host in enumerate(server.hosts):
                key = (label_text(gateway.spec.selector), server.port.number, server.bind or "", host)
                older = taken.setdefault(key, gateway)
                if older is not gateway:
                    message = (
                        f"{older.key} already serves host {host} on port {server.port.number} of the same workloads"
                    )
                    path: Path = ("spec", "servers", index, "hosts", number)
                    report.add(
                        "IST0145",
                        Severity.ERROR,
                        gateway,
                        path,
                        message,
                        "merge both Gateways, or use another host or port",
                    )


def _taken_ports(
    report: Report, gateways: Iterable[istio.Gateway], selected: dict[ResourceKey, list[Workload]]
) -> None:
    """Ports below 1024 are bound higher, where another server of the same workload may be."""
    bound: dict[tuple[str, int], int] = {}
    for workload in report.view.workloads:
        own = report.view.k8s_gateway_of(workload)
        for listener in own.spec.listeners if own else ():
            bound.setdefault((workload.key, bind_port(listener.port)), listener.port)
    for gateway in gateways:
        for index, server in enumerate(gateway.spec.servers):
            number = server.port.number
            for key in dict.fromkeys(workload.key for workload in selected[gateway.key]):
                other = bound.setdefault((key, bind_port(number)), number)
                if other != number:
                    message = f"port {number} and port {other} of {key} are both bound at {bind_port(number)}"
                    hint = f"ports below 1024 are bound {PRIVILEGED_OFFSET} higher: choose another port"
                    report.add(
                        "LTN0208", Severity.ERROR, gateway, ("spec", "servers", index, "port", "number"), message, hint
                    )
                    break


# Gateway API


def _classes(report: Report) -> None:
    declared = {gateway_class.name for gateway_class in report.view.get("GatewayClass")} | DEFAULT_CLASSES
    for gateway in report.view.get("Gateway"):
        name = gateway.spec.gateway_class_name if isinstance(gateway, gatewayapi.Gateway) else ""
        path: Path = ("spec", "gatewayClassName")
        if name in _CLASSES_TO_COME:
            report.add("LTN0207", Severity.WARNING, gateway, path, f"Gateways of class {name} are not served yet")
        elif name not in declared:
            meant = report.similar(name, declared)
            hint = (
                f'did you mean "{meant}"?'
                if meant
                else f"Lateen serves the classes {', '.join(sorted(DEFAULT_CLASSES))}"
            )
            report.add("IST0101", Severity.WARNING, gateway, path, f"GatewayClass {name} does not exist", hint)


def _listener(report: Report, gateway: gatewayapi.Gateway, status: ListenerStatus) -> None:
    at: Path = ("spec", "listeners", status.index, *status.path)
    if not status.accepted:
        message = f"listener not accepted ({status.reason}): {status.message}"
        severity = Severity.WARNING if status.reason == "UnsupportedProtocol" else Severity.ERROR
        report.add("LTN0207", severity, gateway, at, message)
    elif status.reason == "RefNotPermitted":
        hint = "add a ReferenceGrant there, or copy the Secret to the namespace of the Gateway"
        report.add("LTN0202", Severity.ERROR, gateway, at, status.message, hint)
    elif status.path[-1:] == ("name",):
        _missing_certificate(report, gateway, status.index, at, status.message)
    else:
        message = f"listener with unresolved references ({status.reason}): {status.message}"
        report.add("LTN0207", Severity.WARNING, gateway, at, message)


def _missing_certificate(report: Report, gateway: gatewayapi.Gateway, index: int, path: Path, message: str) -> None:
    tls = gateway.spec.listeners[index].tls
    position = path[-2]
    if tls is None or not isinstance(position, int):
        return
    ref = tls.certificate_refs[position]
    namespace = ref.namespace or gateway.namespace
    if not report.view.secret(namespace, ref.name):
        report.add("IST0101", Severity.WARNING, gateway, path, message, _secret_hint(report, namespace, ref.name))


def _parents(report: Report, route: HTTPRoute) -> None:
    for index, ref in enumerate(route.spec.parent_refs):
        path: Path = ("spec", "parentRefs", index)
        if (ref.group, ref.kind) != (GROUP, "Gateway"):
            message = f"a route attaches to Gateways only, a parent of kind {ref.kind} has no effect yet"
            report.add("LTN0203", Severity.WARNING, route, (*path, "kind"), message)
            continue
        namespace = ref.namespace or route.namespace
        if report.view.resource(ResourceKey("Gateway", namespace, ref.name)) is None:
            message = f"Gateway {namespace}/{ref.name} does not exist"
            report.add(
                "IST0101", Severity.ERROR, route, (*path, "name"), message, _parent_hint(report, namespace, ref.name)
            )


def _parent_hint(report: Report, namespace: str, name: str) -> str:
    gateways = report.view.get("Gateway")
    elsewhere = sorted(gateway.namespace for gateway in gateways if gateway.name == name)
    if elsewhere:
        return f"it exists in namespace {elsewhere[0]}: add namespace: {elsewhere[0]}"
    meant = report.similar(name, [gateway.name for gateway in gateways if gateway.namespace == namespace])
    if meant:
        return f'did you mean "{meant}"?'
    if report.view.resource(ResourceKey("IstioGateway", namespace, name)) is not None:
        return "a networking.istio.io Gateway of that name exists: it takes VirtualServices"
    return ""


def _backends(report: Report, route: HTTPRoute) -> None:
    for path, ref in _backend_refs(route):
        if ref.name and report.is_generated_host(service_host(ref.name, ref.namespace or route.namespace)):
            continue
        found = report.view.resolve_backend(route, ref)
        if found.reason:
            field = "kind" if found.reason == "InvalidKind" else "port" if found.service else "name"
            hint = _backend_hint(report, route, ref, found)
            report.add(_REFUSED_CODES[found.reason], Severity.ERROR, route, (*path, field), found.message, hint)


def _backend_refs(route: HTTPRoute) -> Iterator[tuple[Path, BackendObjectReference]]:
    for index, rule in enumerate(route.spec.rules):
        at: Path = ("spec", "rules", index)
        for number, filter_ in enumerate(rule.filters):
            if filter_.request_mirror is not None:
                yield (*at, "filters", number, "requestMirror", "backendRef"), filter_.request_mirror.backend_ref
        for number, ref in enumerate(rule.backend_refs):
            yield (*at, "backendRefs", number), ref


def _backend_hint(report: Report, route: HTTPRoute, ref: BackendObjectReference, found: BackendResolution) -> str:
    namespace = ref.namespace or route.namespace
    if found.reason == "RefNotPermitted":
        return f"add a ReferenceGrant to namespace {namespace}: from HTTPRoute of {route.namespace}, to Service"
    if found.service is not None:
        return f"its ports are {', '.join(str(port.number) for port in found.service.ports)}"
    services = [service for service in report.view.services.values() if service.is_kubernetes]
    elsewhere = sorted(service.namespace for service in services if service.name == ref.name)
    if found.reason == "BackendNotFound" and elsewhere:
        return f"it exists in namespace {elsewhere[0]}: add namespace: {elsewhere[0]}, and a ReferenceGrant there"
    meant = report.similar(ref.name, [service.name for service in services if service.namespace == namespace])
    return f'did you mean "{meant}"?' if meant and found.reason == "BackendNotFound" else ""
