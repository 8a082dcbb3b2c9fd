"""Reading key sets: what is used, what is skipped and why, and which key may verify which algorithm."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from lateen.jwks.keys import MAX_DOCUMENT_BYTES, MAX_KEYS, JwksError, parse_jwks
from tests.jwks.keyserver import jwk

RSA = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()
OCT = {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "o", "alg": "HS256"}


def document(*entries: object) -> str:
    return json.dumps({"keys": entries})


def test_each_key_verifies_the_algorithms_of_its_type_only() -> None:
    keys = parse_jwks(document(jwk(RSA), jwk(P256), jwk(P384), jwk(ED)))
    fitting = {
        a: len(keys.candidates(a, "")) for a in ("RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "none")
    }
    assert fitting == {"RS256": 1, "PS512": 1, "ES256": 1, "ES384": 1, "ES512": 0, "EdDSA": 1, "HS256": 0, "none": 0}


def test_declared_algorithm_narrows_a_key() -> None:
    keys = parse_jwks(document(jwk(RSA, alg="RS512")))
    assert keys.candidates("RS512", "")
    assert not keys.candidates("RS256", "")


def test_kid_must_match_where_both_name_one() -> None:
    keys = parse_jwks(document(jwk(RSA, "a"), jwk(RSA, "b"), jwk(RSA)))
    assert len(keys.candidates("RS256", "a")) == 2
    assert len(keys.candidates("RS256", "")) == 3
    assert len(keys.candidates("RS256", "c")) == 1


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (OCT, "a symmetric key cannot be published"),
        (jwk(RSA, use="enc"), "not for signatures"),
        (jwk(RSA, key_ops=["encrypt"]), "not for verifying"),
        (jwk(RSA, alg="HS256"), "alg 'HS256' does not fit the key"),
        (jwk(P256, alg="ES384"), "alg 'ES384' does not fit the key"),
        (jwk(WEAK), "an RSA key needs 2048 to 16384 bits"),
        (jwk(RSA) | {"n": "!"}, "malformed"),
        (jwk(P256) | {"y": "AAAA"}, "malformed"),
        ({"kty": "PQ"}, "key type 'PQ' is not supported"),
        ({"kty": ["RSA"]}, "is not supported"),
        (jwk(RSA) | {"kid": 5}, "kid is not a string"),
        ("text", "not an object"),
        ({}, "key type 'None' is not supported"),
    ],
)
def test_an_unusable_key_is_skipped_and_named(entry: object, reason: str) -> None:
    keys = parse_jwks(document(entry, jwk(ED)))
    assert len(keys.keys) == 1
    assert keys.skipped[0].startswith("keys[0]: ")
    assert reason in keys.skipped[0]
    with pytest.raises(JwksError, match="no usable key"):
        parse_jwks(document(entry))


def test_private_members_of_a_key_are_not_read() -> None:
    entry = jwk(ED) | {"d": "AAAA", "jku": "https://evil.example"}
    assert len(parse_jwks(document(entry)).keys) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[]", 'no list "keys"'),
        ('{"keys": {}}', 'no list "keys"'),
        ('{"keys": []}', "no usable key"),
        ("[" * 100_000, "not JSON"),
        (document(*[{}] * (MAX_KEYS + 1)), f"more than {MAX_KEYS} keys"),
        (" " * (MAX_DOCUMENT_BYTES + 1), "larger than"),
    ],
    ids=["empty", "list", "object", "none", "deep", "many", "large"],
)
def test_a_document_that_cannot_be_used(text: str, reason: str) -> None:
    with pytest.raises(JwksError, match=reason):
        parse_jwks(text)
