"""The policies of every workload, as the control plane last sent them: compiled on arrival, swapped whole.

A workload whose policies cannot be compiled is kept with the reason and everything to it is denied; the control plane gets the same
reason back as a NACK. A workload that was never sent is not known, and denied too.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
from google.protobuf.message import DecodeError

from lateen.adsclient.client import ResourcesRejected
from lateen.envoyapi.lateen.v1alpha1 import workload_pb2
from lateen.jwks.keeper import KeyUri
from lateen.jwks.keys import JwksError, KeySet, parse_jwks
from lateen.mesh.authorizationpolicy import AuthorizationPolicySpec
from lateen.mesh.requestauthentication import RequestAuthenticationSpec
from lateen.policy.compile import DRY_RUN, AttachedPolicy, PolicyOrigin, PolicySet, compile_policies
from lateen.policy.errors import PolicyError
from lateen.policy.tokens import KeySource, TokenRules, compile_token_rules

_S = TypeVar("_S", AuthorizationPolicySpec, RequestAuthenticationSpec)

GRACE_SECONDS: Final = 30.0
WORKLOAD_POLICY: Final = "type.googleapis.com/lateen.dev.v1alpha1.WorkloadPolicy"


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """What is compiled of a WorkloadPolicy. Workloads to which the very same policies apply share one."""

    policies: PolicySet
    tokens: TokenRules
    inline_keys: Mapping[str, KeySet]


@dataclass(frozen=True, slots=True)
class Workload:
    """One enforcement target: who may ask for it, and what applies to it."""

    target: str
    callers: frozenset[str]
    """Identities of the proxies that stand in front of it."""
    trusted_hops: int = 0
    rules: Rules | None = None
    error: str = ""
    """Why there are no rules: everything is denied with it."""


class Policies:
    """The current workloads. `take` is an ADS client's `on_resources`; readers see one complete state or the next.

    When the last policy of a workload goes, its proxies go on asking until their own configuration follows. For that time
    (`GRACE_SECONDS`) the policies that went still decide, so that deleting a policy fails no request; then the target is unknown.
    """

    def __init__(
        self,
        want_keys: Callable[[Iterable[tuple[KeyUri, float]]], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`want_keys` is told which key URIs the current policies need."""
        self._want_keys = want_keys
        self._monotonic = monotonic
        self._workloads: Mapping[str, Workload] = {}
        self._shared: dict[bytes, Rules] = {}
        self._leaving: dict[str, tuple[Workload, float]] = {}
        self.generation = 0
        """Goes up with every change."""
        self._log = structlog.get_logger()

    def get(self, target: str) -> Workload | None:
        """The workload called `target`."""
        workload = self._workloads.get(target)
        if workload is None and target in self._leaving:
            workload, until = self._leaving[target]
            return workload if self._monotonic() < until else None
        return workload

    def __len__(self) -> int:
        """Number of workloads known."""
        return len(self._workloads)

    def broken(self) -> Mapping[str, str]:
        """Workloads whose policies could not be compiled, with the reason."""
        return {name: w.error for name, w in self._workloads.items() if w.error}

    def take(self, changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        """Compile what changed and swap; raises ResourcesRejected for what could not be compiled."""
        compiled = {name: compile_workload(name, data, self._shared) for name, data in changed.items()}
        now = self._monotonic()
        self._leaving = {name: left for name, left in self._leaving.items() if now < left[1] and name not in compiled}
        workloads = dict(self._workloads)
        for name in removed:
            if (workload := workloads.pop(name, None)) is not None:
                self._leaving[name] = (workload, now + GRACE_SECONDS)
        workloads.update(compiled)
        self._workloads = workloads
        self.generation += 1
        in_use = {id(workload.rules) for workload in workloads.values()}
        self._shared = {key: rules for key, rules in self._shared.items() if id(rules) in in_use}
        self._want_keys(_key_uris([*workloads.values(), *(workload for workload, _ in self._leaving.values())]))
        rejected = {name: w.error for name, w in compiled.items() if w.error}
        self._log.info("policies taken over", changed=len(changed), removed=len(removed), rejected=len(rejected))
        if rejected:
            self._log.error("policies refused, their workloads deny everything", reasons=rejected)
            raise ResourcesRejected(rejected)


def _key_uris(workloads: Iterable[Workload]) -> list[tuple[KeyUri, float]]:
    return [
        (KeyUri(rule.keys.url, rule.keys.issuer), rule.fetch_timeout)
        for workload in workloads
        if workload.rules is not None
        for rule in workload.rules.tokens.rules
        if not rule.keys.inline
    ]


def compile_workload(name: str, data: bytes, shared: dict[bytes, Rules]) -> Workload:
    """Decode and compile one WorkloadPolicy; never raises, a fault becomes the workload's `error`. `shared` is read and added to."""
    callers: frozenset[str] = frozenset()
    try:
        message = workload_pb2.WorkloadPolicy.FromString(data)
        callers = _callers(message)
        if message.target != name:
            raise PolicyError(f'the resource "{name}" is for the target "{message.target}"')
        key = _content(message)
        if (rules := shared.get(key)) is None:
            rules = shared[key] = _compiled(message)
        return Workload(name, callers, message.trusted_hops, rules)
    except (PolicyError, JwksError, ValueError, DecodeError, RecursionError, SyntaxError) as error:
        return Workload(name, callers, error=_one_line(error))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:1000] or type(error).__name__


def _callers(message: workload_pb2.WorkloadPolicy) -> frozenset[str]:
    if not message.namespace or not message.service_account:
        return frozenset()
    domains = (message.trust_domain or "cluster.local", *message.trust_domain_aliases)
    return frozenset(f"spiffe://{d}/ns/{message.namespace}/sa/{message.service_account}" for d in domains)


def _content(message: workload_pb2.WorkloadPolicy) -> bytes:
    """Everything of a message that its rules depend on."""
    content = workload_pb2.WorkloadPolicy(
        trust_domain=message.trust_domain,
        trust_domain_aliases=message.trust_domain_aliases,
        authorization_policies=message.authorization_policies,
        request_authentications=message.request_authentications,
    )
    return content.SerializeToString(deterministic=True)


def _compiled(message: workload_pb2.WorkloadPolicy) -> Rules:
    domains = (message.trust_domain or "cluster.local", *message.trust_domain_aliases)
    policies = [
        AttachedPolicy(
            _origin(attached),
            _spec(attached, AuthorizationPolicySpec),
            dry_run=attached.annotations.get(DRY_RUN, "").lower() == "true",
        )
        for attached in message.authorization_policies
    ]
    authentications = [(_origin(a), _spec(a, RequestAuthenticationSpec)) for a in message.request_authentications]
    tokens = compile_token_rules(authentications)
    return Rules(compile_policies(policies, domains), tokens, _inline_keys(tokens))


def _inline_keys(tokens: TokenRules) -> Mapping[str, KeySet]:
    keys = {}
    for rule in tokens.rules:
        if rule.keys.inline and rule.keys.inline not in keys:
            try:
                keys[rule.keys.inline] = parse_jwks(rule.keys.inline)
            except JwksError as error:
                raise PolicyError(f"RequestAuthentication {rule.origin} jwtRules[{rule.index}].jwks: {error}") from None
        elif rule.keys == KeySource():
            raise PolicyError(
                f"RequestAuthentication {rule.origin} jwtRules[{rule.index}] needs jwks, jwksUri or an issuer"
            )
    return keys


def _origin(attached: workload_pb2.AttachedResource) -> PolicyOrigin:
    return PolicyOrigin(attached.namespace, attached.name, attached.file, attached.line, tuple(attached.rule_lines))


def _spec(attached: workload_pb2.AttachedResource, model: type[_S]) -> _S:
    try:
        return model.model_validate(json.loads(attached.spec_json or "{}"))
    except ValueError as error:
        raise PolicyError(f"{attached.kind} {attached.namespace}/{attached.name}: {error}") from None
