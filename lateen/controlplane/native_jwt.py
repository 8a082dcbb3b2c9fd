"""RequestAuthentication as Envoy's jwt_authn filter, with keys that the control plane has fetched and puts in place. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from google.protobuf import empty_pb2
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from lateen.controlplane.native_matchers import CLAIMS_KEY
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from lateen.envoyapi.envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_authn
from lateen.jwks.keys import Key, KeySet
from lateen.policy.claims import ALWAYS_SPACE_DELIMITED
from lateen.policy.tokens import KeySource, Place, TokenRule, TokenRules

KeysOf = Callable[[KeySource], KeySet | None]
"""The keys held for a source; None when there are none yet."""

_CACHED_TOKENS: Final = 1000
_LONGEST_CACHED: Final = 8192
_EMPTY: Final = empty_pb2.Empty()
_Requirement = jwt_authn.JwtRequirement

# Without keys every token is refused: this one is the hash of a text, and nobody has what belongs to it.
_NOBODY: Final = base64.urlsafe_b64encode(hashlib.sha256(b"lateen: no keys yet").digest()).rstrip(b"=").decode()
_NO_KEYS: Final = {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "none", "x": _NOBODY}]}


def jwt_filter(
    rules: TokenRules, keys: KeysOf, *, routes_on_claims: bool = False, observe: bool = False
) -> jwt_authn.JwtAuthentication:
    """Verify the tokens of a request. With `observe`, claims are noted for CUSTOM rules, and nothing is refused or taken out."""
    result = jwt_authn.JwtAuthentication(bypass_cors_preflight=True)
    for rule in rules.rules:
        provider = _provider(rule, keys(rule.keys), observe=observe)
        provider.clear_route_cache = routes_on_claims
        result.providers[_name(rule)].CopyFrom(provider)
    wanted = _observed(rules.rules) if observe else _requirement(rules.rules)
    result.rules.add(match=rc.RouteMatch(prefix=""), requires=wanted)
    result.rules.add(match=rc.RouteMatch(connect_matcher=rc.RouteMatch.ConnectMatcher()), requires=wanted)
    return result


def sanitise_filter(headers: Iterable[str]) -> header_mutation_pb2.HeaderMutation:
    """Take out what only a verified token may set, whoever sent it."""
    result = header_mutation_pb2.HeaderMutation()
    for name in sorted(headers):
        result.mutations.request_mutations.add(remove=name)
    return result


def jwks(keys: KeySet | None) -> str:
    """A key set as a document of those keys only that were accepted, each bound to the algorithms it may verify."""
    entries = [entry for key in keys.keys if (entry := _jwk(key)) is not None] if keys is not None else []
    return json.dumps({"keys": entries} if entries else _NO_KEYS, sort_keys=True)


def _jwk(key: Key) -> dict[str, Any] | None:
    match key.key:
        case rsa.RSAPublicKey():
            entry: dict[str, Any] = json.loads(RSAAlgorithm.to_jwk(key.key))
        case ec.EllipticCurvePublicKey():
            entry = json.loads(ECAlgorithm.to_jwk(key.key))
        case ed25519.Ed25519PublicKey():
            entry = json.loads(OKPAlgorithm.to_jwk(key.key))
        case _:
            return None  # Ed448, which Envoy does not know
    entry = {name: value for name, value in entry.items() if name in {"kty", "crv", "n", "e", "x", "y"}}
    if key.kid:
        entry["kid"] = key.kid
    if len(key.algorithms) == 1:
        entry["alg"] = next(iter(key.algorithms))
    return entry


def _name(rule: TokenRule) -> str:
    return f"{rule.origin}[{rule.index}]"


def _provider(rule: TokenRule, keys: KeySet | None, *, observe: bool) -> jwt_authn.JwtProvider:
    provider = jwt_authn.JwtProvider(
        issuer=rule.issuer,
        audiences=sorted(rule.audiences),
        forward=rule.forward or observe,
        forward_payload_header=rule.payload_header,
        payload_in_metadata=CLAIMS_KEY,
    )
    provider.local_jwks.inline_string = jwks(keys)
    provider.jwt_cache_config.jwt_cache_size = _CACHED_TOKENS
    provider.jwt_cache_config.jwt_max_token_size = _LONGEST_CACHED
    provider.normalize_payload_in_metadata.space_delimited_claims.extend(
        sorted(ALWAYS_SPACE_DELIMITED | rule.space_delimited)
    )
    for header, path in rule.claim_headers:
        provider.claim_to_headers.add(header_name=header, claim_name=".".join(path))
    for location in rule.locations:
        match location.place:
            case Place.HEADER:
                provider.from_headers.add(name=location.name, value_prefix=location.prefix)
            case Place.PARAMETER:
                provider.from_params.append(location.name)
            case Place.COOKIE:
                provider.from_cookies.append(location.name)
    return provider


def _provided(rule: TokenRule) -> jwt_authn.JwtRequirement:
    return _Requirement(provider_name=_name(rule))


def _one_of(some: Sequence[jwt_authn.JwtRequirement]) -> jwt_authn.JwtRequirement:
    return some[0] if len(some) == 1 else _Requirement(requires_any=jwt_authn.JwtRequirementOrList(requirements=some))


def _all_of(some: Sequence[jwt_authn.JwtRequirement]) -> jwt_authn.JwtRequirement:
    return some[0] if len(some) == 1 else _Requirement(requires_all=jwt_authn.JwtRequirementAndList(requirements=some))


def _or_missing(rule: TokenRule) -> jwt_authn.JwtRequirement:
    return _one_of([_provided(rule), _Requirement(allow_missing=_EMPTY)])


def _requirement(rules: Sequence[TokenRule]) -> jwt_authn.JwtRequirement:
    """One issuer's tokens are valid, or there is none where any of them looks; `presence: REQUIRED` makes each rule hold by itself."""
    if any(rule.required for rule in rules):
        return _all_of([_provided(rule) if rule.required else _or_missing(rule) for rule in rules])
    none = _all_of([_or_missing(rule) for rule in rules])
    return none if len(rules) == 1 else _one_of([*map(_provided, rules), none])


def _observed(rules: Sequence[TokenRule]) -> jwt_authn.JwtRequirement:
    return _one_of([*map(_provided, rules), _Requirement(allow_missing_or_failed=_EMPTY)])
