"""VirtualService: destinations, gateways, conflicts on the mesh gateway, and rules that are never reached."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from lateen.mesh import gateway as istio
from lateen.mesh.analyzers.report import Report
from lateen.mesh.analyzers.unreachable import unreachable_rules
from lateen.mesh.destinationrule import DestinationRule
from lateen.mesh.diagnostics import Severity
from lateen.mesh.hosts import HostIndex, covers, fqdn
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.scopes import MESH, gateway_name
from lateen.mesh.services import Service, exported
from lateen.mesh.virtualservice import Destination, VirtualService
from lateen.mesh.yaml_source import Path

_CLAIM = "@request.auth.claims"


def analyze_virtual_services(report: Report) -> None:
    """All findings about VirtualServices."""
    subsets = _Subsets(report)
    gateways = {f"{g.namespace}/{g.name}": g for g in report.view.get("IstioGateway") if isinstance(g, istio.Gateway)}
    services = [vs for vs in report.view.get("VirtualService") if isinstance(vs, VirtualService)]
    for service in services:
        for path, destination in destinations(service):
            _destination(report, service, path, destination, subsets)
        _gateways(report, service, gateways)
        _delegates(report, service)
        unreachable_rules(report, service)
    _mesh_conflicts(report, services)
    _claims(report, services, gateways)


def destinations(service: VirtualService) -> Iterator[tuple[Path, Destination]]:
    """Everything it may send traffic to, with the path of each."""
    spec = service.spec
    for index, http in enumerate(spec.http):
        at: Path = ("spec", "http", index)
        for number, weighted in enumerate(http.route):
            yield (*at, "route", number, "destination"), weighted.destination
        if http.mirror is not None:
            yield (*at, "mirror"), http.mirror
        for number, mirror in enumerate(http.mirrors):
            yield (*at, "mirrors", number, "destination"), mirror.destination
    for index, tls in enumerate(spec.tls):
        for number, target in enumerate(tls.route):
            yield ("spec", "tls", index, "route", number, "destination"), target.destination
    for index, tcp in enumerate(spec.tcp):
        for number, target in enumerate(tcp.route):
            yield ("spec", "tcp", index, "route", number, "destination"), target.destination


def _destination(
    report: Report, owner: VirtualService, path: Path, destination: Destination, subsets: "_Subsets"
) -> None:
    name = fqdn(destination.host, owner.namespace)
    service = report.service(destination.host, owner.namespace)
    if service is None:
        if not report.is_generated_host(name):
            severity = Severity.INFO if report.is_system_host(name) else Severity.ERROR
            hint = report.host_hint(destination.host, owner.namespace)
            report.add("IST0101", severity, owner, (*path, "host"), f"host {name} does not exist", hint)
        return
    _port(report, owner, path, destination, service)
    if destination.subset is not None:
        known = subsets.of(owner, name, service)
        if destination.subset not in known:
            message = f"no DestinationRule defines subset {destination.subset} of {name}"
            report.add(
                "IST0101",
                Severity.ERROR,
                owner,
                (*path, "subset"),
                message,
                _subset_hint(report, destination.subset, name, known),
            )


def _subset_hint(report: Report, subset: str, host: str, known: frozenset[str]) -> str:
    meant = report.similar(subset, known)
    if meant:
        return f'did you mean "{meant}"?'
    if known:
        return f"defined subsets: {', '.join(sorted(known))}"
    return f"add a DestinationRule for {host} with this subset"


def _port(report: Report, owner: VirtualService, path: Path, destination: Destination, service: Service) -> None:
    numbers = [port.number for port in service.ports]
    listed = ", ".join(map(str, numbers))
    wanted = destination.port.number if destination.port else None
    if wanted is None:
        if len(numbers) > 1:
            message = f"{service.hostname} has several ports, so the destination must say which"
            report.add("IST0112", Severity.ERROR, owner, path, message, f"add port: {{number: ...}}, one of {listed}")
    elif wanted not in numbers:
        message = f"{service.hostname} has no port {wanted}"
        hint = f"its ports are {listed}" if numbers else "it declares no ports"
        report.add("IST0101", Severity.ERROR, owner, (*path, "port", "number"), message, hint)


class _Subsets:
    """Which subsets of a host a DestinationRule defines that could count for clients of the VirtualService."""

    def __init__(self, report: Report) -> None:
        self._view = report.view
        self._default = self._view.mesh.default_destination_rule_export_to or ("*",)
        rules = [rule for rule in self._view.get("DestinationRule") if isinstance(rule, DestinationRule)]
        self._rules = HostIndex((fqdn(rule.spec.host, rule.namespace), rule) for rule in rules)

    def of(self, owner: VirtualService, host: str, service: Service) -> frozenset[str]:
        near = {owner.namespace, service.namespace, self._view.root_namespace}
        rules = [rule for group in self._rules.matches(host) for rule in group]
        seen = [
            rule
            for rule in rules
            if rule.namespace in near or exported(rule.spec.export_to or self._default, rule.namespace, owner.namespace)
        ]
        return frozenset(subset.name for rule in seen for subset in rule.spec.subsets)


def _gateways(report: Report, service: VirtualService, known: Mapping[str, istio.Gateway]) -> None:
    for path, name in _gateway_names(service):
        full = gateway_name(name, service.namespace)
        if full == MESH:
            continue
        gateway = known.get(full)
        if gateway is None:
            report.add(
                "IST0101",
                Severity.ERROR,
                service,
                path,
                f"Gateway {full} does not exist",
                _gateway_hint(report, name, full, known),
            )
        elif path[1] == "gateways":
            _hosts_in_gateway(report, service, gateway)


def _gateway_names(service: VirtualService) -> Iterator[tuple[Path, str]]:
    for number, name in enumerate(service.spec.gateways):
        yield ("spec", "gateways", number), name
    spec = service.spec
    matches: list[tuple[Path, tuple[str, ...]]] = []
    for index, http in enumerate(spec.http):
        matches += [(("spec", "http", index, "match", number), m.gateways) for number, m in enumerate(http.match)]
    for index, tls in enumerate(spec.tls):
        matches += [(("spec", "tls", index, "match", number), m.gateways) for number, m in enumerate(tls.match)]
    for index, tcp in enumerate(spec.tcp):
        matches += [(("spec", "tcp", index, "match", number), m.gateways) for number, m in enumerate(tcp.match)]
    for path, names in matches:
        for position, name in enumerate(names):
            yield (*path, "gateways", position), name


def _gateway_hint(report: Report, name: str, full: str, known: Collection[str]) -> str:
    namespace, _, short = full.partition("/")
    if report.view.resource(ResourceKey("Gateway", namespace, short)) is not None:
        return "a Gateway API Gateway of that name exists: attach an HTTPRoute to it, or declare a networking.istio.io Gateway"
    elsewhere = sorted(other for other in known if other.endswith(f"/{short}"))
    if elsewhere:
        return f'a name without namespace means one of namespace {namespace}: did you mean "{elsewhere[0]}"?'
    meant = report.similar(full, known)
    own = meant.removeprefix(f"{namespace}/") if "/" not in name else meant
    return f'did you mean "{own}"?' if meant else ""


def _hosts_in_gateway(report: Report, service: VirtualService, gateway: istio.Gateway) -> None:
    served = [entry.rpartition("/") for server in gateway.spec.servers for entry in server.hosts]
    patterns = [
        host
        for scope, _, host in served
        if scope in {"", "*", service.namespace} or (scope == "." and gateway.namespace == service.namespace)
    ]
    for number, host in enumerate(service.spec.hosts):
        if not any(covers(pattern, host) or covers(host, pattern) for pattern in patterns):
            message = f"no server of Gateway {gateway.namespace}/{gateway.name} serves {host}"
            hosts = ", ".join(dict.fromkeys("".join(parts) for parts in served))
            report.add(
                "IST0132",
                Severity.WARNING,
                service,
                ("spec", "hosts", number),
                message,
                f"it serves {hosts}" if hosts else "",
            )


def _delegates(report: Report, service: VirtualService) -> None:
    for index, http in enumerate(service.spec.http):
        if http.delegate is None:
            continue
        namespace = http.delegate.namespace or service.namespace
        key = ResourceKey("VirtualService", namespace, http.delegate.name or "")
        if report.view.resource(key) is None:
            known = [other.name for other in report.view.get("VirtualService") if other.namespace == namespace]
            meant = report.similar(key.name, known)
            hint = f'did you mean "{meant}"?' if meant else ""
            path = ("spec", "http", index, "delegate", "name")
            report.add("IST0101", Severity.ERROR, service, path, f"{key} does not exist", hint)


def _claims(report: Report, services: Iterable[VirtualService], gateways: Mapping[str, istio.Gateway]) -> None:
    """Claims are only known where a RequestAuthentication has verified the token: at the gateway."""
    unverified = {
        f"{gateway.namespace}/{gateway.name}": workload.key
        for workload in report.view.workloads
        if not any(ra.spec.jwt_rules for ra in report.view.request_authentications(workload))
        for gateway in report.view.istio_gateways(workload)
    }
    for service in services:
        names = [gateway_name(name, service.namespace) for name in service.spec.gateways]
        blind = next((unverified[name] for name in names if name in gateways and name in unverified), None)
        for path, header in _claim_headers(service) if blind else ():
            message = f"{header} is never known at {blind}: no RequestAuthentication verifies tokens there"
            hint = "add a RequestAuthentication that selects the gateway"
            report.add("IST0149", Severity.ERROR, service, path, message, hint)


def _claim_headers(service: VirtualService) -> Iterator[tuple[Path, str]]:
    for index, http in enumerate(service.spec.http):
        for number, match in enumerate(http.match):
            for field, headers in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
                for header in headers:
                    if header.startswith(_CLAIM):
                        yield ("spec", "http", index, "match", number, field, header), header


def _mesh_conflicts(report: Report, services: Iterable[VirtualService]) -> None:
    """Two VirtualServices of the mesh with one host, both visible somewhere: only the older one counts."""
    default = report.view.mesh.default_virtual_service_export_to or ("*",)
    taken: dict[str, list[tuple[VirtualService, frozenset[str]]]] = {}
    for service in services:
        if MESH not in (service.spec.gateways or (MESH,)):
            continue
        scope = frozenset(service.namespace if name == "." else name for name in service.spec.export_to or default)
        for number, host in enumerate(service.spec.hosts):
            name = fqdn(host, service.namespace)
            rivals = taken.setdefault(name, [])
            older = next((rival for rival, seen in rivals if rival is not service and _overlap(seen, scope)), None)
            if older is not None:
                message = f"{older.key} has the same host {name} on the mesh gateway and counts, because it is older"
                hint = "put all rules of a host into one VirtualService"
                report.add("IST0109", Severity.ERROR, service, ("spec", "hosts", number), message, hint)
            rivals.append((service, scope))


def _overlap(left: frozenset[str], right: frozenset[str]) -> bool:
    return "*" in left or "*" in right or not left.isdisjoint(right)
