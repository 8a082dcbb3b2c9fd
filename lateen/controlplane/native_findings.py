"""What `analyze` says of enforcement: policies that nobody or not Envoy can enforce, authorizers that cannot be asked. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lateen.controlplane.authorization import broken_rules, native_problem, only_reports
from lateen.controlplane.custom_authz import provider_problem
from lateen.mesh.analyzers.expected import with_expected_workloads
from lateen.mesh.authorizationpolicy import Action, AuthorizationPolicy
from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.engine import ENFORCEMENT_LABEL, engine_of, labelled
from lateen.mesh.kubernetes import Deployment
from lateen.mesh.meshconfig import EnforcementEngine
from lateen.mesh.metadata import Resource
from lateen.mesh.problems import render_path
from lateen.mesh.requestauthentication import RequestAuthentication
from lateen.mesh.view import MeshView
from lateen.mesh.yaml_source import Path


def native_findings(view: MeshView) -> tuple[Diagnostic, ...]:
    """All of them, in the order of the resources. Replicas that are not registered yet count."""
    view = with_expected_workloads(view)
    broken = tuple(_broken(view))
    known = frozenset(finding.resource for finding in broken)
    return (*_unknown_engines(view), *broken, *_unknown_providers(view), *_inexpressible(view, known))


def _unknown_engines(view: MeshView) -> Iterator[Diagnostic]:
    for kind in ("Namespace", "WorkloadEntry", "Deployment"):
        for resource in view.get(kind):
            at: Path = ("metadata", "labels")
            labels = resource.metadata.labels
            if isinstance(resource, Deployment):
                at, labels = ("spec", "template", *at), resource.spec.template.metadata.labels
            value = labels.get(ENFORCEMENT_LABEL, "")
            if value and labelled(labels) is None:
                engines = " or ".join(engine.value for engine in EnforcementEngine)
                message, hint = f"there is no enforcement engine {value}", f"{ENFORCEMENT_LABEL} is {engines}"
                yield _finding(view, resource, "LTN0304", message, hint, (*at, ENFORCEMENT_LABEL))


def _broken(view: MeshView) -> Iterator[Diagnostic]:
    """Everything in each policy that no engine can enforce, selected by a workload or not."""
    hint = "correct it: everything to its workloads is denied as long as it stands like this"
    silent = "correct it: it reports nothing as long as it stands like this"
    for policy in view.get("AuthorizationPolicy"):
        if isinstance(policy, AuthorizationPolicy):
            for at, problem in broken_rules(view, policy):
                yield _finding(
                    view, policy, "LTN0305", problem, silent if only_reports(policy) else hint, ("spec", *at)
                )
    for authentication in view.get("RequestAuthentication"):
        if isinstance(authentication, RequestAuthentication):
            for at, problem in broken_rules(view, authentication):
                yield _finding(view, authentication, "LTN0305", problem, hint, ("spec", *at))


def _unknown_providers(view: MeshView) -> Iterator[Diagnostic]:
    for policy in view.get("AuthorizationPolicy"):
        if not isinstance(policy, AuthorizationPolicy) or policy.spec.action is not Action.CUSTOM:
            continue
        name = (policy.spec.provider.name or "") if policy.spec.provider is not None else ""
        problem = provider_problem(view, name)
        if problem and (not name or view.mesh.provider(name) is not None):  # that there is none of this name is IST0101
            hint = "what its rules match is denied; name one of extensionProviders with envoyExtAuthzGrpc or envoyExtAuthzHttp"
            yield _finding(view, policy, "LTN0303", problem, hint, ("spec", "provider"))


def _inexpressible(view: MeshView, known: Collection[str]) -> Iterator[Diagnostic]:
    seen: set[str] = set(known)
    for workload in {w.key: w for w in view.workloads}.values():
        if engine_of(view, workload) is not EnforcementEngine.NATIVE:
            continue
        policies: list[AuthorizationPolicy | RequestAuthentication] = [
            *view.authorization_policies(workload),
            *view.request_authentications(workload),
        ]
        for policy in policies:
            if str(policy.key) in seen:
                continue
            seen.add(str(policy.key))
            problem = native_problem(view, policy)
            if problem:
                message = f"{problem}; everything to {workload.key} and whatever else it selects is denied"
                hint = f"change it, or let the authorization service enforce it: {ENFORCEMENT_LABEL}: extAuthz"
                yield _finding(view, policy, "LTN0302", message, hint, ("spec",))


def _finding(view: MeshView, resource: Resource, code: str, message: str, hint: str, path: Path) -> Diagnostic:  # noqa: PLR0917 a row of a table
    source = view.source(resource.key)
    position = source.position(path) if source is not None else None
    return Diagnostic(
        code,
        Severity.ERROR,
        message,
        resource=str(resource.key),
        path=render_path(path),
        file=source.file if source is not None else "",
        line=position.line if position is not None else 0,
        column=position.column if position is not None else 0,
        hint=hint,
        source_line=source.line_text(position.line) if source is not None and position is not None else "",
    )
