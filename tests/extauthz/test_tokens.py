"""Verifying tokens: what passes, every way not to, and with which words."""

import base64
import json
import random
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from extauthz.tokens import MAX_TOKEN_BYTES, TokenCache, TokenRefused, VerifiedToken, verify_token
from lateen.jwks.keys import KeySet, parse_jwks
from lateen.mesh.requestauthentication import RequestAuthenticationSpec
from lateen.policy.compile import PolicyOrigin
from lateen.policy.tokens import TokenRule, compile_token_rules
from tests.extauthz.tokens import ISSUER, JWKS, KEY, OTHER_KEY, b64, payload, token
from tests.fuzzing import examples
from tests.jwks.keyserver import PrivateKey, jwk

NOW = 2_000_000_000.0
KEYS = parse_jwks(JWKS)
PUBLIC_PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def rule(**fields: object) -> TokenRule:
    spec = RequestAuthenticationSpec.model_validate({"jwtRules": [{"issuer": ISSUER, "jwks": JWKS, **fields}]})
    return compile_token_rules([(PolicyOrigin("ns", "jwt"), spec)]).rules[0]


RULE = rule(audiences=["payments-api"])


def verify(text: str, keys: KeySet | None = KEYS, of: TokenRule = RULE, now: float = NOW) -> VerifiedToken:
    return verify_token(text, of, keys, now, TokenCache())


def good(
    key: PrivateKey = KEY, algorithm: str = "RS256", header: dict[str, Any] | None = None, **claims: object
) -> str:
    return token(key, algorithm, header, **{"exp": NOW + 100, **claims})


def unsigned(header: dict[str, Any], claims: dict[str, Any] | bytes, signature: bytes = b"x") -> str:
    return f"{b64(header)}.{b64(claims)}.{b64(signature)}"


def hmac_with_public_key() -> str:
    """The classic confusion: the public key, as text, used as a shared secret."""
    signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signed = f"{b64({'alg': 'HS256', 'kid': 'k1'})}.{b64(payload(exp=NOW + 100))}"
    return f"{signed}.{b64(signer.sign(signed.encode(), PUBLIC_PEM))}"


def tampered() -> str:
    header, _, signature = good().split(".")
    return f"{header}.{b64(payload(exp=NOW + 100, sub='root'))}.{signature}"


def raw_payload(text: str) -> str:
    """A properly signed token over these very bytes."""
    signed = f"{b64({'alg': 'RS256', 'kid': 'k1'})}.{b64(text.encode())}"
    signer = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256)
    return f"{signed}.{b64(signer.sign(signed.encode(), KEY))}"


COMMON = f'"iss":"{ISSUER}","aud":"payments-api","exp":{NOW + 100:.0f}'
MANY = ",".join(f'"{i}":1' for i in range(2500))
FORM = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
HEADER = {"alg": "RS256", "kid": "k1"}
REFUSED: dict[str, tuple[str, str]] = {
    "expired": (good(exp=NOW - 61), "Jwt is expired"),
    "expired long ago, exp 0": (good(exp=0), "Jwt is expired"),
    "not yet valid": (good(nbf=NOW + 61), "Jwt not yet valid"),
    "wrong issuer": (good(iss="https://evil.example"), "Jwt issuer is not configured"),
    "issuer with a slash more": (good(iss=ISSUER + "/"), "Jwt issuer is not configured"),
    "no issuer": (good(iss=None), "Jwt issuer is not configured"),
    "wrong audience": (good(aud="other"), "Audiences in Jwt are not allowed"),
    "no audience": (good(aud=None), "Audiences in Jwt are not allowed"),
    "audience of a wrong type": (raw_payload(f'{{"iss":"{ISSUER}","aud":5}}'), "Jwt payload field [aud]"),
    "alg none": (f"{b64({'alg': 'none'})}.{b64(payload(exp=NOW + 100))}.", "Jwt header [alg] is not supported"),
    "alg none, signed": (unsigned({"alg": "none"}, payload(exp=NOW + 100)), "Jwt header [alg] is not supported"),
    "alg NoNe": (unsigned({"alg": "NoNe"}, payload(exp=NOW + 100)), "Jwt header [alg] is not supported"),
    "alg missing": (unsigned({}, payload(exp=NOW + 100)), "Jwt header [alg] is not supported"),
    "alg a list": (unsigned({"alg": ["RS256"]}, payload(exp=NOW + 100)), "Jwt header [alg] is not supported"),
    "HMAC with the public key": (hmac_with_public_key(), "Jwt header [alg] is not supported"),
    "signed by another key": (good(key=OTHER_KEY), "Jwt verification fails"),
    "tampered": (tampered(), "Jwt verification fails"),
    "claimed ES256 over an RSA key": (
        unsigned({"alg": "ES256", "kid": "k1"}, payload(exp=NOW + 100)),
        "Jwks doesn't have",
    ),
    "unknown kid": (good(header={"kid": "k2"}), "Jwks doesn't have key to match kid or alg from Jwt"),
    "kid injection": (good(header={"kid": "../../etc/passwd"}), "Jwks doesn't have key to match"),
    "kid a number": (unsigned(HEADER | {"kid": 1}, payload(exp=NOW + 100)), "Jwt header [kid] is not a string"),
    "key in the header": (good(key=OTHER_KEY, header={"kid": "k1", "jwk": jwk(OTHER_KEY)}), "Jwt verification fails"),
    "critical extension": (good(header={"kid": "k1", "crit": ["exp"]}), "an extension that is not supported"),
    "compressed": (good(header={"kid": "k1", "zip": "DEF"}), "an extension that is not supported"),
    "encrypted (five sections)": ("a.b.c.d.e", FORM),
    "empty": ("", FORM),
    "two sections": ("a.b", FORM),
    "not ASCII": ("é.é.é", FORM),
    "padding": (good() + "=", "Jwt signature is an invalid Base64url"),
    "standard base64": ("+/+/.e30.e30", "Jwt header is an invalid Base64url"),
    "header not JSON": (f"{b64(b'{')}.e30.e30", "Jwt header is an invalid JSON"),
    "header a list": (f"{b64(b'[]')}.e30.e30", "Jwt header is an invalid JSON"),
    "not UTF-8": (unsigned(HEADER, b'{"iss":"\xff"}'), "Jwt payload is an invalid JSON"),
    "duplicate claims": (raw_payload(f'{{{COMMON},"sub":"alice","sub":"root"}}'), "Jwt payload is an invalid JSON"),
    "deep nesting": (raw_payload(f'{{{COMMON},"a":{"[" * 5000}{"]" * 5000}}}'), "Jwt payload is an invalid JSON"),
    "nesting a little too deep": (
        raw_payload(f'{{{COMMON},"a":{"[" * 40}{"]" * 40}}}'),
        "Jwt payload is an invalid JSON",
    ),
    "10,000 claims": (raw_payload(f"{{{COMMON},{MANY}}}"), "Jwt payload is an invalid JSON"),
    "not a number": (raw_payload(f'{{{COMMON},"a":NaN}}'), "Jwt payload is an invalid JSON"),
    "infinite": (raw_payload(f'{{{COMMON},"a":1e999}}'), "Jwt payload is an invalid JSON"),
    "a number of 5,000 digits": (raw_payload(f'{{{COMMON},"a":{"9" * 5000}}}'), "Jwt payload is an invalid JSON"),
    "lone surrogate": (raw_payload(f'{{{COMMON},"a":"\\ud800"}}'), "Jwt payload is an invalid JSON"),
    "exp as text": (raw_payload(f'{{"iss":"{ISSUER}","exp":"9999999999"}}'), "Jwt payload field [exp]"),
    "exp negative": (raw_payload(f'{{"iss":"{ISSUER}","exp":-1}}'), "Jwt payload field [exp]"),
    "exp true": (raw_payload(f'{{"iss":"{ISSUER}","exp":true}}'), "Jwt payload field [exp]"),
    "exp null": (raw_payload(f'{{"iss":"{ISSUER}","exp":null}}'), "Jwt payload field [exp]"),
    "sub a number": (raw_payload(f'{{{COMMON},"sub":5}}'), "Jwt payload field [sub]"),
    "huge": ("a" * (MAX_TOKEN_BYTES + 1), "Jwt is too large"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        verify(text)
    assert reason in refused.value.reason


@pytest.mark.parametrize(
    "claims",
    [{}, {"exp": NOW - 59}, {"nbf": NOW + 59}, {"exp": None}, {"aud": ["x", "payments-api"]}, {"sub": None}],
    ids=str,
)
def test_accepted(claims: dict[str, Any]) -> None:
    assert verify(good(**claims)).claims.issuer == ISSUER


ALGORITHMS: list[tuple[str, PrivateKey]] = [
    *((f"{family}{bits}", KEY) for family in ("RS", "PS") for bits in (256, 384, 512)),
    ("ES256", ec.generate_private_key(ec.SECP256R1())),
    ("ES384", ec.generate_private_key(ec.SECP384R1())),
    ("ES512", ec.generate_private_key(ec.SECP521R1())),
    ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
]


@pytest.mark.parametrize(("algorithm", "key"), ALGORITHMS, ids=[a for a, _ in ALGORITHMS])
def test_every_allowed_algorithm_verifies_and_only_with_its_own_key(algorithm: str, key: PrivateKey) -> None:
    text = good(key=key, algorithm=algorithm, header={})
    keys = parse_jwks(json.dumps({"keys": [jwk(OTHER_KEY), jwk(key)]}))
    assert verify(text, keys).claims.subject == "alice"
    with pytest.raises(TokenRefused):
        verify(text, parse_jwks(json.dumps({"keys": [jwk(OTHER_KEY), jwk(ec.generate_private_key(ec.SECP256R1()))]})))


def test_without_any_key_the_reason_says_so_and_a_later_fetch_may_help() -> None:
    with pytest.raises(TokenRefused) as refused:
        verify(good(), None)
    assert refused.value.reason == "Jwks remote fetch is failed"
    assert refused.value.retry


def test_only_tokens_that_other_keys_could_verify_ask_for_a_refetch() -> None:
    retried = {name: _refusal(text).retry for name, (text, _) in REFUSED.items()}
    assert {name for name, retry in retried.items() if retry} == {
        "claimed ES256 over an RSA key",
        "unknown kid",
        "kid injection",
    }


def _refusal(text: str) -> TokenRefused:
    with pytest.raises(TokenRefused) as refused:
        verify(text)
    return refused.value


def test_an_issuer_that_is_not_given_accepts_any() -> None:
    anyone = rule(issuer=None)
    assert verify(good(iss="https://whoever.example"), of=anyone).claims.issuer == "https://whoever.example"


def test_claims_have_one_shape() -> None:
    custom = rule(spaceDelimitedClaims=["roles"])
    verified = verify(good(roles="a b", scope="x  y", permission="p", other="c d", n=5), of=custom)
    assert verified.claims.payload["roles"] == ["a", "b"]
    assert verified.claims.payload["scope"] == ["x", "y"]
    assert verified.claims.payload["permission"] == ["p"]
    assert verified.claims.payload["other"] == "c d"
    assert list(verified.metadata["scope"]) == ["x", "y"]  # type: ignore[arg-type]  # a ListValue is iterable
    assert verified.metadata["n"] == 5


def test_cached_tokens_are_still_checked_for_time_and_keys() -> None:
    cache = TokenCache()
    text = good()
    first = verify_token(text, RULE, KEYS, NOW, cache)
    assert verify_token(text, RULE, KEYS, NOW, cache) is first
    with pytest.raises(TokenRefused, match="expired"):
        verify_token(text, RULE, KEYS, NOW + 1000, cache)
    rotated = parse_jwks(json.dumps({"keys": [jwk(OTHER_KEY, "k1")]}))
    with pytest.raises(TokenRefused, match="verification fails"):
        verify_token(text, RULE, rotated, NOW, cache)
    with pytest.raises(TokenRefused, match="Audiences"):
        verify_token(text, rule(audiences=["other"]), KEYS, NOW, cache)


def test_the_cache_is_bounded_in_number_and_bytes() -> None:
    verified = verify(good())
    few = TokenCache(max_tokens=10)
    for i in range(100):
        few.put(RULE, f"t{i}", KEYS, verified)
    assert len(few) == 10
    assert few.get(RULE, "t99", KEYS) is verified
    assert few.get(RULE, "t0", KEYS) is None
    small = TokenCache(max_bytes=1000)
    for i in range(100):
        small.put(RULE, f"{i:0100}", KEYS, verified)
        small.put(RULE, f"{i:0100}", KEYS, verified)
    assert len(small) == 10


@pytest.mark.fuzz
@settings(max_examples=examples(300), deadline=None)
@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda b: f"{b64(b)}.{b64(b)}.{b64(b)}"))
def test_noise_is_refused_and_never_crashes(text: str) -> None:
    with pytest.raises(TokenRefused):
        verify(text)


@pytest.mark.fuzz
@settings(max_examples=examples(150), deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_token_with_any_bit_changed_is_refused(seed: int, flip: int) -> None:
    text = good()
    place = random.Random(seed).randrange(len(text))
    parts = [base64.urlsafe_b64decode(p + "=" * (-len(p) % 4)) for p in text.split(".")]
    index = sum(1 for c in text[:place] if c == ".")
    body = bytearray(parts[min(index, 2)])
    body[seed % len(body)] ^= flip
    parts[min(index, 2)] = bytes(body)
    changed = ".".join(map(b64, parts))
    with pytest.raises(TokenRefused):
        verify(changed)
