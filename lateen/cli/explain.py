"""`lateen explain`: why a request is allowed or denied, for one that is made up (`authz`) and for one that was (`denial`)."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lateen.addresses import is_address
from lateen.cli.asking import (
    NOT_VERIFIED,
    Answer,
    KeysOf,
    Question,
    ask,
    compile_for,
    is_gateway,
    nearest_rules,
    refused,
)
from lateen.cli.choices import request_headers
from lateen.cli.exits import CommandError, Exit
from lateen.cli.meshview import find_port, find_workload, view_of_files, view_of_running
from lateen.cli.output import Format, emit, render_data
from lateen.controlplane.names import outbound_sni
from lateen.mesh.engine import engine_of
from lateen.mesh.meshconfig import EnforcementEngine
from lateen.mesh.view import MeshView
from lateen.policy.errors import PolicyError
from lateen.policy.paths import normalized_path
from lateen.policy.request import SPIFFE, CheckInput, path_of, remote_address

_IDENTITY_PARTS: Final = 5
_MAX_SHOWN: Final = 20
_UNAUTHORIZED: Final = 401


def authz(
    method: str | None,
    path: str | None,
    *,
    source: str | None,
    target: str,
    files: Sequence[Path],
    headers: Sequence[str],
    token: str | None,
    plaintext: bool,
    port: int,
    fmt: Format,
    control_plane: str | None,
) -> None:
    """Print the verdict and why; exit code 0 when allowed, 1 when not."""
    keys_of: KeysOf = _no_keys
    if files:
        view = view_of_files(files)
    else:
        from lateen.cli.apiclient import ControlPlane, find_control_plane
        from lateen.cli.replicas import RunningKeys

        url = find_control_plane(control_plane)
        with ControlPlane(url) as api:
            view = view_of_running(api)
        native = engine_of(view, find_workload(view, target)) is EnforcementEngine.NATIVE
        keys_of = RunningKeys(view, url, native=native)
    workload = find_workload(view, target)
    question = question_of(
        view, method, path, source=source, target=target, headers=headers, token=token, plaintext=plaintext, port=port
    )
    try:
        answer = ask(view, compile_for(view, workload), question, keys_of, time.time())
    except PolicyError as error:
        answer = refused(view, workload, question, error)
    emit(render_data(answer.to_dict(), fmt) if fmt in {Format.JSON, Format.YAML} else render_answer(answer))
    raise SystemExit(Exit.OK if answer.allowed else Exit.FINDINGS)


def _no_keys(_: object) -> None:
    return None


def denial(denial_id: str, *, urls: Sequence[str], fmt: Format, control_plane: str | None) -> None:
    """Print what the replica that denied remembers; exit code 1 when none does."""
    from lateen.cli.replicas import extauthz_urls, get_json

    found: Mapping[str, Any] | None = None
    asked = list(urls) or extauthz_urls(control_plane)
    for url in asked:
        status, value = get_json(url, f"/v1/denials/{denial_id}")
        if status == 200:  # noqa: PLR2004 - HTTP
            found = value
            break
    if found is None:
        hint = "a replica remembers its last 512 denials, and forgets them when it restarts"
        raise CommandError(Exit.FINDINGS, f"no ext_authz replica knows {denial_id} (asked {len(asked)})", hint)
    emit(render_data(found, fmt) if fmt in {Format.JSON, Format.YAML} else render_denial(found))


def question_of(
    view: MeshView,
    method: str | None,
    path: str | None,
    *,
    source: str | None,
    target: str,
    headers: Sequence[str] = (),
    token: str | None = None,
    plaintext: bool = False,
    port: int = 0,
) -> Question:
    """The request that the options describe, as the target's proxy would see it."""
    if (method is None) != (path is None):
        raise CommandError(Exit.USAGE, "METHOD and PATH go together", "leave both out for a TCP connection")
    workload = find_workload(view, target)
    service, service_port, number = find_port(view, workload, port, http=method is not None)
    reads_http = service_port is None or service_port.protocol.is_http or service_port.protocol.is_sniffed
    if method is None and service_port is not None and service_port.protocol.is_http:
        raise CommandError(Exit.USAGE, f"port {number} of {workload.key} speaks HTTP", "add METHOD and PATH")
    if method is not None and not reads_http and service_port is not None:
        problem = f"port {number} of {workload.key} carries {service_port.protocol}: its requests are not read"
        raise CommandError(Exit.USAGE, problem, "leave METHOD and PATH out")
    principal, source_ip = identity_of(view, source) if source else ("", "")
    if not source and not plaintext and not is_gateway(view, workload):
        raise CommandError(Exit.USAGE, "who asks?", "add --from WORKLOAD or IDENTITY, or --plaintext")
    sni = (
        outbound_sni(service.hostname, service_port.number) if service is not None and service_port is not None else ""
    )
    base = CheckInput(
        http=method is not None,
        sni="" if plaintext or is_gateway(view, workload) else sni,
        principal="" if plaintext else principal,
        source_ip=source_ip,
        remote_ip=source_ip,
        destination_ip=workload.address if is_address(workload.address) else "",
        destination_port=number,
    )
    if method is None or path is None:
        return Question(base, mutual_tls=not plaintext)
    given = request_headers(headers)
    if token:
        given["authorization"] = f"Bearer {token}"
    host = given.get("host") or given.get(":authority") or (service.hostname if service is not None else workload.name)
    hops = (view.mesh.default_config.gateway_topology or {}).get("numTrustedProxies")
    forwarded = given.get("x-forwarded-for", "")
    trusted = hops if isinstance(hops, int) and hops > 0 else 0
    normalized = normalized_path(path, str(view.mesh.path_normalization.normalization))
    method = method.upper() if method.islower() else method
    pseudo = {
        ":method": method,
        ":path": path if normalized is None else path.replace(path_of(path), normalized, 1),
        ":authority": host,
    }
    request = base._replace(
        method=method,
        path=path_of(path) if normalized is None else normalized,
        host=host.lower(),
        headers={**given, **pseudo},
        remote_ip=remote_address(forwarded, trusted, source_ip) if forwarded else source_ip,
    )
    query = path.partition("#")[0].partition("?")[2]
    return Question(request, query, mutual_tls=not plaintext, readable=normalized is not None)


def identity_of(view: MeshView, text: str) -> tuple[str, str]:
    """Identity and address of who asks: `spiffe://...`, `TD/ns/NAMESPACE/sa/ACCOUNT`, or a workload."""
    if text.startswith(SPIFFE):
        return text, ""
    parts = text.split("/")
    if len(parts) == _IDENTITY_PARTS and parts[1::2] == ["ns", "sa"]:
        return SPIFFE + text, ""
    workload = find_workload(view, text)
    address = workload.address if is_address(workload.address) else ""
    return view.identity_of(workload.namespace, workload.service_account), address


def render_answer(answer: Answer) -> str:
    """The verdict first, then what decided, then who came near."""
    request = answer.request
    what = f"{request['method']} {request['path']}" if request["protocol"] == "http" else "TCP connection"
    who = request["principal"] or "a peer without identity (plaintext)"
    conditions = [f"{name} allows it" for name in dict.fromkeys(asked["provider"] for asked in answer.asks)]
    if any(NOT_VERIFIED in note for note in answer.notes):
        conditions.append("the token's signature is good")
    condition = f"  if {' and '.join(conditions)}" if conditions and answer.allowed else ""
    port = f":{request['destination_port']}" if request["destination_port"] else ""
    lines = [f"{_VERDICTS[answer.verdict]}  {what} to {answer.target}{port} from {who}{condition}"]
    lines += [_asked(asked) for asked in answer.asks]
    lines += decided_by(answer.policy, answer.rule, answer.position, answer.reason)
    lines += [f"  note: {note}" for note in answer.notes]
    if answer.audit:
        lines.append(f"  AUDIT matched: {answer.audit}")
    if answer.dry_run:
        lines.append(f"  dry-run policies would: {answer.dry_run}")
    return "\n".join(map(printable, [*lines, *_considered(answer.rules, answer.empty)]))


def _asked(asked: Mapping[str, Any]) -> str:
    place = f" ({asked['position']})" if asked["position"] else ""
    down = "let through to what follows" if asked["fail_open"] else "denied"
    policy = f"CUSTOM {asked['policy']} rules[{asked['rule']}]{place}"
    return (
        f'  first the extension provider "{asked["provider"]}" decides, for {policy}: '
        f"what it denies ends here; while it cannot be reached, {down}"
    )


_VERDICTS: Final = {"allow": "ALLOWED", "deny": "DENIED", "unauthenticated": "DENIED (401)"}


def render_denial(found: Mapping[str, Any]) -> str:
    """A remembered denial, in the same words."""
    request = found["request"]
    who = request["principal"] or "a peer without identity (plaintext)"
    if request["protocol"] == "unknown":
        what, who = "a request that could not be read", "an unknown peer"
    else:
        what = f"{request['method']} {request['path']}" if request["protocol"] == "http" else "TCP connection"
    lines = [
        f"DENIED ({found['status']})  {what} to {found['target']} from {who}",
        f"  at {found['at']}, source {request['source_ip'] or 'unknown'}, id {found['id']}",
        *decided_by(_kind(found) + found["policy"], found["rule"], found["position"], found["reason"]),
    ]
    return "\n".join(map(printable, [*lines, *_considered(found["rules"], ())]))


def printable(line: str) -> str:
    """A line for a terminal: what a client sent must not be able to move its cursor, or to begin lines of its own."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _kind(found: Mapping[str, Any]) -> str:
    if found["policy"] == "none":
        return ""
    return "RequestAuthentication " if found["status"] == _UNAUTHORIZED else "AuthorizationPolicy "


def decided_by(policy: str, rule: int | None, position: str, reason: str) -> list[str]:
    """Which policy decided, where it stands, and the reason in words."""
    if policy == "none":
        return [f"  because {reason}"]
    place = f" ({position})" if position else ""
    rules = "jwtRules" if policy.startswith("RequestAuthentication ") else "rules"
    index = f" {rules}[{rule}]" if rule is not None else ""
    return [f"  by {policy}{index}{place}", f"  because {reason}"]


def _considered(rules: Sequence[Mapping[str, Any]], empty: Sequence[Mapping[str, Any]]) -> list[str]:
    nearest = nearest_rules(rules)
    lines = [line for rule in nearest[:_MAX_SHOWN] for line in _rule_lines(rule)]
    lines += [f"  -  ALLOW {entry['policy']} ({entry['position']}) has no rules: it allows nothing" for entry in empty]
    if len(nearest) > _MAX_SHOWN:
        lines.append(f"  ... and {len(nearest) - _MAX_SHOWN} more policies (-o json has all rules)")
    return ["", "policies, in the order they are asked (of each the rule that came nearest):", *lines] if lines else []


def _rule_lines(rule: Mapping[str, Any]) -> list[str]:
    place = f" ({rule['position']})" if rule["position"] else ""
    head = f"{rule['action']} {rule['policy']} rules[{rule['rule']}]{place}"
    if rule["matched"]:
        return [f"  ✓  {head} matched"]
    if rule["skipped"]:
        return [f"  -  {head} {rule['skipped']}"]
    first, more = rule["failed"][0], len(rule["failed"]) - 1
    values = " | ".join(first["expected"][:10]) + (" ..." if len(first["expected"]) > 10 else "")  # noqa: PLR2004
    wanted = f"must not be {values}" if first["negated"] else f"must be {values}"
    actual = "is absent" if first["actual"] is None else f'is "{first["actual"]}"'
    further = f", and {more} more condition{'s' if more > 1 else ''} failed" if more else ""
    return [f"  ✗  {head}", f"       {first['field']}: {first['attribute']} {wanted}, it {actual}{further}"]
