"""RequestAuthentication, compiled: where tokens are looked for, what they must be, and what becomes of them afterwards.

Verifying is for the enforcement point (it needs keys and a clock); everything about locations and headers is decided here, purely.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

from lateen.mesh.requestauthentication import JWTRequirement, JWTRule, RequestAuthenticationSpec
from lateen.policy.compile import PolicyOrigin

_TOKEN_CHARACTERS: Final = re.compile(r"[A-Za-z0-9_.-]+")


class Place(StrEnum):
    """Where a token may be carried."""

    HEADER = "header"
    PARAMETER = "parameter"
    COOKIE = "cookie"


class Location(NamedTuple):
    """One place to look for a token; `prefix` is for headers."""

    place: Place
    name: str
    prefix: str = ""


_DEFAULT_LOCATIONS: Final = (
    Location(Place.HEADER, "authorization", "Bearer "),
    Location(Place.PARAMETER, "access_token"),
)


class KeySource(NamedTuple):
    """Where a rule's keys come from: exactly one is set (`issuer`: by OIDC discovery)."""

    inline: str = ""
    url: str = ""
    issuer: str = ""


@dataclass(frozen=True, slots=True)
class TokenRule:
    """One `jwtRules` entry."""

    origin: PolicyOrigin
    index: int
    issuer: str
    audiences: frozenset[str]
    keys: KeySource
    fetch_timeout: float
    locations: tuple[Location, ...]
    required: bool
    """Whether a request without this rule's token is refused (`presence: REQUIRED`)."""
    forward: bool
    payload_header: str
    claim_headers: tuple[tuple[str, tuple[str, ...]], ...]
    """Header and claim path."""
    space_delimited: frozenset[str]
    fingerprint: str
    """Equal for rules that accept the same tokens and read them alike."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """All token rules of a workload, ordered by issuer; `sanitised` headers are never taken from a client."""

    rules: tuple[TokenRule, ...] = ()
    sanitised: frozenset[str] = frozenset()
    headers: tuple[str, ...] = ()
    """The headers that are looked at for tokens."""
    parameters: tuple[str, ...] = ()
    """The parameters of the query that are."""


class FoundToken(NamedTuple):
    """A token as it stands in the request."""

    token: str
    location: Location


def compile_token_rules(authentications: Sequence[tuple[PolicyOrigin, RequestAuthenticationSpec]]) -> TokenRules:
    """Collect the rules of every RequestAuthentication that applies to one workload."""
    rules = [_token_rule(origin, i, rule) for origin, spec in authentications for i, rule in enumerate(spec.jwt_rules)]
    rules.sort(key=lambda rule: rule.issuer)
    headers = {rule.payload_header for rule in rules} | {header for rule in rules for header, _ in rule.claim_headers}
    return TokenRules(tuple(rules), frozenset(headers - {""}), *_looked_at(rules))


def _looked_at(rules: Sequence[TokenRule]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The headers and the parameters that may carry a token."""
    places = [location for rule in rules for location in rule.locations]
    headers = {"cookie" if p.place is Place.COOKIE else p.name for p in places if p.place is not Place.PARAMETER}
    return tuple(sorted(headers)), tuple(sorted({p.name for p in places if p.place is Place.PARAMETER}))


def _token_rule(origin: PolicyOrigin, index: int, rule: JWTRule) -> TokenRule:
    if rule.jwks:
        keys = KeySource(inline=rule.jwks)
    elif rule.keys_url:
        keys = KeySource(url=rule.keys_url)
    else:
        keys = KeySource(issuer=rule.issuer or "")
    explicit = (
        *(Location(Place.HEADER, h.name.lower(), h.prefix or "") for h in rule.from_headers),
        *(Location(Place.PARAMETER, name) for name in rule.from_params),
        *(Location(Place.COOKIE, name) for name in rule.from_cookies),
    )
    space_delimited = frozenset(rule.space_delimited_claims)
    identity = repr((rule.issuer, sorted(rule.audiences), keys, sorted(space_delimited)))
    return TokenRule(
        origin=origin,
        index=index,
        issuer=rule.issuer or "",
        audiences=frozenset(rule.audiences),
        keys=keys,
        fetch_timeout=rule.timeout.total_seconds() if rule.timeout is not None else 5.0,
        locations=explicit or _DEFAULT_LOCATIONS,
        required=rule.presence is JWTRequirement.REQUIRED,
        forward=rule.forward_original_token,
        payload_header=(rule.output_payload_to_header or "").lower(),
        claim_headers=tuple((c.header.lower(), tuple(c.claim.split("."))) for c in rule.output_claim_to_headers),
        space_delimited=space_delimited,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
    )


def find_tokens(rule: TokenRule, headers: Mapping[str, str], query: str) -> list[FoundToken]:
    """Every token of the request at the rule's locations, in their order; all values of a name count that is there twice."""
    return [
        FoundToken(token, location) for location in rule.locations for token in _tokens_at(location, headers, query)
    ]


def _tokens_at(location: Location, headers: Mapping[str, str], query: str) -> list[str]:
    if location.place is Place.HEADER:
        value = headers.get(location.name)
        return _after_prefix(value, location.prefix) if value is not None else []
    pairs = _parameters(query) if location.place is Place.PARAMETER else _cookies(headers.get("cookie", ""))
    return [value for name, value in pairs if name == location.name]


def _after_prefix(value: str, prefix: str) -> list[str]:
    """The tokens after each prefix, taken as Envoy's jwt_authn takes them: the prefix anywhere, then the run of token characters."""
    if not prefix:
        return [value]
    tokens = []
    for part in value.split(prefix)[1:]:
        run = _TOKEN_CHARACTERS.search(part)
        tokens.append(run.group() if run is not None else part)
    return tokens


def _parameters(query: str) -> Iterator[tuple[str, str]]:
    for part in query.split("&"):
        name, _, value = part.partition("=")
        yield unquote_plus(name), unquote_plus(value)


def _cookies(header: str) -> Iterator[tuple[str, str]]:
    for part in header.split(";"):
        name, equals, value = part.strip().partition("=")
        if equals:
            yield name, value.strip('"')


def without_cookie(header: str, name: str) -> str:
    """A Cookie header without the cookies called `name`."""
    kept = (part.strip() for part in header.split(";") if part.strip().partition("=")[0] != name)
    return "; ".join(part for part in kept if part)


def is_cors_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """A browser's question before the request: it carries no token and is not asked for one. A bare OPTIONS is no preflight."""
    return method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers
