"""One Check, from bytes to bytes: whatever server carries it calls `Checker.check`, and nothing here knows which.

Everything that is not clearly allowed is denied: an unknown target, a caller that does not stand in front of it, policies that could not
be compiled, a request that makes no sense, and our own bugs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from typing import Final, NamedTuple

import structlog

from extauthz.answers import FORBIDDEN, OK, UNAUTHORIZED, allow, deny, effective_headers, realm_of, unauthenticated
from extauthz.authenticate import NO_CHANGES, Authentication, Refusal, authenticate
from extauthz.checkrequest import Check, MalformedRequest, parse_check
from extauthz.decide import Decision, Verdict, decide
from extauthz.decisionlog import DecisionLog
from extauthz.denials import SECRET_HEADERS, Denial, Denials, new_denial_id, redacted
from extauthz.metrics import Metrics
from extauthz.policies import Policies, Rules, Workload
from extauthz.seen import Seen, SeenTokens, Watched, key_of
from extauthz.tokens import TokenCache, VerifiedToken, verify_token
from lateen.jwks.keeper import KeyKeeper, KeyUri
from lateen.jwks.keys import KeySet
from lateen.policy.compile import PolicySet
from lateen.policy.request import CheckInput
from lateen.policy.tokens import KeySource, TokenRule, is_cors_preflight

TARGET_HEADER: Final = "x-lateen-target"
PEER_HEADER: Final = "x-lateen-peer"
_MAX_TARGET: Final = 512
_NOTHING: Final = CheckInput(http=False)


class Outcome(NamedTuple):
    """The answer, and what the log and the metrics say of it."""

    answer: bytes
    decision: Decision
    policy: str


class Undecided(NamedTuple):
    """A request whose tokens are good only if newer keys say so."""

    target: str
    rules: Rules
    check: Check
    refusal: Refusal
    held: dict[KeySource, KeySet | None]


class Checker:
    """Answers Check calls from the current policies and keys."""

    def __init__(
        self,
        policies: Policies,
        keeper: KeyKeeper,
        metrics: Metrics,
        denials: Denials,
        *,
        now: Callable[[], float] = time.time,
        log: DecisionLog | None = None,
        redact_headers: Collection[str] = (),
    ) -> None:
        """`redact_headers` are shown nowhere, as those that everybody knows to be secret."""
        self._policies = policies
        self._keeper = keeper
        self._metrics = metrics
        self._denials = denials
        self._now = now
        self._decisions = log or DecisionLog(metrics)
        self._secret_headers = SECRET_HEADERS.union(redact_headers)
        self._log = structlog.get_logger("extauthz.decisions")
        self.tokens = TokenCache()
        self.seen = SeenTokens()

    def check(self, target: str, caller: str, data: bytes, *, peer: str = "") -> bytes | Awaitable[bytes]:
        """Decide one encoded CheckRequest for `target`, asked by the proxy with the identity `caller`.

        `peer` is the address that the connection really came from, where a load balancer announces another (PROXY protocol).

        The answer is there at once, unless keys have to be fetched first: then it is awaited.
        """
        started = time.perf_counter()
        try:
            outcome = self._check(target, caller, data, peer)
        except Exception:  # noqa: BLE001 - whatever the fault, a request must not pass unchecked
            outcome = self._failed(target)
        return self._later(outcome, started) if isinstance(outcome, Undecided) else self._counted(outcome, started)

    async def _later(self, undecided: Undecided, started: float) -> bytes:
        try:
            outcome = await self._with_newer_keys(undecided)
        except Exception:  # noqa: BLE001 - as above
            outcome = self._failed(undecided.target)
        return self._counted(outcome, started)

    def _counted(self, outcome: Outcome, started: float) -> bytes:
        self._metrics.decided(str(outcome.decision.verdict), outcome.policy, time.perf_counter() - started)
        return outcome.answer

    def _failed(self, target: str) -> Outcome:
        self._log.exception("a check failed, the request is denied", target=target)
        return self._denied(target, _NOTHING, None, Decision(Verdict.DENY, reason="internal error"))

    def _check(self, target: str, caller: str, data: bytes, peer: str) -> Outcome | Undecided:
        workload = self._policies.get(target)
        problem = _problem(workload, target, caller)
        if workload is None or workload.rules is None or problem:
            hops = workload.trusted_hops if workload is not None else 0
            return self._denied(target, _asked(data, hops), None, Decision(Verdict.DENY, reason=problem))
        try:
            check = parse_check(data, workload.trusted_hops)
        except MalformedRequest as error:
            return self._denied(target, _NOTHING, None, Decision(Verdict.DENY, reason=str(error)))
        if peer:
            check = check._replace(input=check.input._replace(source_ip=peer))
        rules = workload.rules
        if not rules.tokens.rules or not check.input.http:
            return self._decided(target, rules, check, NO_CHANGES)
        if is_cors_preflight(check.input.method, check.input.headers):
            return self._decided(target, rules, check, Authentication(remove_headers=rules.tokens.sanitised))
        key = key_of(rules.tokens, rules, check.input.headers, check.query)
        seen = self.seen.get(key, self._policies.generation, self._now(), lambda source: self._keys(rules, source))
        if seen is not None:
            return self._decided(target, rules, check, seen.authentication, seen)
        held: dict[KeySource, KeySet | None] = {}
        found, seen = self._authenticate(rules, check, held)
        if isinstance(found, Refusal):
            if any(not source.inline for source in found.retry):
                return Undecided(target, rules, check, found, held)
            return self._decided(target, rules, check, found)
        if seen is not None:
            self.seen.put(key, seen)
        return self._decided(target, rules, check, found, seen)

    def _decided(
        self,
        target: str,
        rules: Rules,
        check: Check,
        authentication: Authentication | Refusal,
        seen: Seen | None = None,
    ) -> Outcome:
        if isinstance(authentication, Refusal):
            return self._unauthenticated(target, check, rules.policies, authentication)
        request = check.input
        if authentication is not NO_CHANGES:
            claims = authentication.token.claims if authentication.token is not None else None
            headers = effective_headers(request.headers, authentication, rules.policies.header_names)
            request = request._replace(claims=claims, headers=headers)
        decision = decide(rules.policies, request)
        if decision.verdict is Verdict.ALLOW:
            return self._allowed(target, request, rules.policies, decision, authentication, seen=seen)
        return self._denied(target, request, rules.policies, decision, authentication)

    def _authenticate(
        self, rules: Rules, check: Check, held: dict[KeySource, KeySet | None]
    ) -> tuple[Authentication | Refusal, Seen | None]:
        """Apply the token rules with the keys in `held`, and put there those that were looked up; and what of it lasts."""
        now = self._now()

        def verify(token: str, rule: TokenRule) -> VerifiedToken:
            if rule.keys not in held:
                held[rule.keys] = self._keys(rules, rule.keys)
            return verify_token(token, rule, held[rule.keys], now, self.tokens)

        watched = Watched(verify)
        found = authenticate(rules.tokens, check.input.headers, check.query, watched)
        return found, watched.seen(found, held) if isinstance(found, Authentication) else None

    async def _with_newer_keys(self, undecided: Undecided) -> Outcome:
        target, rules, check, found, held = undecided
        sources = [source for source in found.retry if not source.inline]
        asked = (self._keeper.newer(KeyUri(s.url, s.issuer), held.get(s)) for s in sources)
        newer = dict(zip(sources, await asyncio.gather(*asked), strict=True))
        if any(keys is not held.get(source) for source, keys in newer.items()):
            return self._decided(target, rules, check, self._authenticate(rules, check, {**held, **newer})[0])
        return self._decided(target, rules, check, found)

    def _keys(self, rules: Rules, source: KeySource) -> KeySet | None:
        if source.inline:
            return rules.inline_keys.get(source.inline)
        return self._keeper.keys(KeyUri(source.url, source.issuer))

    def _allowed(
        self,
        target: str,
        request: CheckInput,
        policies: PolicySet,
        decision: Decision,
        authentication: Authentication,
        *,
        seen: Seen | None,
    ) -> Outcome:
        facts = _facts(decision, OK)
        if self._decisions.wants(decision):
            shown = redacted(request, policies, self._secret_headers)
            self._decisions.write(target, shown, decision, facts._asdict())
        self._report(decision)
        if seen is None or decision.audit is not None or decision.dry_run:
            return Outcome(allow(authentication, decision), decision, facts.policy)
        return Outcome(seen.answer(decision.rule, lambda: allow(authentication, decision)), decision, facts.policy)

    def _denied(
        self,
        target: str,
        request: CheckInput,
        policies: PolicySet | None,
        decision: Decision,
        authentication: Authentication | None = None,
    ) -> Outcome:
        facts = _facts(decision, FORBIDDEN, new_denial_id())
        self._decisions.write(target, self._remember(target, request, policies, facts), decision, facts._asdict())
        self._report(decision)
        return Outcome(deny(facts.denial_id, decision, authentication), decision, facts.policy)

    def _unauthenticated(self, target: str, check: Check, policies: PolicySet, refusal: Refusal) -> Outcome:
        rule = refusal.rule
        # The operator also learns why there are no keys, which is nobody else's business.
        errors = [self._keeper.error(KeyUri(s.url, s.issuer)) for s in refusal.retry if not s.inline]
        reason = "; ".join([refusal.reason, *(e for e in errors if e)])
        decision = Decision(Verdict.UNAUTHENTICATED, reason=refusal.reason)
        position = rule.origin.position_of(rule.index)
        facts = Facts(UNAUTHORIZED, reason, str(rule.origin), rule.index, position, new_denial_id())
        self._decisions.write(target, self._remember(target, check.input, policies, facts), decision, facts._asdict())
        realm = realm_of(check.scheme, check.input.host, check.input.path)
        return Outcome(unauthenticated(facts.denial_id, decision, rule, realm), decision, facts.policy)

    def _remember(self, target: str, request: CheckInput, policies: PolicySet | None, facts: "Facts") -> CheckInput:
        """Keep a denial; returns the request as it may be shown."""
        shown = redacted(request, policies, self._secret_headers)
        self._denials.add(
            Denial(
                id=facts.denial_id,
                at=datetime.fromtimestamp(self._now(), UTC),
                target=target[:_MAX_TARGET],
                status=facts.status,
                reason=facts.reason,
                policy=facts.policy,
                rule=facts.rule,
                position=facts.position,
                request=shown,
                policies=policies,
            )
        )
        return shown

    def _report(self, decision: Decision) -> None:
        if decision.audit is not None or decision.dry_run:
            audit = str(decision.audit.origin) if decision.audit is not None else ""
            self._metrics.reported(audit, decision.dry_run)


class Facts(NamedTuple):
    """A decision as it is logged and remembered."""

    status: int
    reason: str
    policy: str
    rule: int | None
    position: str
    denial_id: str = ""


def _facts(decision: Decision, status: int, denial_id: str = "") -> Facts:
    if decision.rule is None:
        return Facts(status, decision.reason, "none", None, "", denial_id)
    origin, index = decision.rule.origin, decision.rule.index
    return Facts(status, decision.reason, str(origin), index, origin.position_of(index), denial_id)


def _asked(data: bytes, trusted_hops: int) -> CheckInput:
    """What was asked, to tell it: it is denied whatever it is."""
    try:
        return parse_check(data, trusted_hops).input
    except MalformedRequest:
        return _NOTHING


def _problem(workload: Workload | None, target: str, caller: str) -> str:
    """Why this caller gets no decision about this target, whatever the request."""
    if workload is None:
        return (
            f'no policies for the target "{target[:200]}"'
            if target
            else "the proxy did not say for which target it asks"
        )
    if caller not in workload.callers:
        return f'"{caller[:300]}" does not stand in front of {workload.target}'
    if workload.error:
        return f"the policies of {workload.target} cannot be used: {workload.error}"
    return ""
