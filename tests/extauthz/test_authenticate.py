"""Where tokens are found, several issuers, and what a token changes on the way to the application."""

from typing import Any

import pytest

from extauthz.authenticate import Authentication, Refusal, authenticate
from extauthz.tokens import TokenRefused, VerifiedToken, claims_struct
from lateen.mesh.requestauthentication import RequestAuthenticationSpec
from lateen.policy.claims import verified_claims
from lateen.policy.compile import PolicyOrigin
from lateen.policy.tokens import TokenRule, compile_token_rules, is_cors_preflight, without_cookie


def run(*rules: dict[str, Any], headers: dict[str, str] | None = None, query: str = "") -> Authentication | Refusal:
    """Authenticate with tokens written `good-ISSUER`, and anything else bad."""
    spec = RequestAuthenticationSpec.model_validate({"jwtRules": list(rules)})
    return authenticate(compile_token_rules([(PolicyOrigin("ns", "jwt"), spec)]), headers or {}, query, verify)


def verify(token: str, rule: TokenRule) -> VerifiedToken:
    kind, _, issuer = token.partition("-")
    if kind != "good":
        raise TokenRefused(f"bad token {token}")
    if issuer != rule.issuer:
        raise TokenRefused("Jwt issuer is not configured", other_issuer=True)
    claims = verified_claims(
        {"iss": issuer, "sub": "s", "n": 5, "yes": True, "f": 1.5, "l": ["a"], "o": {"k": "v"}, "bad": "a\r\nx: y"}
    )
    return VerifiedToken(claims, "cGF5", None, None, claims_struct(claims))


A, B = {"issuer": "a"}, {"issuer": "b"}
MUST = {"presence": "REQUIRED"}
AT_X, AT_P, AT_C = ({"fromHeaders": [{"name": "X-Jwt"}]}, {"fromParams": ["tok"]}, {"fromCookies": ["sid"]})
PREFIXED = {"fromHeaders": [{"name": "x-jwt", "prefix": "JWT "}]}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("rules", "headers", "query", "expected"),
    [
        ([A], {}, "", None),
        ([A], bearer("good-a"), "", "a"),
        ([A], {}, "access_token=good-a", "a"),
        ([A], {}, "x=1&access%5Ftoken=good%2Da", "a"),
        ([A], {"authorization": "bearer good-a"}, "", None),
        ([A], {"authorization": "Basic good-a"}, "", None),
        ([A], {"authorization": "Bearer  good-a, x"}, "", "a"),
        ([A], {"authorization": "Bearer "}, "", "bad token "),
        ([A], bearer("x"), "", "bad token x"),
        ([A], bearer("good-a"), "access_token=x", "bad token x"),
        ([A | AT_X], bearer("x"), "access_token=x", None),
        ([A | AT_X], {"x-jwt": "good-a"}, "", "a"),
        ([A | AT_X], {"x-jwt": "Bearer good-a"}, "", "bad token Bearer good-a"),
        ([A | PREFIXED], {"x-jwt": "JWT good-a"}, "", "a"),
        ([A | PREFIXED], {"x-jwt": "good-a"}, "", None),
        ([A | PREFIXED], {"x-jwt": "JWTgood-a"}, "", None),
        ([A | AT_P], {}, "tok=good-a", "a"),
        # the application might read the other one of two
        ([A | AT_P], {}, "tok=good-a&tok=x", "bad token x"),
        ([A | AT_C], {"cookie": "sid=good-a; sid=x"}, "", "bad token x"),
        ([A], {"authorization": "Bearer good-a,Bearer x"}, "", "bad token x"),
        ([A | AT_X], {"x-jwt": "good-a,x"}, "", "Jwt issuer is not configured"),
        ([A | AT_P], {}, "token=x", None),
        ([A | AT_C], {"cookie": "other=x; sid=good-a"}, "", "a"),
        ([A | AT_C], {"cookie": "xsid=x"}, "", None),
        # several issuers: a token valid for one passes, wherever they look
        ([A, B], bearer("good-b"), "", "b"),
        ([A, B], bearer("good-c"), "", "Jwt issuer is not configured"),
        ([A, B], bearer("x"), "", "bad token x"),
        ([A, B | AT_X], {"x-jwt": "good-b"}, "", "b"),
        ([A, B | AT_X], {**bearer("good-a"), "x-jwt": "x"}, "", "a"),
        ([A, B | AT_X], {**bearer("good-b")}, "", "Jwt issuer is not configured"),
        ([A, B | AT_X], {"x-jwt": "x"}, "", "bad token x"),
        ([A, B | AT_X], {**bearer("x"), "x-jwt": "good-b"}, "", "b"),
        ([A, B | AT_X], {}, "", None),
        # presence: REQUIRED
        ([A | MUST], {}, "", "Jwt is missing"),
        ([A | MUST], bearer("good-a"), "", "a"),
        ([A | MUST, B | AT_X], {"x-jwt": "good-b"}, "", "Jwt is missing"),
        ([A | MUST, B | AT_X], bearer("good-a"), "", "a"),
        ([A | MUST, B | AT_X], {**bearer("good-a"), "x-jwt": "x"}, "", "bad token x"),
        ([A | MUST, B | AT_X | MUST], bearer("good-a"), "", "Jwt is missing"),
        ([A | MUST, B | AT_X | MUST], {**bearer("good-a"), "x-jwt": "good-b"}, "", "b"),
        ([A, B | AT_X | MUST], {"x-jwt": "good-b"}, "", "b"),
    ],
)
def test_which_token_counts(
    rules: list[dict[str, Any]], headers: dict[str, str], query: str, expected: str | None
) -> None:
    outcome = run(*rules, headers=headers, query=query)
    if isinstance(outcome, Refusal):
        assert outcome.reason == expected
    else:
        assert (outcome.token.claims.issuer if outcome.token is not None else None) == expected


def accepted(rule: dict[str, Any], headers: dict[str, str], query: str = "") -> Authentication:
    outcome = run(A | rule, headers=headers, query=query)
    assert isinstance(outcome, Authentication)
    return outcome


def test_the_token_is_taken_out_where_it_was_found() -> None:
    assert accepted({}, bearer("good-a")).remove_headers == {"authorization"}
    assert accepted({}, {}, "access_token=good-a").remove_parameters == {"access_token"}
    assert accepted(AT_C, {"cookie": "a=1; sid=good-a; b=2"}).set_headers == {"cookie": "a=1; b=2"}
    assert accepted(AT_C, {"cookie": "sid=good-a"}).remove_headers == {"cookie"}
    kept = accepted({"forwardOriginalToken": True}, bearer("good-a"), "access_token=good-a")
    assert (kept.remove_headers, kept.remove_parameters) == (frozenset(), frozenset())


def test_each_of_several_required_tokens_is_taken_out_and_gives_its_claims() -> None:
    claim = {"outputClaimToHeaders": [{"header": "x-iss-a", "claim": "iss"}]}
    other = {"outputClaimToHeaders": [{"header": "x-iss-b", "claim": "iss"}]}
    outcome = run(A | MUST | claim, B | AT_X | MUST | other, headers={**bearer("good-a"), "x-jwt": "good-b"})
    assert isinstance(outcome, Authentication)
    assert outcome.remove_headers == {"authorization", "x-jwt"}
    assert outcome.set_headers == {"x-iss-a": "a", "x-iss-b": "b"}


def test_claims_go_to_headers_and_nothing_a_client_sent_stays_there() -> None:
    names = ("sub", "n", "yes", "f", "l", "o.k", "o", "missing", "bad")
    rule = {
        "outputClaimToHeaders": [{"header": f"X-{i}", "claim": name} for i, name in enumerate(names)],
        "outputPayloadToHeader": "X-Payload",
        "forwardOriginalToken": True,
    }
    outcome = accepted(rule, {**bearer("good-a"), "x-7": "forged"})
    assert outcome.set_headers == {"x-0": "s", "x-1": "5", "x-2": "true", "x-5": "v", "x-payload": "cGF5"}
    assert outcome.remove_headers == {"x-3", "x-4", "x-6", "x-7", "x-8"}
    assert accepted(rule, {}).remove_headers == {*(f"x-{i}" for i in range(9)), "x-payload"}


def test_without_cookie_removes_every_cookie_of_that_name() -> None:
    assert without_cookie("a=1; sid=x;sid=y; sid2=z", "sid") == "a=1; sid2=z"


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("OPTIONS", {"origin": "https://a", "access-control-request-method": "GET"}, True),
        ("OPTIONS", {"origin": "https://a"}, False),
        ("OPTIONS", {}, False),
        ("GET", {"origin": "https://a", "access-control-request-method": "GET"}, False),
    ],
)
def test_cors_preflight(method: str, headers: dict[str, str], expected: bool) -> None:
    assert is_cors_preflight(method, headers) is expected
