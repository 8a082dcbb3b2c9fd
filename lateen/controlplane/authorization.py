"""The filters that authorize the traffic into one workload: external authorizers, and for `enforcement: native` Envoy's own. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from google.protobuf.message import Message

from lateen.controlplane.custom_authz import Asking, askings
from lateen.controlplane.findings import TranslationError
from lateen.controlplane.native_jwt import KeysOf, jwt_filter, sanitise_filter
from lateen.controlplane.native_matchers import CLAIMS_NAMESPACE as JWT_CLAIMS
from lateen.controlplane.native_rbac import REPORTS, Step, refuse_all, steps
from lateen.controlplane.protos import packed
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2 as lc
from lateen.envoyapi.envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.envoyapi.envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac
from lateen.jwks.keys import JwksError, KeySet, parse_jwks
from lateen.mesh.authorizationpolicy import Action, AuthorizationPolicy
from lateen.mesh.engine import engine_of
from lateen.mesh.meshconfig import EnforcementEngine
from lateen.mesh.requestauthentication import RequestAuthentication, RequestAuthenticationSpec
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload
from lateen.policy.attributes import Context
from lateen.policy.compile import DRY_RUN, AttachedPolicy, PolicyOrigin, PolicySet, compile_policies
from lateen.policy.errors import PolicyError
from lateen.policy.limit_actions import CLAIMS_NAMESPACE as SERVICE_CLAIMS
from lateen.policy.matching import Constants
from lateen.policy.problems import Place, Problem, rule_problems
from lateen.policy.tokens import KeySource, TokenRules, compile_token_rules

_HTTP: Final = "envoy.filters.http."
_NETWORK: Final = "envoy.filters.network."
_F = TypeVar("_F", hcm.HttpFilter, lc.Filter)


@dataclass(frozen=True, slots=True)
class Checks:
    """What stands in front of a workload besides our authorization service."""

    http: tuple[hcm.HttpFilter, ...] = ()
    tcp: tuple[lc.Filter, ...] = ()
    ask_service: bool = False
    """Whether our service decides about what the filters have let pass."""
    claims_namespace: str = SERVICE_CLAIMS
    """Where verified claims are found in dynamic metadata, under `payload`."""


@dataclass(frozen=True, slots=True)
class Applying:
    """The policies of one workload, compiled."""

    policies: PolicySet
    tokens: TokenRules
    trust_domains: tuple[str, ...]


def no_keys(_: KeySource) -> KeySet | None:
    """For whoever has fetched none."""
    return None


def checks_of(view: MeshView, workload: Workload, keys: KeysOf = no_keys, *, routes_on_claims: bool = False) -> Checks:
    """The filters for the policies that select a workload. What rbac cannot express denies everything: it is never approximated."""
    policies, authentications = view.authorization_policies(workload), view.request_authentications(workload)
    native = engine_of(view, workload) is EnforcementEngine.NATIVE
    custom = any(policy.spec.action is Action.CUSTOM for policy in policies)
    ask = not native and (bool(authentications) or any(p.spec.action is not Action.CUSTOM for p in policies))
    if not policies and not authentications:
        return Checks()
    namespace = JWT_CLAIMS if native else SERVICE_CLAIMS
    if not native and not custom:
        return Checks(ask_service=True)
    try:
        applying = applying_to(view, policies, authentications)
        http = _http_filters(view, applying, _with_inline(keys), native=native, routes_on_claims=routes_on_claims)
        return Checks(tuple(http), tuple(_tcp_filters(view, applying, native=native)), ask, namespace)
    except (PolicyError, JwksError, TranslationError, ValueError):
        refused = refuse_all()
        return Checks((_http_rbac(refused),), (_network_rbac(refused),), ask, namespace)


def only_reports(policy: AuthorizationPolicy) -> bool:
    """Whether a policy decides nothing: AUDIT, or in dry-run."""
    return policy.spec.action is Action.AUDIT or is_dry_run(policy)


def is_dry_run(policy: AuthorizationPolicy) -> bool:
    """Whether a policy is only tried."""
    return policy.metadata.annotations.get(DRY_RUN, "").lower() == "true"


def applying_to(
    view: MeshView, policies: Sequence[AuthorizationPolicy], authentications: Sequence[RequestAuthentication]
) -> Applying:
    """Compile what selects one workload; PolicyError or JwksError names what cannot be."""
    domains = (view.trust_domain, *view.mesh.trust_domain_aliases)
    attached = [
        AttachedPolicy(
            PolicyOrigin(p.namespace, p.name),
            p.spec,
            dry_run=is_dry_run(p),
        )
        for p in policies
    ]
    tokens = compile_token_rules([(PolicyOrigin(a.namespace, a.name), a.spec) for a in authentications])
    for rule in tokens.rules:
        if rule.keys == KeySource():
            raise PolicyError(
                f"RequestAuthentication {rule.origin} jwtRules[{rule.index}] needs jwks, jwksUri or an issuer"
            )
        if rule.keys.inline:
            parse_jwks(rule.keys.inline)
    return Applying(compile_policies(attached, domains), tokens, domains)


def broken_rules(view: MeshView, policy: AuthorizationPolicy | RequestAuthentication) -> Iterator[Problem]:
    """Everything in a policy that no engine can enforce: where it stands below `spec`, and why.

    One is enough to deny everything, unless the policy only reports (`only_reports`).
    """
    if isinstance(policy, RequestAuthentication):
        problems = list(_token_problems(policy.spec))
        yield from problems or _unplaced((), lambda: applying_to(view, [], [policy]))
        return
    domains = (view.trust_domain, *view.mesh.trust_domain_aliases)
    for index, rule in enumerate(policy.spec.rules):
        place = ("rules", index)
        problems = list(rule_problems(rule, Context(Constants(), policy.namespace, domains)))
        alone = policy.spec.model_copy(update={"rules": (rule,), "action": Action.DENY})
        attached = AttachedPolicy(PolicyOrigin(policy.namespace, policy.name), alone)
        yield from (
            ((place + at, problem) for at, problem in problems)
            if problems
            else _unplaced(place, partial(compile_policies, [attached], domains))
        )


def _token_problems(spec: RequestAuthenticationSpec) -> Iterator[Problem]:
    """Each token rule that has no keys, or keys that cannot be used."""
    for index, rule in enumerate(spec.jwt_rules):
        if rule.jwks:
            try:
                parse_jwks(rule.jwks)
            except (JwksError, ValueError) as error:
                yield ("jwtRules", index, "jwks"), str(error)
        elif not rule.keys_url and not rule.issuer:
            yield ("jwtRules", index), "needs jwks, jwksUri or an issuer"


def _unplaced(place: Place, compiled: Callable[[], object]) -> Iterator[Problem]:
    """What only shows when the whole is put together."""
    try:
        compiled()
    except (PolicyError, JwksError, ValueError) as error:
        yield place, str(error).rpartition(" rules[0]: ")[2]


def native_problem(view: MeshView, policy: AuthorizationPolicy | RequestAuthentication) -> str:
    """Why one policy cannot be enforced by Envoy itself; nothing when it can."""
    policies = [policy] if isinstance(policy, AuthorizationPolicy) else []
    authentications = [policy] if isinstance(policy, RequestAuthentication) else []
    try:
        applying = applying_to(view, policies, authentications)
        for http in (True, False):
            steps(applying.policies, applying.trust_domains, http=http)
            askings(view, applying.policies.custom.rules, applying.trust_domains, http=http)
    except (PolicyError, JwksError, TranslationError, ValueError) as error:
        return str(error)
    return ""


def _with_inline(keys: KeysOf) -> KeysOf:
    return lambda source: parse_jwks(source.inline) if source.inline else keys(source)


def _http_filters(
    view: MeshView, applying: Applying, keys: KeysOf, *, native: bool, routes_on_claims: bool
) -> Iterator[hcm.HttpFilter]:
    tokens, policies = applying.tokens, applying.policies
    if tokens.sanitised:
        yield _http("header_mutation", sanitise_filter(tokens.sanitised))
    if tokens.rules:
        yield _http("jwt_authn", jwt_filter(tokens, keys, routes_on_claims=routes_on_claims, observe=not native))
    for asking in askings(view, policies.custom.rules, applying.trust_domains, http=True):
        yield from _asking(asking, _http_rbac, lambda a: _http(f"ext_authz.{a.provider}", a.http) if a.http else None)
    if native:
        yield from map(_http_rbac, steps(policies, applying.trust_domains, http=True))


def _tcp_filters(view: MeshView, applying: Applying, *, native: bool) -> Iterator[lc.Filter]:
    for asking in askings(view, applying.policies.custom.rules, applying.trust_domains, http=False):
        if asking.choose.rules or asking.choose.shadow:
            yield from _asking(
                asking, _network_rbac, lambda a: _tcp(f"ext_authz.{a.provider}", a.network) if a.network else None
            )
    if native:
        yield from map(_network_rbac, steps(applying.policies, applying.trust_domains, http=False))


def _asking(asking: Asking, choose: Callable[[Step], _F], ask: Callable[[Asking], _F | None]) -> Iterator[_F]:
    yield choose(asking.choose)
    filter_ = ask(asking)
    if filter_ is not None:
        yield filter_


def _http(name: str, config: Message) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=_HTTP + name, typed_config=packed(config))


def _tcp(name: str, config: Message) -> lc.Filter:
    return lc.Filter(name=_NETWORK + name, typed_config=packed(config))


def http_rules(step: Step) -> http_rbac.RBAC:
    """A step as the configuration of the HTTP filter."""
    return http_rbac.RBAC(
        rules=step.rules,
        shadow_rules=step.shadow,
        shadow_rules_stat_prefix=step.prefix if step.shadow else "",
        track_per_rule_stats=step.shadow is not None and step.prefix in REPORTS,  # costs microseconds a request
    )


def _http_rbac(step: Step) -> hcm.HttpFilter:
    return _http(f"rbac.{step.name}", http_rules(step))


def _network_rbac(step: Step) -> lc.Filter:
    config = network_rbac.RBAC(
        rules=step.rules,
        shadow_rules=step.shadow,
        shadow_rules_stat_prefix=step.prefix if step.shadow else "",
        stat_prefix="tcp.",
    )
    return _tcp(f"rbac.{step.name}", config)
