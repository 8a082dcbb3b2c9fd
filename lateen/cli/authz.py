"""`lateen authz`: what applies to a workload, in the order it is asked, and how it stands with the keys of token issuers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lateen.cli.exits import Exit
from lateen.cli.meshview import find_workload, view_of_files, view_of_running
from lateen.cli.output import Format, emit, render_data, render_table, say
from lateen.controlplane.authorization import broken_rules, is_dry_run, native_problem, only_reports
from lateen.controlplane.custom_authz import provider_problem
from lateen.mesh.authorizationpolicy import Action, AuthorizationPolicy
from lateen.mesh.engine import engine_of
from lateen.mesh.meshconfig import EnforcementEngine
from lateen.mesh.metadata import Resource
from lateen.mesh.problems import render_path
from lateen.mesh.requestauthentication import RequestAuthentication
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload

_ORDER = (Action.CUSTOM, Action.DENY, Action.ALLOW, Action.AUDIT)


def check(workload: str, *, files: Sequence[Path], fmt: Format, control_plane: str | None) -> None:
    """Print what applies to a workload."""
    if files:
        view = view_of_files(files)
    else:
        from lateen.cli.apiclient import ControlPlane, find_control_plane

        with ControlPlane(find_control_plane(control_plane)) as api:
            view = view_of_running(api)
    found = find_workload(view, workload)
    entries = applying(view, found)
    engine = str(engine_of(view, found))
    if fmt in {Format.JSON, Format.YAML}:
        emit(render_data({"workload": found.key, "enforcement": engine, "policies": entries}, fmt))
    elif fmt is Format.NAME:
        emit("\n".join(f"{entry['kind']}/{entry['policy']}" for entry in entries))
    else:
        emit(render_applying(entries))
        say(conclusion(found.key, entries, engine))


def applying(view: MeshView, workload: Workload) -> list[dict[str, Any]]:
    """Token rules, then CUSTOM, DENY, ALLOW, AUDIT; those in dry-run come last and decide nothing.

    `problem` says of one that cannot be enforced what it denies instead, and why.
    """
    native = engine_of(view, workload) is EnforcementEngine.NATIVE
    tokens = [
        _entry(view, ra, "TOKENS", [rule.issuer or "any issuer" for rule in ra.spec.jwt_rules])
        | {"problem": _problem(view, ra, native=native)}
        for ra in view.request_authentications(workload)
    ]
    policies = view.authorization_policies(workload)
    ordered = [
        _policy(view, policy) | {"problem": _problem(view, policy, native=native)}
        for dry_run in (False, True)
        for action in _ORDER
        for policy in policies
        if policy.spec.action is action and is_dry_run(policy) is dry_run
    ]
    return [*tokens, *ordered]


_DENIES_ALL: Final = "everything is denied: "


def _problem(view: MeshView, policy: AuthorizationPolicy | RequestAuthentication, *, native: bool) -> str:
    if broken := [": ".join(filter(None, (render_path(at), text))) for at, text in broken_rules(view, policy)]:
        silent = isinstance(policy, AuthorizationPolicy) and only_reports(policy)
        return ("it reports nothing: " if silent else _DENIES_ALL) + "; ".join(broken)
    if native and (problem := native_problem(view, policy)):
        return _DENIES_ALL + problem
    if isinstance(policy, AuthorizationPolicy) and policy.spec.action is Action.CUSTOM:
        name = (policy.spec.provider.name or "") if policy.spec.provider is not None else ""
        if problem := provider_problem(view, name):
            return f"what its rules match is denied: {problem}"
    return ""


def _policy(view: MeshView, policy: AuthorizationPolicy) -> dict[str, Any]:
    action = str(policy.spec.action)
    if policy.spec.provider is not None:
        action += f" {policy.spec.provider.name}"
    return _entry(view, policy, action + (" (dry-run)" if is_dry_run(policy) else ""), policy.spec.rules)


def _entry(view: MeshView, resource: Resource, action: str, rules: Sequence[object]) -> dict[str, Any]:
    source = view.source(resource.key)
    key = resource.key
    return {
        "action": action,
        "kind": key.kind,
        "policy": f"{key.namespace}/{key.name}",
        "rules": len(rules),
        "file": source.file if source is not None else "",
        "line": source.position(()).line if source is not None else 0,
    }


def render_applying(entries: Sequence[Mapping[str, Any]]) -> str:
    """One line a policy, in evaluation order."""
    if not entries:
        return ""
    rows = [
        [e["action"], e["kind"], e["policy"], str(e["rules"]), f"{e['file']}:{e['line']}" if e["file"] else "-"]
        for e in entries
    ]
    problems = [f"{e['policy']}: {e['problem']}" for e in entries if e["problem"]]
    return "\n".join([render_table(("ACTION", "KIND", "POLICY", "RULES", "WHERE"), rows), *problems])


def conclusion(key: str, entries: Sequence[Mapping[str, Any]], engine: str) -> str:
    """What becomes of a request that no rule speaks of."""
    if not entries:
        return f"nothing applies to {key}: every request is let through"
    if any(e["problem"].startswith(_DENIES_ALL) for e in entries):
        return f"{key}: everything is denied until what cannot be used is mended"
    by = " (enforced by Envoy itself, native)" if engine == EnforcementEngine.NATIVE else ""
    return _otherwise(key, entries) + by


def _otherwise(key: str, entries: Sequence[Mapping[str, Any]]) -> str:
    allowing = [e for e in entries if e["action"] == "ALLOW"]
    if not allowing:
        return f"no ALLOW policy applies to {key}: what nothing denies is let through"
    return f"{key}: what no DENY rule and at least one ALLOW rule matches is let through, everything else is denied"


def keys(*, urls: Sequence[str], fmt: Format, control_plane: str | None) -> None:
    """Print how it stands with every key source at every replica, and at the control plane for proxies that verify themselves.

    Exit code 1 when one has no keys.
    """
    from lateen.cli.replicas import get_json, keys_pages

    pages = [(url, get_json(url, "/v1/keys")[1]) for url in urls] or keys_pages(control_plane)
    found = [
        {"replica": holder, **{name: value for name, value in source.items() if name != "jwks"}}
        for holder, page in pages
        for source in page.get("sources", ())
    ]
    emit(render_data({"sources": found}, fmt) if fmt in {Format.JSON, Format.YAML} else render_keys(found))
    raise SystemExit(Exit.FINDINGS if any(not source["keys"] for source in found) else Exit.OK)


def render_keys(sources: Sequence[Mapping[str, Any]]) -> str:
    """One line a source and replica, with the last error below its line's columns."""
    if not sources:
        return "no policy needs keys"
    rows = []
    for source in sources:
        age = "never fetched" if source["age"] is None else f"{source['age']:.0f}s"
        state = "FAILING" if source["failures"] else "OK" if source["keys"] else "WAITING"
        if source["failures"] and source["keys"]:
            state = "STALE"
        rows.append([source["uri"], state, str(source["keys"]), age, source["error"] or "-", source["replica"]])
    return render_table(("SOURCE", "STATE", "KEYS", "AGE", "LAST ERROR", "REPLICA"), rows)
