"""RequestAuthentication applied to one request: which token counts, what it changes in the headers, or why it is refused.

Istio's rule over several issuers: the request passes when one issuer's tokens are all valid, or when it carries no token at all where
any of them looks. No token is no identity, not a refusal: an AuthorizationPolicy must ask for one, or `presence: REQUIRED`, which makes
the request carry a valid token of that rule and no invalid one of any other.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from extauthz.tokens import TokenRefused, VerifiedToken
from lateen.policy.claims import claim_text
from lateen.policy.tokens import FoundToken, KeySource, Place, TokenRule, TokenRules, find_tokens, without_cookie

MISSING: Final = "Jwt is missing"
Verify = Callable[[str, TokenRule], VerifiedToken]


class Refusal(NamedTuple):
    """A request with a token that cannot be accepted."""

    reason: str
    rule: TokenRule
    retry: tuple[KeySource, ...]
    """Key sources that may know better when asked again."""


class Authentication(NamedTuple):
    """The identity a request carries, if any, and what must change in it on its way to the application."""

    token: VerifiedToken | None = None
    set_headers: Mapping[str, str] = {}
    remove_headers: frozenset[str] = frozenset()
    remove_parameters: frozenset[str] = frozenset()


NO_CHANGES: Final = Authentication()


class _Accepted(NamedTuple):
    rule: TokenRule
    found: list[FoundToken]
    token: VerifiedToken


def authenticate(rules: TokenRules, headers: Mapping[str, str], query: str, verify: Verify) -> Authentication | Refusal:
    """Apply the token rules of a workload."""
    all_must_hold = any(rule.required for rule in rules.rules)
    accepted: list[_Accepted] = []
    refusals: list[tuple[TokenRefused, TokenRule]] = []
    for rule in rules.rules:
        found = find_tokens(rule, headers, query)
        try:
            # All tokens an issuer's rule finds must be valid: the application might read the other one.
            verified = [verify(item.token, rule) for item in found]
            if rule.required and not verified:
                raise TokenRefused(MISSING)
        except TokenRefused as refused:
            refusals.append((refused, rule))
            continue
        if verified:
            accepted.append(_Accepted(rule, found, verified[0]))
            if not all_must_hold:
                break
    if refusals and (all_must_hold or not accepted):
        clearest, of_rule = min(refusals, key=lambda r: r[0].other_issuer)
        return Refusal(clearest.reason, of_rule, tuple(r.keys for e, r in refusals if e.retry))
    if accepted:
        return _changes(rules, accepted, headers)
    return Authentication(remove_headers=rules.sanitised) if rules.sanitised else NO_CHANGES


def _changes(rules: TokenRules, accepted: list[_Accepted], headers: Mapping[str, str]) -> Authentication:
    """What the accepted tokens change. Where each of several rules needs its token, the last one in the order of issuers is who asks."""
    to_set: dict[str, str] = {}
    to_remove = set(rules.sanitised)
    parameters: set[str] = set()
    cookie = sent_cookie = headers.get("cookie", "")
    for rule, found, _ in accepted:
        for location in {item.location for item in found} if not rule.forward else ():
            if location.place is Place.HEADER:
                to_remove.add(location.name)
            elif location.place is Place.PARAMETER:
                parameters.add(location.name)
            else:
                cookie = without_cookie(cookie, location.name)
    if cookie != sent_cookie:
        if cookie:
            to_set["cookie"] = cookie
        else:
            to_remove.add("cookie")
    for rule, _, token in accepted:
        for header, path in rule.claim_headers:
            text = claim_text(token.claims, path)
            if text is not None:
                to_set[header] = text
        if rule.payload_header:
            to_set[rule.payload_header] = token.payload
    return Authentication(accepted[-1].token, to_set, frozenset(to_remove - to_set.keys()), frozenset(parameters))
