"""One Check, from bytes to bytes: whatever server carries it calls `Checker.check`, and nothing here knows which.

Everything that is not clearly allowed is denied: an unknown target, a caller that does not stand in front of it, policies that could not
be compiled, a request that makes no sense, and our own bugs.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

import structlog

from extauthz.answers import FORBIDDEN, OK, UNAUTHORIZED, allow, deny, effective_headers, realm_of, unauthenticated
from extauthz.authenticate import NO_CHANGES, Authentication, Refusal, authenticate
from extauthz.checkrequest import Check, MalformedRequest, parse_check
from extauthz.decide import Decision, Verdict, decide
from extauthz.denials import Denial, Denials, new_denial_id, redacted
from extauthz.metrics import Metrics
from extauthz.policies import Policies, Rules, Workload
from extauthz.tokens import TokenCache, VerifiedToken, verify_token
from lateen.jwks.keeper import KeyKeeper, KeyUri
from lateen.jwks.keys import KeySet
from lateen.policy.compile import PolicySet
from lateen.policy.request import CheckInput
from lateen.policy.tokens import KeySource, TokenRule, is_cors_preflight

TARGET_HEADER: Final = "x-lateen-target"
_MAX_TARGET: Final = 512
_NOTHING: Final = CheckInput(http=False)


class Outcome(NamedTuple):
    """The answer, and what the log and the metrics say of it."""

    answer: bytes
    decision: Decision
    policy: str


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
        log_allowed: bool = False,
    ) -> None:
        """`log_allowed` logs every decision rather than denials only."""
        self._policies = policies
        self._keeper = keeper
        self._metrics = metrics
        self._denials = denials
        self._now = now
        self._log_allowed = log_allowed
        self._log = structlog.get_logger("extauthz.decisions")
        self.tokens = TokenCache()

    async def check(self, target: str, caller: str, data: bytes) -> bytes:
        """Decide one encoded CheckRequest for `target`, asked by the proxy with the identity `caller`."""
        started = time.perf_counter()
        try:
            outcome = await self._check(target, caller, data)
        except Exception:  # noqa: BLE001 - whatever the fault, a request must not pass unchecked
            self._log.exception("a check failed, the request is denied", target=target)
            outcome = self._denied(target, _NOTHING, None, Decision(Verdict.DENY, reason="internal error"))
        self._metrics.decided(str(outcome.decision.verdict), outcome.policy, time.perf_counter() - started)
        return outcome.answer

    async def _check(self, target: str, caller: str, data: bytes) -> Outcome:
        workload = self._policies.get(target)
        problem = _problem(workload, target, caller)
        if workload is None or workload.rules is None or problem:
            return self._denied(target, _NOTHING, None, Decision(Verdict.DENY, reason=problem))
        try:
            check = parse_check(data, workload.trusted_hops)
        except MalformedRequest as error:
            return self._denied(target, _NOTHING, None, Decision(Verdict.DENY, reason=str(error)))
        rules = workload.rules
        authentication = NO_CHANGES
        request = check.input
        if rules.tokens.rules and request.http:
            outcome = await self._authenticate(rules, check)
            if isinstance(outcome, Refusal):
                return self._unauthenticated(target, check, rules.policies, outcome)
            authentication = outcome
            claims = outcome.token.claims if outcome.token is not None else None
            request = request._replace(claims=claims, headers=effective_headers(request.headers, outcome))
        decision = decide(rules.policies, request)
        if decision.verdict is Verdict.ALLOW:
            return self._allowed(target, request, decision, authentication)
        return self._denied(target, request, rules.policies, decision, authentication)

    async def _authenticate(self, rules: Rules, check: Check) -> Authentication | Refusal:
        headers = check.input.headers
        if is_cors_preflight(check.input.method, headers):
            return Authentication(remove_headers=rules.tokens.sanitised)

        def attempt() -> Authentication | Refusal:
            return authenticate(rules.tokens, headers, check.query, verify)

        now = self._now()
        held: dict[KeySource, KeySet | None] = {}

        def verify(token: str, rule: TokenRule) -> VerifiedToken:
            if rule.keys not in held:
                held[rule.keys] = self._keys(rules, rule.keys)
            return verify_token(token, rule, held[rule.keys], now, self.tokens)

        outcome = attempt()
        if isinstance(outcome, Refusal) and (sources := [s for s in outcome.retry if not s.inline]):
            asked = (self._keeper.newer(KeyUri(s.url, s.issuer), held.get(s)) for s in sources)
            newer = dict(zip(sources, await asyncio.gather(*asked), strict=True))
            if any(keys is not held.get(source) for source, keys in newer.items()):
                held.update(newer)
                outcome = attempt()
        return outcome

    def _keys(self, rules: Rules, source: KeySource) -> KeySet | None:
        if source.inline:
            return rules.inline_keys.get(source.inline)
        return self._keeper.keys(KeyUri(source.url, source.issuer))

    def _allowed(self, target: str, request: CheckInput, decision: Decision, authentication: Authentication) -> Outcome:
        facts = _facts(decision, OK)
        if self._log_allowed or decision.audit is not None or decision.dry_run:
            self._record(target, redacted(request, None), decision, facts)
        return Outcome(allow(authentication, decision), decision, facts.policy)

    def _denied(
        self,
        target: str,
        request: CheckInput,
        policies: PolicySet | None,
        decision: Decision,
        authentication: Authentication | None = None,
    ) -> Outcome:
        facts = _facts(decision, FORBIDDEN, new_denial_id())
        self._record(target, self._remember(target, request, policies, facts), decision, facts)
        return Outcome(deny(facts.denial_id, decision, authentication), decision, facts.policy)

    def _unauthenticated(self, target: str, check: Check, policies: PolicySet, refusal: Refusal) -> Outcome:
        rule = refusal.rule
        # The operator also learns why there are no keys, which is nobody else's business.
        errors = [self._keeper.error(KeyUri(s.url, s.issuer)) for s in refusal.retry if not s.inline]
        reason = "; ".join([refusal.reason, *(e for e in errors if e)])
        decision = Decision(Verdict.UNAUTHENTICATED, reason=refusal.reason)
        facts = Facts(UNAUTHORIZED, reason, str(rule.origin), rule.index, rule.origin.position, new_denial_id())
        self._record(target, self._remember(target, check.input, policies, facts), decision, facts)
        realm = realm_of(check.scheme, check.input.host, check.input.path)
        return Outcome(unauthenticated(facts.denial_id, decision, rule, realm), decision, facts.policy)

    def _remember(self, target: str, request: CheckInput, policies: PolicySet | None, facts: "Facts") -> CheckInput:
        """Keep a denial; returns the request as it may be shown."""
        shown = redacted(request, policies)
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

    def _record(self, target: str, shown: CheckInput, decision: Decision, facts: "Facts") -> None:
        fields: dict[str, object] = {
            "target": target[:_MAX_TARGET],
            "verdict": str(decision.verdict),
            **facts._asdict(),
            "principal": shown.principal,
            "source_ip": shown.source_ip,
            "method": shown.method,
            "path": shown.path,
            "host": shown.host,
            "audit": f"{decision.audit.origin} rule {decision.audit.index}" if decision.audit is not None else "",
            "dry_run": decision.dry_run,
        }
        self._log.info("decision", **{name: value for name, value in fields.items() if value not in ("", None)})


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
    origin = decision.rule.origin
    return Facts(status, decision.reason, str(origin), decision.rule.index, origin.position, denial_id)


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
