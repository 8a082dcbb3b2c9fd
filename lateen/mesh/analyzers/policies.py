"""Policies: those that apply to nothing, refer to nothing, or cannot do what they are there for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args

from lateen.mesh.analyzers.report import Report, label_text
from lateen.mesh.authorizationpolicy import AuthorizationPolicy
from lateen.mesh.diagnostics import Severity
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.peerauthentication import PeerAuthentication
from lateen.mesh.policies import GATEWAY_GROUP, selector_labels, target_refs
from lateen.mesh.ratelimitpolicy import RateLimitPolicy
from lateen.mesh.requestauthentication import JWTRequirement, RequestAuthentication
from lateen.mesh.sidecar import Sidecar
from lateen.mesh.spec import PolicyTargetReference
from lateen.mesh.telemetry import AccessLogging, Metrics, ProviderRef, Telemetry, Tracing
from lateen.mesh.trafficextension import TrafficExtension
from lateen.mesh.wasmplugin import WasmPlugin
from lateen.mesh.workloads import Workload
from lateen.mesh.yaml_source import Path

_TargetedPolicy = (
    AuthorizationPolicy | RequestAuthentication | RateLimitPolicy | Telemetry | WasmPlugin | TrafficExtension
)
_TARGETED = get_args(_TargetedPolicy)
_BUILT_IN_PROVIDERS = frozenset({"prometheus", "stackdriver", "envoy", "envoy-json", "otel"})
_AUTHENTICATED = "request.auth."


def analyze_policies(report: Report) -> None:
    """All findings about what policies apply to and refer to."""
    for model in _TARGETED:
        for policy in report.view.get(model.__name__):
            if isinstance(policy, _TARGETED):
                _attached(report, policy)
    _providers(report)
    _required(report)
    _claims(report)
    _ports(report)
    _sidecars(report)


# what they apply to


def _attached(report: Report, policy: _TargetedPolicy) -> None:
    refs = target_refs(policy)
    for number, ref in enumerate(refs):
        path: Path = (
            ("spec", "targetRef") if getattr(policy.spec, "target_ref", None) else ("spec", "targetRefs", number)
        )
        _target(report, policy, path, ref)
    labels = selector_labels(policy)
    if not refs and labels and not report.selected(policy.namespace, labels):
        _selects_nothing(report, policy, ("spec", "selector", "matchLabels"), labels)


def _selects_nothing(
    report: Report, policy: _TargetedPolicy | PeerAuthentication | Sidecar, path: Path, labels: Mapping[str, str]
) -> None:
    """Information, unless a label looks misspelt: policies may be there before their workloads."""
    where = "" if policy.namespace == report.view.root_namespace else f" of namespace {policy.namespace}"
    hint = report.label_hint(policy.namespace, labels)
    severity = Severity.WARNING if hint else Severity.INFO
    if not hint and report.selected_anywhere(labels):
        hint = f"workloads of other namespaces have them, but a selector only acts in {policy.namespace}"
        severity = Severity.WARNING
    report.add("IST0127", severity, policy, path, f"no workload{where} has labels {label_text(labels)}", hint)


def _target(report: Report, policy: _TargetedPolicy, path: Path, ref: PolicyTargetReference) -> None:
    if (ref.group, ref.kind) != (GATEWAY_GROUP, "Gateway"):
        message = f"a target of kind {ref.kind} speaks to waypoints only, so the policy has no effect on it here"
        hint = "select the workloads with a selector, or target a Gateway"
        report.add("LTN0209", Severity.WARNING, policy, (*path, "kind"), message, hint)
        return
    if report.view.resource(ResourceKey("Gateway", policy.namespace, ref.name)) is None:
        gateways = report.view.get("Gateway")
        meant = report.similar(
            ref.name, [gateway.name for gateway in gateways if gateway.namespace == policy.namespace]
        )
        elsewhere = sorted(gateway.namespace for gateway in gateways if gateway.name == ref.name)
        hint = f'did you mean "{meant}"?' if meant else ""
        if elsewhere:
            hint = f"it exists in namespace {elsewhere[0]}, but a policy must stand in the namespace of its target"
        message = f"Gateway {policy.namespace}/{ref.name} does not exist, so the policy applies to nothing"
        report.add("IST0101", Severity.ERROR, policy, (*path, "name"), message, hint)


# what they refer to


def _providers(report: Report) -> None:
    known = [provider.name for provider in report.view.mesh.extension_providers]
    for policy, path, name, built_in in _provider_names(report):
        if name not in known and not (built_in and name in _BUILT_IN_PROVIDERS):
            meant = report.similar(name, known)
            hint = f'did you mean "{meant}"?' if meant else "declare it under extensionProviders in mesh.yaml"
            report.add("IST0101", Severity.ERROR, policy, path, f"extension provider {name} does not exist", hint)


def _provider_names(report: Report) -> Iterator[tuple[AuthorizationPolicy | Telemetry, Path, str, bool]]:
    for policy in report.view.get("AuthorizationPolicy"):
        if isinstance(policy, AuthorizationPolicy) and policy.spec.provider and policy.spec.provider.name:
            yield policy, ("spec", "provider", "name"), policy.spec.provider.name, False
    for telemetry in report.view.get("Telemetry"):
        if isinstance(telemetry, Telemetry):
            for path, provider in _telemetry_providers(telemetry):
                yield telemetry, path, provider.name, True


def _telemetry_providers(telemetry: Telemetry) -> Iterator[tuple[Path, ProviderRef]]:
    spec = telemetry.spec
    lists: tuple[tuple[str, Sequence[Tracing | Metrics | AccessLogging]], ...] = (
        ("tracing", spec.tracing),
        ("metrics", spec.metrics),
        ("accessLogging", spec.access_logging),
    )
    for field, entries in lists:
        for index, entry in enumerate(entries):
            for number, provider in enumerate(entry.providers):
                yield ("spec", field, index, "providers", number, "name"), provider


def _required(report: Report) -> None:
    """A RequestAuthentication rejects bad tokens only; unless it, or a policy, asks for one, no token is fine too."""
    policies = [ap for ap in report.view.get("AuthorizationPolicy") if isinstance(ap, AuthorizationPolicy)]
    asking = {policy.key for policy in policies if _asks_for_token(policy)}
    unprotected: dict[ResourceKey, str] = {}
    for workload in _one_of_each(report.view.workloads):
        found = [ra for ra in report.view.request_authentications(workload) if ra.spec.jwt_rules]
        if any(rule.presence is JWTRequirement.REQUIRED for ra in found for rule in ra.spec.jwt_rules):
            continue
        if found and asking.isdisjoint(ap.key for ap in report.view.authorization_policies(workload)):
            for ra in found:
                unprotected.setdefault(ra.key, workload.key)
    for policy in report.view.get("RequestAuthentication"):
        if isinstance(policy, RequestAuthentication) and policy.key in unprotected:
            message = f"requests without a token are let through to {unprotected[policy.key]}: no AuthorizationPolicy asks for one"
            hint = 'add an AuthorizationPolicy with requestPrincipals: ["*"]'
            report.add("LTN0204", Severity.WARNING, policy, ("spec", "jwtRules"), message, hint)


def _asks_for_token(policy: AuthorizationPolicy) -> bool:
    for rule in policy.spec.rules:
        sources = [entry.source for entry in rule.from_ if entry.source]
        if any(source.request_principals or source.not_request_principals for source in sources):
            return True
        if any(condition.key.startswith(_AUTHENTICATED) for condition in rule.when):
            return True
    return False


def _claims(report: Report) -> None:
    """A limit by claim never applies where no token is verified."""
    bare: dict[ResourceKey, str] = {}
    for workload in _one_of_each(report.view.workloads):
        if not any(ra.spec.jwt_rules for ra in report.view.request_authentications(workload)):
            for policy in report.view.rate_limit_policies(workload):
                bare.setdefault(policy.key, workload.key)
    for key in sorted(bare):
        found = report.view.resource(key)
        if isinstance(found, RateLimitPolicy):
            for path, claim in _claim_descriptors(found):
                message = f"claim {claim} is never known at {bare[key]}: no RequestAuthentication verifies tokens there"
                hint = "add a RequestAuthentication, or count by something else"
                report.add("LTN0205", Severity.WARNING, found, path, message, hint)


def _claim_descriptors(policy: RateLimitPolicy) -> Iterator[tuple[Path, str]]:
    for index, limit in enumerate(policy.spec.limits):
        for number, descriptor in enumerate(limit.descriptors):
            if descriptor.claim is not None:
                yield ("spec", "limits", index, "descriptors", number, "claim"), descriptor.claim.name


def _one_of_each(workloads: Iterable[Workload]) -> Iterable[Workload]:
    """One replica for each key: replicas of one key have the same policies."""
    return {workload.key: workload for workload in reversed(tuple(workloads))}.values()


# PeerAuthentication and Sidecar


def _ports(report: Report) -> None:
    for policy in report.view.get("PeerAuthentication"):
        labels = (
            policy.spec.selector.match_labels if isinstance(policy, PeerAuthentication) and policy.spec.selector else {}
        )
        if not isinstance(policy, PeerAuthentication) or not labels:
            continue
        path: Path = ("spec", "selector", "matchLabels")
        if policy.namespace == report.view.root_namespace:
            message = "a PeerAuthentication with a selector has no effect in the root namespace"
            report.add("IST0127", Severity.WARNING, policy, path, message, "put it into the namespace of the workloads")
            continue
        workloads = report.selected(policy.namespace, labels)
        if not workloads:
            _selects_nothing(report, policy, path, labels)
            continue
        served = _served_ports(report, workloads)
        for port in policy.spec.port_level_mtls if served else ():
            if port not in served:
                message = f"port {port} is not a port of the workloads selected"
                hint = f"this is the port the workload listens on, not the Service's: {', '.join(map(str, sorted(served)))}"
                report.add("LTN0206", Severity.WARNING, policy, ("spec", "portLevelMtls", str(port)), message, hint)


def _served_ports(report: Report, workloads: Sequence[Workload]) -> frozenset[int]:
    declared = {port for workload in workloads for port in workload.ports.values()}
    behind = {target for workload in workloads for _, _, target in report.view.services_of(workload)}
    return frozenset(declared | behind)


def _sidecars(report: Report) -> None:
    sidecars = [sidecar for sidecar in report.view.get("Sidecar") if isinstance(sidecar, Sidecar)]
    wide: dict[str, Sidecar] = {}
    owner: dict[tuple[str, str], Sidecar] = {}
    for sidecar in sidecars:
        selector = sidecar.spec.workload_selector
        if selector is None:
            older = wide.setdefault(sidecar.namespace, sidecar)
            if older is not sidecar:
                message = f"{older.key} speaks for the whole namespace too and counts, because it is older"
                hint = "keep one of them, or give this one a workloadSelector"
                report.add("IST0111", Severity.ERROR, sidecar, ("metadata", "name"), message, hint)
            continue
        path: Path = ("spec", "workloadSelector", "labels")
        workloads = [w for w in report.selected(sidecar.namespace, selector.labels) if w.namespace == sidecar.namespace]
        if not workloads:
            _selects_nothing(report, sidecar, path, selector.labels)
        rivals = {(w.namespace, w.name): owner.setdefault((w.namespace, w.name), sidecar) for w in workloads}
        for (_, name), older in sorted(rivals.items(), key=lambda item: item[0]):
            if older is not sidecar:
                message = f"{older.key} selects {name} too and counts, because it is older"
                report.add("IST0110", Severity.ERROR, sidecar, path, message, "make the selectors exclude one another")
                break
