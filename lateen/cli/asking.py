"""Asking the policies of a mesh about one request, as its enforcement point would, and keeping why. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from extauthz.answers import effective_headers
from extauthz.authenticate import Authentication, Refusal, authenticate
from extauthz.decide import Decision, Verdict, decide
from extauthz.tokens import TokenCache, VerifiedToken, read_unverified, verify_token
from lateen.controlplane.authorization import broken_rules, is_dry_run, native_problem, only_reports
from lateen.controlplane.custom_authz import provider_problem
from lateen.jwks.keys import JwksError, KeySet, parse_jwks
from lateen.mesh.authorizationpolicy import Action, AuthorizationPolicy
from lateen.mesh.engine import engine_of
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.meshconfig import EnforcementEngine
from lateen.mesh.peerauthentication import MutualTlsMode, PeerAuthentication
from lateen.mesh.requestauthentication import RequestAuthentication
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload
from lateen.policy.compile import AttachedPolicy, PolicyOrigin, PolicySet, compile_policies
from lateen.policy.errors import PolicyError
from lateen.policy.explain import rule_matches, trace_policies
from lateen.policy.problems import Place
from lateen.policy.request import CheckInput
from lateen.policy.rules import CompiledRule
from lateen.policy.tokens import KeySource, TokenRule, TokenRules, compile_token_rules, is_cors_preflight

AUTHORIZATION: Final = "AuthorizationPolicy"
AUTHENTICATION: Final = "RequestAuthentication"
KeysOf = Callable[[KeySource], KeySet | None]
"""The keys of a remote source; None when they are not at hand."""
NOT_VERIFIED: Final = "its signature was NOT verified"
_MAX_NOTES: Final = 20
_UNREADABLE: Final = (
    "the proxy answers 400 before any policy is asked: a path begins with a slash, is printable ASCII (encode the rest: %C3%A9) "
    "and has neither a fragment nor, normalized, %00"
)


@dataclass(frozen=True, slots=True)
class Applying:
    """What applies to one workload, compiled as the enforcement point compiles it."""

    workload: Workload
    policies: PolicySet
    decided: PolicySet
    """Without CUSTOM policies: those are for the authorizers that they name, whom the proxy asks by itself."""
    tokens: TokenRules


@dataclass(frozen=True, slots=True)
class Question:
    """One request to a workload.

    `mutual_tls` false: it comes in plaintext; `readable` false: the proxy answers 400, whatever the policies say.
    """

    request: CheckInput
    query: str = ""
    mutual_tls: bool = True
    readable: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict and why. `rules` are in evaluation order, shaped as in `/v1/denials/ID`."""

    target: str
    verdict: str
    reason: str
    policy: str
    rule: int | None
    position: str
    request: Mapping[str, Any]
    rules: tuple[Mapping[str, Any], ...] = ()
    empty: tuple[Mapping[str, Any], ...] = ()
    """ALLOW policies without rules: they allow nothing."""
    audit: str = ""
    dry_run: str = ""
    notes: tuple[str, ...] = field(default=())
    asks: tuple[Mapping[str, Any], ...] = ()
    """The external authorizers (CUSTOM) that are asked before this verdict counts, in order; each may deny."""

    @property
    def allowed(self) -> bool:
        """Whether the request reaches the application."""
        return self.verdict == Verdict.ALLOW

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def compile_for(view: MeshView, workload: Workload) -> Applying:
    """Everything that applies to a workload; PolicyError when it cannot be compiled."""
    attached = [
        AttachedPolicy(
            _origin(view, policy.key),
            policy.spec,
            dry_run=is_dry_run(policy),
        )
        for policy in view.authorization_policies(workload)
    ]
    authentications = [(_origin(view, ra.key), ra.spec) for ra in view.request_authentications(workload)]
    domains = (view.trust_domain, *view.mesh.trust_domain_aliases)
    decided = [policy for policy in attached if policy.spec.action is not Action.CUSTOM]
    return Applying(
        workload,
        compile_policies(attached, domains),
        compile_policies(decided, domains),
        compile_token_rules(authentications),
    )


def ask(view: MeshView, applying: Applying, question: Question, keys_of: KeysOf, now: float) -> Answer:
    """Mutual TLS, tokens, policies: in the order of the proxy, with the same code."""
    workload, request = applying.workload, question.request
    notes: list[str] = []
    if engine_of(view, workload) is EnforcementEngine.NATIVE:
        notes.append("enforced by the proxy itself (native): denials have no id")
        policies: list[AuthorizationPolicy | RequestAuthentication] = [*view.authorization_policies(workload)]
        for policy in (*policies, *view.request_authentications(workload)):
            if problem := native_problem(view, policy):
                reason = f"Envoy's own filters cannot express a policy, so everything is denied: {problem}"
                position = _position(view, policy.key)
                return Answer(
                    workload.key, Verdict.DENY, reason, str(policy.key), None, position, shown_request(request)
                )
    if (mutual_tls := _mutual_tls(view, workload, question)) is not None:
        refused, note = mutual_tls
        if refused is not None:
            position = _position(view, refused.key)
            return Answer(workload.key, Verdict.DENY, note, str(refused.key), None, position, shown_request(request))
        notes.append(note)
        request = request._replace(principal="")
    if not question.readable:
        return Answer(workload.key, Verdict.DENY, _UNREADABLE, "none", None, "", shown_request(request))
    authentication = _authenticated(applying.tokens, question, keys_of, now, notes)
    if isinstance(authentication, Refusal):
        rule = authentication.rule
        return Answer(
            target=workload.key,
            verdict=Verdict.UNAUTHENTICATED,
            reason=authentication.reason,
            policy=f"{AUTHENTICATION} {rule.origin}",
            rule=rule.index,
            position=rule_position(view, AUTHENTICATION, rule.origin, rule.index),
            request=shown_request(request),
            notes=tuple(notes),
        )
    claims = authentication.token.claims if authentication.token is not None else None
    request = request._replace(claims=claims, headers=effective_headers(request.headers, authentication))
    notes += _unknown(applying.policies, request)
    asks: list[Mapping[str, Any]] = []
    decision = _custom(view, applying, request, asks) or decide(applying.decided, request)
    return replace(_answer(view, applying, request, decision, notes), asks=tuple(asks))


def refused(view: MeshView, workload: Workload, question: Question, error: PolicyError) -> Answer:
    """The answer where the policies of a workload cannot be compiled: everything is denied, by the first that cannot."""
    deciding = [policy for policy in view.authorization_policies(workload) if not only_reports(policy)]
    applying: list[AuthorizationPolicy | RequestAuthentication] = [*deciding]
    applying += view.request_authentications(workload)
    broken = ((policy.key, _rule_of(place)) for policy in applying for place, _ in broken_rules(view, policy))
    key, index = next(broken, (None, None))
    position = ""
    if key is not None:
        origin = _origin(view, key)
        position = origin.position if index is None else rule_position(view, key.kind, origin, index)
    return Answer(
        target=workload.key,
        verdict=Verdict.DENY,
        reason=f"the policies of {workload.key} cannot be used, which denies everything: {error}",
        policy=f"{key.kind} {key.namespace}/{key.name}" if key is not None else "none",
        rule=index,
        position=position,
        request=shown_request(question.request),
    )


def _rule_of(place: Place) -> int | None:
    """The rule of an AuthorizationPolicy that a place below `spec` is in."""
    match place:
        case ("rules", int(index), *_):
            return index
        case _:
            return None


def _unknown(policies: PolicySet, request: CheckInput) -> list[str]:
    """What some rule looks at and nobody can know beforehand."""
    tables = (policies.custom, policies.deny, policies.allow)
    names = {condition.attribute.name for table in tables for rule in table.rules for condition in rule.conditions()}
    found = [
        f"{name}: what Envoy's filters leave there is not known here"
        for name in sorted(names)
        if name.startswith("experimental.")
    ]
    if "connection.sni" in names and request.sni:
        found.append(
            f'connection.sni is taken to be "{request.sni}": a subset or a DestinationRule may make it another'
        )
    return found


def _custom(view: MeshView, applying: Applying, request: CheckInput, asks: list[Mapping[str, Any]]) -> Decision | None:
    """What the CUSTOM policies come to: who is asked, in order, and a denial where an authorizer that is chosen cannot be."""
    by_provider: dict[str, list[CompiledRule]] = {}
    for rule in applying.policies.custom.rules:
        by_provider.setdefault(rule.provider, []).append(rule)
    for name, rules in by_provider.items():
        chosen = next((r for r in rules if rule_matches(r, applying.policies, request)), None)
        if chosen is None:
            continue
        if problem := provider_problem(view, name, http=request.http):
            return Decision(Verdict.DENY, chosen, f"its authorizer cannot be asked: {problem}")
        provider = view.mesh.provider(name)
        config = (provider.envoy_ext_authz_grpc or provider.envoy_ext_authz_http) if provider is not None else None
        asks.append(
            {
                "provider": name,
                "policy": str(chosen.origin),
                "rule": chosen.index,
                "position": rule_position(view, AUTHORIZATION, chosen.origin, chosen.index),
                "fail_open": config is not None and config.fail_open,
            }
        )
    return None


def _answer(
    view: MeshView, applying: Applying, request: CheckInput, decision: Decision, notes: Sequence[str]
) -> Answer:
    rule = decision.rule
    traces = trace_policies(applying.policies, request)
    origins = {str(p.origin): p.origin for p in applying.policies.policies}
    rules = tuple(
        {**asdict(t), "position": rule_position(view, AUTHORIZATION, origins[t.policy], t.rule)} for t in traces
    )
    empty = tuple(
        {"policy": str(p.origin), "position": p.origin.position}
        for p in applying.policies.policies
        if p.spec.action == "ALLOW" and not p.spec.rules and not p.dry_run
    )
    return Answer(
        target=applying.workload.key,
        verdict=decision.verdict,
        reason=decision.reason,
        policy=f"{AUTHORIZATION} {rule.origin}" if rule is not None else "none",
        rule=rule.index if rule is not None else None,
        position=rule_position(view, AUTHORIZATION, rule.origin, rule.index) if rule is not None else "",
        request=shown_request(request),
        rules=rules,
        empty=empty,
        audit=f"{decision.audit.origin} rule {decision.audit.index}" if decision.audit is not None else "",
        dry_run=decision.dry_run,
        notes=tuple(notes),
    )


def is_gateway(view: MeshView, workload: Workload) -> bool:
    """Whether this is a gateway of either API: what comes to it comes from outside, whatever the mesh's mutual TLS."""
    return workload.is_gateway or bool(view.istio_gateways(workload))


def _mutual_tls(view: MeshView, workload: Workload, question: Question) -> tuple[PeerAuthentication | None, str] | None:
    """The PeerAuthentication that refuses the connection, or a note why the peer has no identity; None: all is as it looks."""
    port = question.request.destination_port
    if is_gateway(view, workload):
        return None
    mode = view.mtls_mode(workload.namespace, workload.labels, port or None)
    if mode is MutualTlsMode.STRICT and not question.mutual_tls:
        for policy in view.peer_authentications(workload.namespace, workload.labels):
            by_port = policy.spec.port_level_mtls.get(port)
            if any(b is not None and b.mode is MutualTlsMode.STRICT for b in (by_port, policy.spec.mtls)):
                return policy, "mutual TLS is STRICT: plaintext is refused before any policy is asked"
    if mode is MutualTlsMode.DISABLE and question.mutual_tls and question.request.principal:
        return None, f"mutual TLS is DISABLEd on port {port}: the peer has no identity"
    return None


def _authenticated(
    rules: TokenRules, question: Question, keys_of: KeysOf, now: float, notes: list[str]
) -> Authentication | Refusal:
    request = question.request
    if not request.http or not rules.rules:
        return Authentication()
    if is_cors_preflight(request.method, request.headers):
        notes.append("a CORS preflight is not asked for a token")
        return Authentication(remove_headers=rules.sanitised)

    def verify(token: str, rule: TokenRule) -> VerifiedToken:
        keys = _inline(rule.keys) if rule.keys.inline else keys_of(rule.keys)
        if keys is not None:
            return verify_token(token, rule, keys, now, TokenCache())
        read = read_unverified(token, rule, now)
        note = f"the token of {rule.issuer or 'any issuer'} was decoded, {NOT_VERIFIED}: no keys at hand"
        if note not in notes and len(notes) < _MAX_NOTES:
            notes.append(note)
        return read

    return authenticate(rules, request.headers, question.query, verify)


def _inline(source: KeySource) -> KeySet:
    try:
        return parse_jwks(source.inline)
    except JwksError as error:
        raise PolicyError(f"jwks: {error}") from None


def shown_request(request: CheckInput) -> Mapping[str, Any]:
    """The request as it was asked about."""
    return {
        "protocol": "http" if request.http else "tcp",
        "principal": request.principal,
        "source_ip": request.source_ip,
        "remote_ip": request.remote_ip,
        "destination_port": request.destination_port,
        "method": request.method,
        "path": request.path,
        "host": request.host,
        "headers": sorted(name for name in request.headers if not name.startswith(":")),
        "claims": dict(request.claims.payload) if request.claims is not None else None,
    }


def _origin(view: MeshView, key: ResourceKey) -> PolicyOrigin:
    source = view.source(key)
    line = source.position(()).line if source is not None else 0
    return PolicyOrigin(key.namespace, key.name, source.file if source is not None else "", line)


def _position(view: MeshView, key: ResourceKey) -> str:
    return _origin(view, key).position


def rule_position(view: MeshView, kind: str, origin: PolicyOrigin, index: int) -> str:
    """`file:line` of a rule, or of its resource where lines of fields are not known."""
    source = view.source(ResourceKey(kind, origin.namespace, origin.name))
    if source is None:
        return origin.position
    rules = "jwtRules" if kind == AUTHENTICATION else "rules"
    return f"{source.file}:{source.position(('spec', rules, index)).line}"


def nearest_rules(rules: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each policy (and action) the rule that matched, else the one with the fewest failed conditions; in evaluation order."""
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for rule in rules:
        key = (rule["action"], rule["policy"])
        if key not in best or _distance(rule) < _distance(best[key]):
            best[key] = rule
    return list(best.values())


def _distance(rule: Mapping[str, Any]) -> tuple[bool, bool, int]:
    return (not rule["matched"], bool(rule["skipped"]), len(rule["failed"]))
