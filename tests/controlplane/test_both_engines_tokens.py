"""RequestAuthentication in both enforcement modes through a real Envoy: algorithms, places, several issuers, and tokens made to confuse."""

from __future__ import annotations

import base64
import hmac
import json
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.controlplane.enforced import JWKS, Ask, Case, Enforced, InSeconds, enforced, token

pytestmark = pytest.mark.timeout(180)

OK, NO, BAD = 200, 403, 401
_KEYS: dict[str, Any] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}
_WITH = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "rsa"),
    "ES256": "p256",
    "ES384": "p384",
    "ES512": "p521",
    "EdDSA": "ed",
}
_ISSUER = "https://many.test"


def _jwk(name: str) -> dict[str, Any]:
    public = _KEYS[name].public_key()
    writer: Any = RSAAlgorithm if name == "rsa" else OKPAlgorithm if name == "ed" else ECAlgorithm
    return {**json.loads(writer.to_jwk(public)), "kid": name}


def _signed(algorithm: str, **header: str) -> str:
    claims = {"iss": _ISSUER, "sub": "s", "exp": int(time.time()) + 3600}
    return jwt.encode(claims, _KEYS[_WITH[algorithm]], algorithm, {"kid": _WITH[algorithm], **header})


def _part(value: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _confused() -> list[str]:
    """Not signed; signed with the public key as a secret; a key of the token's own; another key's name; two parts changed."""
    claims = _part({"iss": _ISSUER, "sub": "s", "exp": int(time.time()) + 3600})
    public = (
        _KEYS["rsa"]
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    good = _signed("RS256")
    secret = f"{_part({'alg': 'HS256', 'kid': 'rsa'})}.{claims}"
    stranger = rsa.generate_private_key(65537, 2048)
    own = {"jwk": json.loads(RSAAlgorithm.to_jwk(stranger.public_key())), "kid": "rsa"}
    return [
        f"{_part({'alg': 'none'})}.{claims}.",
        f"{_part({'alg': 'none', 'kid': 'rsa'})}.{claims}.{good.split('.')[2]}",
        f"{secret}.{base64.urlsafe_b64encode(hmac.digest(public, secret.encode(), 'sha256')).rstrip(b'=').decode()}",
        jwt.encode({"iss": _ISSUER, "sub": "s"}, stranger, "RS256", own),
        _signed("ES256", kid="p384"),
        f"{good.split('.')[0]}.{_part({'iss': _ISSUER, 'sub': 'root'})}.{good.split('.')[2]}",
    ]


def _raw(payload: str, **header: object) -> str:
    """Signed as it is, whatever a library thinks of it."""
    return jwt.PyJWS().encode(payload.encode(), _KEYS["p256"], "ES256", {"kid": "p256", **header})


_JWKS = json.dumps({"keys": [_jwk(name) for name in _KEYS]})
_MANY = {"issuer": _ISSUER, "jwks": _JWKS}
_FIRST = {"issuer": "https://issuer.test", "jwks": JWKS}
_NEEDS = {"rules": [{"from": [{"source": {"requestPrincipals": ["*"]}}]}]}
_T = token({})
CASES = [
    Case("algorithms", [*(Ask(OK, token=_signed(a)) for a in _WITH), Ask(NO)], [_NEEDS], tokens={"jwtRules": [_MANY]}),
    Case("confused", [Ask(BAD, token=t) for t in _confused()], [_NEEDS], tokens={"jwtRules": [_MANY]}),
    Case("either", [Ask(OK, token=_signed("RS256")), Ask(OK, token=_T), Ask(NO), Ask(BAD, token=token({"iss": "https://no"}))], [_NEEDS], tokens={"jwtRules": [_MANY, _FIRST]}),
    Case("required", [Ask(BAD), Ask(OK, token=_T), Ask(BAD, token="x.y.z")], tokens={"jwtRules": [{**_FIRST, "presence": "REQUIRED"}]}),
    Case("audience", [Ask(OK, token={"aud": "b"})], tokens={"jwtRules": [{**_FIRST, "audiences": ["a", "b"]}]}),
    Case(
        "places",
        [
            Ask(OK, headers={"x-token": f"Token {_T}"}),
            Ask(NO, headers={"x-token": f"Bearer {_T}"}),
            Ask(OK, path=f"/?jwt={_T}"),
            Ask(OK, headers={"cookie": f"a=b; session={_T}"}),
            Ask(NO, token=_T),
            Ask(BAD, path="/?jwt=x.y.z"),
        ],
        [_NEEDS],
        tokens={"jwtRules": [{**_FIRST, "fromHeaders": [{"name": "x-token", "prefix": "Token "}], "fromParams": ["jwt"], "fromCookies": ["session"]}]},
    ),
    Case("preflight", [
        Ask(OK, method="OPTIONS", token="x.y.z", headers={"origin": "https://a", "access-control-request-method": "GET"}),
        Ask(BAD, method="OPTIONS", token="x.y.z"),
    ], tokens={"jwtRules": [_FIRST]}),
    Case("times", [Ask(OK, token={"exp": InSeconds(-20)}), Ask(BAD, token={"exp": InSeconds(-200)}), Ask(BAD, token={"nbf": InSeconds(900)})], tokens={"jwtRules": [_FIRST]}),
    Case("spaces", [Ask(OK, token={"groups": "a b"}), Ask(OK, token={"groups": " b  a "}), Ask(NO, token={"groups": "ab"}), Ask(NO, token={"groups": "a\tb"})], [{"rules": [{"when": [{"key": "request.auth.claims[groups]", "values": ["b"]}]}]}], tokens={"jwtRules": [{**_FIRST, "spaceDelimitedClaims": ["groups"]}]}),
    Case("anybody", [Ask(OK, token={"iss": "https://whoever.test"}), Ask(NO), Ask(BAD, token=_signed("ES256"))], [_NEEDS], tokens={"jwtRules": [{"jwks": JWKS}]}),
    Case("hostile", [Ask(OK, token=_signed("ES256")), Ask(NO)], [_NEEDS], tokens={"jwtRules": [_MANY]}),
    Case("shown", [Ask(OK, token=_T)], tokens={"jwtRules": [{**_FIRST, "outputClaimToHeaders": [{"header": f"x-{n}", "claim": c} for n, c in (("deep", "a.b"), ("number", "n"), ("flag", "f"), ("list", "l"))]}]}),
    Case("forwarded", [Ask(OK, token=_T)], tokens={"jwtRules": [{**_FIRST, "forwardOriginalToken": True, "outputPayloadToHeader": "x-payload"}]}),
]  # fmt: skip


@pytest.fixture(scope="module", params=["extAuthz", "native"])
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Enforced]:
    with enforced(request.param, CASES, tmp_path_factory.mktemp("tokens")) as started:
        yield started


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdicts(world: Enforced, case: Case) -> None:
    found = [(ask, world.status(case.name, ask)) for ask in case.asked]
    assert [status for _, status in found] == [ask.expected for ask, _ in found], found


@pytest.mark.parametrize("claims", [{"aud": ["c"]}, {}])
def test_a_token_for_others_is_refused(world: Enforced, claims: Mapping[str, object]) -> None:
    """Envoy says 403 to it, and so does Istio."""
    answer = world.http("audience", Ask(BAD, token=claims))
    expected = {"extAuthz": 401, "native": 403}[world.engine]
    assert (answer.status, answer.body) == (expected, b"Audiences in Jwt are not allowed")


def test_the_reason_is_given(world: Enforced) -> None:
    answer = world.http("times", Ask(BAD, token={"exp": 1000}))
    assert (answer.status, answer.body) == (401, b"Jwt is expired")
    assert answer.headers["www-authenticate"].startswith('Bearer realm="http://app.test/"')
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_a_token_can_be_forwarded_and_its_payload_shown(world: Enforced) -> None:
    received = world.http("forwarded", Ask(OK, token=_T, headers={"x-payload": "forged"})).json["headers"]
    assert received["authorization"] == f"Bearer {_T}"
    assert received["x-payload"] == _T.split(".")[1]
    assert "x-payload" not in world.http("forwarded", Ask(OK, headers={"x-payload": "forged"})).json["headers"]


@pytest.mark.parametrize("place", ["header", "parameter", "cookie"])
def test_a_token_goes_no_further_wherever_it_was(world: Enforced, place: str) -> None:
    path = f"/?a=b&jwt={_T}&c=d" if place == "parameter" else "/"
    headers = {"header": {"x-token": f"Token {_T}"}, "cookie": {"cookie": f"a=b; session={_T}; c=d"}}.get(place, {})
    received = world.http("places", Ask(OK, path=path, headers=headers)).json
    assert received["path"] == ("/?a=b&c=d" if place == "parameter" else "/")
    assert "x-token" not in received["headers"]
    if place == "cookie":  # Envoy's filter leaves cookies: docs/authorization.md
        whole = f"a=b; session={_T}; c=d" if world.engine == "native" else "a=b; c=d"
        assert received["headers"]["cookie"] == whole


def test_claims_as_headers(world: Enforced) -> None:
    claims = {"a": {"b": "v"}, "n": 7, "f": True, "l": ["x"]}
    forged = {f"x-{name}": "forged" for name in ("deep", "number", "flag", "list")}
    received = world.http("shown", Ask(OK, token=claims, headers=forged)).json["headers"]
    shown = {name: received.get(name) for name in ("x-deep", "x-number", "x-flag")}
    assert shown == {"x-deep": "v", "x-number": "7", "x-flag": "true"}
    assert "forged" not in json.dumps(received)
    without = world.http("shown", Ask(OK, token={"a": "v"}, headers=forged)).json["headers"]
    assert not set(forged) & set(without)


def _claims(more: str = "") -> str:
    return f'{{"iss": "{_ISSUER}", "sub": "s"{more}}}'


_HOSTILE = {
    "encrypted and compressed": ".".join([_part({"alg": "dir", "enc": "A256GCM", "zip": "DEF"}), "", *[_part({})] * 3]),
    "no end of dots": "." * 5000,
    "not utf-8": f"{_part({'alg': 'ES256', 'kid': 'p256'})}.{base64.urlsafe_b64encode(bytes(range(128, 255))).decode().rstrip('=')}.AA",
    "a kid that is a path": _raw(_claims(), kid="../../../../dev/null"),
    "a kid that is a query": _raw(_claims(), kid="x' OR '1'='1"),
    "a kid that is no text": _raw(_claims(), kid="p256\r\nx-a: b"),
    "a payload that is a list": _raw("[]"),
    "a payload that is text": _raw('"s"'),
    "an issuer that is a list": _raw(f'{{"iss": ["{_ISSUER}"], "sub": "s"}}'),
    "an end that is text": _raw(_claims(', "exp": "never"')),
    "an end that is negative": _raw(_claims(', "exp": -1')),
    "an audience that is a number": _raw(_claims(', "aud": 7')),
    "a fourth part": _signed("ES256") + ".x",
    "space inside": _signed("ES256").replace(".", " .", 1),
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile_tokens(world: Enforced, name: str) -> None:
    assert world.status("hostile", Ask(BAD, token=_HOSTILE[name])) == BAD


@pytest.mark.parametrize(
    "payload",
    [
        _claims("".join(f', "c{i}": {i}' for i in range(10_000))),
        _claims(', "a": ' + '{"a": ' * 2_000 + "1" + "}" * 2_000),
        _claims(', "a": "' + "x" * 1_000_000 + '"'),
    ],
    ids=["10,000 claims", "deep", "1 MB"],
)
def test_tokens_beyond_bounds(world: Enforced, payload: str) -> None:
    """A proxy takes no more than 60 KiB of headers; what is smaller meets the bounds of tokens."""
    assert world.status("hostile", Ask(BAD, token=_raw(payload))) in {BAD, 431}


def test_addresses_of_keys_in_a_token_are_not_asked(world: Enforced) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/keys"
        for name in ("jku", "x5u"):
            forged = jwt.encode({"iss": _ISSUER, "sub": "s"}, stranger, "ES256", {"kid": "other", name: url})
            assert world.status("hostile", Ask(BAD, token=forged)) == BAD
            assert world.status("hostile", Ask(OK, token=_raw(_claims(), **{name: url}))) == OK
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
