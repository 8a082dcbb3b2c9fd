"""RequestAuthentication applied to one request: which token counts, what it changes in the headers, or why it is refused.

Istio's rule over several issuers: the request passes when one issuer's tokens are all valid, or when it carries no token at all where
any of them looks. No token is no identity, not a refusal: an AuthorizationPolicy must ask for one.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from extauthz.tokens import TokenRefused, VerifiedToken
from lateen.policy.claims import claim_text
from lateen.policy.tokens import FoundToken, KeySource, Place, TokenRule, TokenRules, find_tokens, without_cookie

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


def authenticate(rules: TokenRules, headers: Mapping[str, str], query: str, verify: Verify) -> Authentication | Refusal:
    """Apply the token rules of a workload."""
    refusals: list[tuple[TokenRefused, TokenRule]] = []
    for rule in rules.rules:
        found = find_tokens(rule, headers, query)
        if not found:
            continue
        try:
            # All tokens an issuer's rule finds must be valid: the application might read the other one.
            verified = [verify(item.token, rule) for item in found]
        except TokenRefused as refused:
            refusals.append((refused, rule))
            continue
        return _accepted(rules, rule, found, verified[0], headers)
    if refusals:
        clearest, of_rule = min(refusals, key=lambda r: r[0].other_issuer)
        return Refusal(clearest.reason, of_rule, tuple(r.keys for e, r in refusals if e.retry))
    return Authentication(remove_headers=rules.sanitised) if rules.sanitised else NO_CHANGES


def _accepted(
    rules: TokenRules, rule: TokenRule, found: list[FoundToken], token: VerifiedToken, headers: Mapping[str, str]
) -> Authentication:
    to_set: dict[str, str] = {}
    to_remove = set(rules.sanitised)
    parameters: set[str] = set()
    if not rule.forward:
        for location in {item.location for item in found}:
            if location.place is Place.HEADER:
                to_remove.add(location.name)
            elif location.place is Place.PARAMETER:
                parameters.add(location.name)
            else:
                to_set["cookie"] = without_cookie(to_set.get("cookie", headers.get("cookie", "")), location.name)
    if to_set.get("cookie") == "":
        to_remove.add(to_set.popitem()[0])
    for header, path in rule.claim_headers:
        text = claim_text(token.claims, path)
        if text is not None:
            to_set[header] = text
    if rule.payload_header:
        to_set[rule.payload_header] = token.payload
    return Authentication(token, to_set, frozenset(to_remove - to_set.keys()), frozenset(parameters))
