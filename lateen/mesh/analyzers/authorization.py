"""AuthorizationPolicies that are valid and still do not do what they look like: the traps of Istio's semantics."""

from collections.abc import Iterator, Sequence

from lateen.mesh.analyzers.report import Report
from lateen.mesh.authorizationpolicy import Action, AuthorizationPolicy, Operation, Rule, Source
from lateen.mesh.diagnostics import Severity
from lateen.mesh.gateway import ServerTLSmode
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.peerauthentication import MutualTlsMode
from lateen.mesh.workloads import Workload
from lateen.mesh.yaml_source import Path

_DRY_RUN = "istio.io/dry-run"
_IDENTITY = ("principals", "namespaces", "service_accounts", "trust_domains")
_IDENTITY_KEYS = frozenset({"source.principal", "source.namespace", "source.serviceAccount", "source.trustDomain"})
_HTTP_SOURCE = ("request_principals", "not_request_principals")
_HTTP_OPERATION = ("hosts", "not_hosts", "methods", "not_methods", "paths", "not_paths")
_HTTP_KEYS = "request."
_RULES: Path = ("spec", "rules")
_HTTP_LISTENERS = frozenset({"HTTP", "HTTPS"})
_HTTP_SERVERS = frozenset({"HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB"})
_PASSED_THROUGH = frozenset({ServerTLSmode.PASSTHROUGH, ServerTLSmode.AUTO_PASSTHROUGH})


def analyze_authorization(report: Report) -> None:
    """All findings about what AuthorizationPolicies really do at their workloads."""
    by_workload = {
        w.key: (w, [p for p in report.view.authorization_policies(w) if not _is_dry_run(p)])
        for w in reversed(report.view.workloads)
    }
    at: dict[ResourceKey, list[Workload]] = {}
    for workload, policies in by_workload.values():
        for policy in policies:
            at.setdefault(policy.key, []).append(workload)
    governed = [workload for workload, policies in by_workload.values() if policies]
    tcp_ports = {w.key: _tcp_ports(report, w) for w in governed}
    modes = {w.key: report.view.mtls_mode(w.namespace, w.labels) for w in governed}
    for found in report.view.get("AuthorizationPolicy"):
        if isinstance(found, AuthorizationPolicy) and found.key in at:
            workloads = sorted(at[found.key], key=lambda w: w.key)
            _http_on_tcp(report, found, [(w, tcp_ports[w.key]) for w in workloads])
            _identities(report, found, [(w, modes[w.key]) for w in workloads if not w.is_gateway])
            _overruled(report, found, [(w, by_workload[w.key][1]) for w in workloads])
    for workload, policies in sorted(by_workload.values(), key=lambda item: item[0].key):
        _allows_nothing(report, workload, policies)


def _is_dry_run(policy: AuthorizationPolicy) -> bool:
    return policy.metadata.annotations.get(_DRY_RUN, "").lower() == "true"


# HTTP attributes on TCP


def _http_on_tcp(
    report: Report, policy: AuthorizationPolicy, workloads: Sequence[tuple[Workload, Sequence[int]]]
) -> None:
    for index, rule in enumerate(policy.spec.rules):
        field = next(_http_fields(index, rule), None)
        if field is None:
            continue
        for workload, ports in workloads:
            port = next((p for p in ports if _reaches(rule, p)), None)
            if port is not None:
                denies = policy.spec.action is Action.DENY
                effect = "there the rule denies without them" if denies else "there the rule never matches"
                message = f"port {port} of {workload.key} carries TCP and has no HTTP attributes: {effect}"
                hint = "name the ports that this rule is for (to.operation.ports), or the port's protocol (appProtocol)"
                report.add("LTN0220", Severity.WARNING, policy, field, message, hint)
                return


def _http_fields(index: int, rule: Rule) -> Iterator[Path]:
    """The fields of a rule that need HTTP."""
    for number, entry in enumerate(rule.from_):
        for name in _HTTP_SOURCE:
            if entry.source is not None and getattr(entry.source, name):
                yield (*_RULES, index, "from", number, "source", _alias(Source, name))
    for number, operation in enumerate(rule.to):
        for name in _HTTP_OPERATION:
            if operation.operation is not None and getattr(operation.operation, name):
                yield (*_RULES, index, "to", number, "operation", _alias(Operation, name))
    for number, condition in enumerate(rule.when):
        if condition.key.startswith(_HTTP_KEYS):
            yield (*_RULES, index, "when", number, "key")


def _alias(model: type[Source | Operation], name: str) -> str:
    return model.model_fields[name].alias or name


def _tcp_ports(report: Report, workload: Workload) -> list[int]:
    served = report.view.services_of(workload)
    read = _read_by_gateway(report, workload)
    http = {target for _, port, target in served if port.protocol.is_http or not read.isdisjoint({port.number, target})}
    return sorted({target for _, port, target in served if not port.protocol.is_sniffed} - http)


def _read_by_gateway(report: Report, workload: Workload) -> set[int]:
    """The ports on which a gateway reads HTTP, whatever its Service says of them: with HTTPS it ends TLS there."""
    gateway = report.view.k8s_gateway_of(workload)
    listeners = gateway.spec.listeners if gateway is not None else ()
    found = {listener.port for listener in listeners if listener.protocol in _HTTP_LISTENERS}
    for istio in report.view.istio_gateways(workload):
        for server in istio.spec.servers:
            passed = server.tls is not None and server.tls.mode in _PASSED_THROUGH
            if str(server.port.protocol).upper() in _HTTP_SERVERS and not passed:
                found.add(server.port.number)
    return found


def _reaches(rule: Rule, port: int) -> bool:
    """Whether a rule speaks about a port at all."""
    operations = [entry.operation for entry in rule.to if entry.operation is not None]
    if operations and not any(_includes(o.ports, o.not_ports, port) for o in operations):
        return False
    return all(
        _includes(condition.values, condition.not_values, port)
        for condition in rule.when
        if condition.key == "destination.port"
    )


def _includes(values: Sequence[str], not_values: Sequence[str], port: int) -> bool:
    return (not values or str(port) in values) and str(port) not in not_values


# identities where not everybody has one


def _identities(
    report: Report, policy: AuthorizationPolicy, workloads: Sequence[tuple[Workload, MutualTlsMode]]
) -> None:
    for workload, mode in workloads:
        if mode is MutualTlsMode.STRICT:
            continue
        for index, rule in enumerate(policy.spec.rules):
            if _identity(report, policy, workload, mode, (index, rule)):
                return


def _identity(
    report: Report, policy: AuthorizationPolicy, workload: Workload, mode: MutualTlsMode, item: tuple[int, Rule]
) -> bool:
    """One finding about one rule at most; whether there was one."""
    index, rule = item
    fields = list(_identity_fields(index, rule))
    wanted = [path for path, negated in fields if not negated]
    where = f"{workload.key} takes plaintext (mutual TLS is {mode})"
    if policy.spec.action is Action.ALLOW and fields and not wanted:
        message = f"callers in plaintext have no identity, so this allows them: {where}"
        hint = "make mutual TLS STRICT with a PeerAuthentication, or name who is allowed"
        report.add("LTN0221", Severity.WARNING, policy, fields[0][0], message, hint)
        return True
    if not wanted:
        return False
    if mode is MutualTlsMode.DISABLE:
        message = f"nobody has an identity at {workload.key}, so this never matches: mutual TLS is DISABLE"
    elif policy.spec.action is Action.ALLOW:
        message = f"callers in plaintext have no identity, so this does not allow them: {where}"
    else:
        message = f"callers in plaintext have no identity, so this passes them over: {where}"
    quiet = mode is MutualTlsMode.PERMISSIVE and policy.spec.action is Action.ALLOW
    hint = "make mutual TLS STRICT with a PeerAuthentication"
    report.add("LTN0222", Severity.INFO if quiet else Severity.WARNING, policy, wanted[0], message, hint)
    return True


def _identity_fields(index: int, rule: Rule) -> Iterator[tuple[Path, bool]]:
    """The fields of a rule about the peer's identity, and whether each is a negation."""
    for number, entry in enumerate(rule.from_):
        for name in _IDENTITY:
            for field, negated in ((name, False), (f"not_{name}", True)):
                if entry.source is not None and getattr(entry.source, field):
                    yield (*_RULES, index, "from", number, "source", _alias(Source, field)), negated
    for number, condition in enumerate(rule.when):
        if condition.key in _IDENTITY_KEYS:
            yield (*_RULES, index, "when", number, "key"), not condition.values


# policies that others make pointless


def _overruled(
    report: Report, policy: AuthorizationPolicy, at: Sequence[tuple[Workload, Sequence[AuthorizationPolicy]]]
) -> None:
    if policy.spec.action is not Action.ALLOW or not policy.spec.rules:
        return
    denying = [
        next((p for p in policies if p.spec.action is Action.DENY and _matches_all(p)), None) for _, policies in at
    ]
    if denying[0] is not None and all(denying):
        message = f"{denying[0].key} denies every request to {at[0][0].key}, so nothing is ever allowed by this"
        report.add("LTN0223", Severity.WARNING, policy, _RULES, message, "remove one of them")
        return
    allowing = [_other_that_allows_all(policy, policies) for _, policies in at]
    if allowing[0] is not None and all(allowing):
        message = f"{allowing[0].key} allows every request to {at[0][0].key}, so this decides nothing"
        report.add("LTN0223", Severity.WARNING, policy, _RULES, message, "remove one of them")


def _other_that_allows_all(
    policy: AuthorizationPolicy, policies: Sequence[AuthorizationPolicy]
) -> AuthorizationPolicy | None:
    """Of two that allow everything, the younger is the one too many."""
    for other in policies:
        if other.key == policy.key:
            if _matches_all(policy):
                return None
        elif other.spec.action is Action.ALLOW and _matches_all(other):
            return other
    return None


def _matches_all(policy: AuthorizationPolicy) -> bool:
    return any(not rule.from_ and not rule.to and not rule.when for rule in policy.spec.rules)


def _allows_nothing(report: Report, workload: Workload, policies: Sequence[AuthorizationPolicy]) -> None:
    allowing = [p for p in policies if p.spec.action is Action.ALLOW]
    if allowing and not any(p.spec.rules for p in allowing):
        message = (
            f"a policy without rules allows nothing, and no other allows anything: {workload.key} denies every request"
        )
        hint = "add an ALLOW policy for the requests that are meant to pass (or rules: [{}] for all)"
        report.add("LTN0224", Severity.INFO, allowing[0], ("spec",), message, hint)
