"""Verifying a JSON Web Token against one rule and its keys: strict, bounded, and with reasons that can be shown to a client.

The reasons are the ones Envoy's jwt_authn gives, so that both enforcement modes answer alike.
"""

import base64
import binascii
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from google.protobuf import json_format, struct_pb2
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from lateen.jwks.keys import KeySet
from lateen.policy.claims import Claims, verified_claims
from lateen.policy.tokens import TokenRule

MAX_TOKEN_BYTES: Final = 32 * 1024
CLOCK_SKEW_SECONDS: Final = 60
_MAX_DEPTH: Final = 32
_MAX_MEMBERS: Final = 2000
_MAX_NUMBER: Final = 2**1000
_SECTIONS: Final = 3

ALGORITHMS: Final[Mapping[str, Algorithm]] = {
    name: algorithm
    for name, algorithm in get_default_algorithms().items()
    if name in {f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)} | {"EdDSA"}
}
"""What may sign a token. `none` and everything symmetric are absent: nobody can ask for them."""


class VerifiedToken(NamedTuple):
    """A token that was verified, with what is derived from it once."""

    claims: Claims
    payload: str
    """As it stood in the token: base64url without padding."""
    expires: float | None
    not_before: float | None
    metadata: struct_pb2.Struct
    """The claims as dynamic metadata. Shared: never to be changed."""


class TokenRefused(Exception):  # noqa: N818 - an answer, not a failure of the program
    """The token is not acceptable; `retry` says that other keys might accept it."""

    def __init__(self, reason: str, *, retry: bool = False, other_issuer: bool = False) -> None:
        """Remember the reason."""
        super().__init__(reason)
        self.reason = reason
        self.retry = retry
        self.other_issuer = other_issuer


class TokenCache:
    """Verified tokens by rule and text, bounded in number and in bytes; an entry counts only for the key set that verified it."""

    def __init__(self, max_tokens: int = 10_000, max_bytes: int = 32 * 1024 * 1024) -> None:
        """Start empty."""
        self._max_tokens = max_tokens
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[tuple[str, str], tuple[KeySet, VerifiedToken]] = OrderedDict()

    def __len__(self) -> int:
        """Number of tokens held."""
        return len(self._entries)

    def get(self, rule: TokenRule, token: str, keys: KeySet) -> VerifiedToken | None:
        """The token, if these very keys verified it."""
        entry = self._entries.get((rule.fingerprint, token))
        if entry is None or entry[0] is not keys:
            return None
        self._entries.move_to_end((rule.fingerprint, token))
        return entry[1]

    def put(self, rule: TokenRule, token: str, keys: KeySet, verified: VerifiedToken) -> None:
        """Keep a verified token; the least recently used ones make room."""
        key = (rule.fingerprint, token)
        if self._entries.pop(key, None) is None:
            self._bytes += len(token)
        self._entries[key] = (keys, verified)
        while len(self._entries) > self._max_tokens or self._bytes > self._max_bytes:
            (_, dropped), _ = self._entries.popitem(last=False)
            self._bytes -= len(dropped)


def verify_token(token: str, rule: TokenRule, keys: KeySet | None, now: float, cache: TokenCache) -> VerifiedToken:
    """The token's claims; TokenRefused for anything but a token of this rule, signed by one of the keys, and valid now."""
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenRefused("Jwt is too large")
    if keys is not None and (known := cache.get(rule, token, keys)) is not None:
        _check_times(known.expires, known.not_before, now)
        return known
    algorithm, kid, payload, signature, signed = _sections(token)
    expires, not_before = _check_claims(payload, rule, now)
    if keys is None:
        raise TokenRefused("Jwks remote fetch is failed", retry=True)
    _check_signature(algorithm, kid, keys, signed, signature)
    verified = _accepted(token, payload, rule, (expires, not_before))
    cache.put(rule, token, keys, verified)
    return verified


def read_unverified(token: str, rule: TokenRule, now: float) -> VerifiedToken:
    """What `verify_token` would give if the signature were good. For explanations without keys: a decision must never rest on it."""
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenRefused("Jwt is too large")
    payload = _sections(token)[2]
    return _accepted(token, payload, rule, _check_claims(payload, rule, now))


def _check_claims(payload: Mapping[str, Any], rule: TokenRule, now: float) -> tuple[float | None, float | None]:
    """Issuer, times and audience; returns when the token ends and begins to be valid."""
    _check_issuer(payload, rule)
    expires, not_before = _time(payload, "exp"), _time(payload, "nbf")
    _time(payload, "iat")
    _check_times(expires, not_before, now)
    _check_audience(payload, rule)
    return expires, not_before


def _accepted(
    token: str, payload: Mapping[str, Any], rule: TokenRule, times: tuple[float | None, float | None]
) -> VerifiedToken:
    claims = verified_claims(payload, rule.space_delimited)
    try:
        metadata = claims_struct(claims)
    except (ValueError, json_format.ParseError):  # text that is not Unicode: lone surrogates
        raise TokenRefused("Jwt payload is an invalid JSON") from None
    return VerifiedToken(claims, token.split(".")[1], *times, metadata)


def _sections(token: str) -> tuple[str, str, dict[str, Any], bytes, bytes]:
    """Algorithm, key id, payload, signature and the text that was signed."""
    parts = token.split(".")
    if len(parts) != _SECTIONS or not token.isascii():
        raise TokenRefused("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")
    algorithm, kid = _algorithm(_object(parts[0], "header"))
    payload = _object(parts[1], "payload")
    for name in ("iss", "sub", "jti"):
        if not isinstance(payload.get(name, ""), str):
            raise TokenRefused(f"Jwt payload field [{name}] value is not a string")
    signature = _decode(parts[2], "signature")
    return algorithm, kid, payload, signature, token.rpartition(".")[0].encode()


def _decode(text: str, what: str) -> bytes:
    if not text or "=" in text or "+" in text or "/" in text:
        raise TokenRefused(f"Jwt {what} is an invalid Base64url encoded")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise TokenRefused(f"Jwt {what} is an invalid Base64url encoded") from None


def _object(text: str, what: str) -> dict[str, Any]:
    raw = _decode(text, what)
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise TokenRefused(f"Jwt {what} is an invalid JSON") from None
    if not isinstance(value, dict) or not _within_bounds(value):
        raise TokenRefused(f"Jwt {what} is an invalid JSON")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two claims of one name mean different things to different readers: refused."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate member")
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _within_bounds(value: dict[str, Any]) -> bool:
    members = 0
    pending: list[tuple[object, int]] = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        children: list[object] = (
            list(item.values()) if isinstance(item, dict) else item if isinstance(item, list) else []
        )
        members += len(children)
        if isinstance(item, int | float) and not -_MAX_NUMBER <= item <= _MAX_NUMBER:
            return False
        if depth > _MAX_DEPTH or members > _MAX_MEMBERS:
            return False
        pending.extend((child, depth + 1) for child in children)
    return True


def _check_issuer(payload: Mapping[str, Any], rule: TokenRule) -> None:
    if rule.issuer and payload.get("iss") != rule.issuer:
        raise TokenRefused("Jwt issuer is not configured", other_issuer=True)


def _time(payload: Mapping[str, Any], name: str) -> float | None:
    value = payload.get(name)
    if value is None and name not in payload:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
        raise TokenRefused(f"Jwt payload field [{name}] value is not a positive number")
    return float(value)


def _check_times(expires: float | None, not_before: float | None, now: float) -> None:
    if not_before is not None and not_before > now + CLOCK_SKEW_SECONDS:
        raise TokenRefused("Jwt not yet valid")
    if expires is not None and now > expires + CLOCK_SKEW_SECONDS:
        raise TokenRefused("Jwt is expired")


def _check_audience(payload: Mapping[str, Any], rule: TokenRule) -> None:
    audience = payload.get("aud", [])
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or not all(isinstance(a, str) for a in audiences):
        raise TokenRefused("Jwt payload field [aud] is not a string or a list of strings")
    if rule.audiences and rule.audiences.isdisjoint(audiences):
        raise TokenRefused("Audiences in Jwt are not allowed")


def _algorithm(header: Mapping[str, Any]) -> tuple[str, str]:
    """Algorithm and key id. Nothing else in the header is obeyed: no keys or addresses of keys, no compression, no extensions."""
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenRefused("Jwt header [alg] is not supported")
    if "crit" in header or "zip" in header or header.get("b64", True) is not True:
        raise TokenRefused("Jwt header asks for an extension that is not supported")
    kid = header.get("kid", "")
    if not isinstance(kid, str):
        raise TokenRefused("Jwt header [kid] is not a string")
    return algorithm, kid


def _check_signature(algorithm: str, kid: str, keys: KeySet, signed: bytes, signature: bytes) -> None:
    candidates = keys.candidates(algorithm, kid)
    if not candidates:
        raise TokenRefused("Jwks doesn't have key to match kid or alg from Jwt", retry=True)
    verifier = ALGORITHMS[algorithm]
    for key in candidates:
        try:
            if verifier.verify(signed, key, signature):
                return
        except (PyJWTError, ValueError, TypeError):
            continue
    raise TokenRefused("Jwt verification fails")


def claims_struct(claims: Claims) -> struct_pb2.Struct:
    """The claims as a protobuf Struct."""
    struct = struct_pb2.Struct()
    json_format.ParseDict(dict(claims.payload), struct)
    return struct
