"""Results that are remembered change no answer: the same requests, clock, keys and policies, with and without."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extauthz.authenticate import NO_CHANGES
from extauthz.check import Checker
from extauthz.denials import Denials
from extauthz.metrics import Metrics
from extauthz.policies import Policies
from extauthz.seen import Seen, SeenTokens, key_of
from lateen.envoyapi.envoy.service.auth.v3 import external_auth_pb2
from lateen.fetching import http_client
from lateen.jwks.keeper import KeyKeeper
from lateen.jwks.keys import KeySet, parse_jwks
from lateen.mesh.requestauthentication import RequestAuthenticationSpec
from lateen.policy.compile import PolicyOrigin
from lateen.policy.tokens import KeySource, compile_token_rules
from tests.extauthz.service import PROXY, TARGET, http, workload
from tests.extauthz.tokens import ISSUER, JWKS, OTHER_KEY, token
from tests.fuzzing import examples
from tests.jwks.keyserver import jwk

NOW = int(time.time())
_OTHER_JWKS = json.dumps({"keys": [jwk(OTHER_KEY, "k1")]})
_TOKENS = (
    token(exp=NOW + 600),
    token(exp=NOW + 600, sub="bob", team="red"),
    token(exp=NOW + 30),
    token(exp=NOW + 600, nbf=NOW + 300),
    token(exp=NOW + 600, iss="https://second"),
    token(exp=NOW + 600, iss="https://nobody"),
    token(OTHER_KEY, exp=NOW + 600),
    "x.y.z",
)
_FIRST: dict[str, Any] = {
    "issuer": ISSUER,
    "jwks": JWKS,
    "outputClaimToHeaders": [{"header": "x-team", "claim": "team"}],
}
_PLACES = {"fromHeaders": [{"name": "x-jwt"}, {"name": "authorization", "prefix": "Bearer "}], "fromParams": ["t"], "fromCookies": ["c"]}  # fmt: skip
_AUTHENTICATIONS = (
    {"jwtRules": [_FIRST]},
    {"jwtRules": [{**_FIRST, **_PLACES}]},
    {"jwtRules": [{**_FIRST, "jwks": _OTHER_JWKS}]},
    {"jwtRules": [_FIRST, {"issuer": "https://second", "jwks": JWKS, "fromHeaders": [{"name": "x-jwt"}]}]},
    {"jwtRules": [{**_FIRST, **_PLACES, "presence": "REQUIRED", "forwardOriginalToken": True}]},
)
_POLICIES: tuple[tuple[dict[str, Any], ...], ...] = (
    ({"rules": [{}]},),
    ({"rules": [{"from": [{"source": {"requestPrincipals": ["*/alice"]}}]}, {"to": [{"operation": {"paths": ["/open"]}}]}]},),
    ({"rules": [{"when": [{"key": "request.headers[x-team]", "values": ["red"]}]}]}, {"action": "AUDIT", "rules": [{}]}),
    ({"action": "DENY", "rules": [{"when": [{"key": "request.headers[authorization]", "values": ["*"]}]}]},),
)  # fmt: skip

carried = st.sampled_from((None, *_TOKENS[:3], *_TOKENS[:3], *_TOKENS))
seldom = st.sampled_from((*[None] * 5, *_TOKENS))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    headers: dict[str, str] = {}
    query = draw(st.sampled_from(["", "a=b", "a=%20", "tt=1"]))
    if (found := draw(carried)) is not None:
        headers["authorization"] = f"Bearer {found}"
    if (found := draw(seldom)) is not None:
        headers["x_jwt"] = found
    if (found := draw(seldom)) is not None:
        headers["cookie"] = f"a=b; c={found}"
    if (found := draw(seldom)) is not None:
        query = f"{draw(st.sampled_from(['t', '%74', 'access_token', 'access%5ftoken']))}={found}"
    if draw(st.integers(0, 5)) == 0:
        headers["x_team"] = "red"
    method = draw(st.sampled_from([*["GET"] * 7, "OPTIONS"]))
    if method == "OPTIONS":
        headers |= {"origin": "https://a", "access_control_request_method": "GET"}
    path = draw(st.sampled_from(["/", "/open"]))
    return http(method, f"{path}?{query}" if query else path, **headers).SerializeToString()


loads = st.tuples(st.sampled_from(_POLICIES), st.sampled_from(_AUTHENTICATIONS))


@st.composite
def plays(draw: st.DrawFn) -> list[Any]:
    """The same few requests again and again, while time passes and policies change."""
    asked = st.sampled_from(draw(st.lists(requests(), min_size=2, max_size=5)))
    return draw(st.lists(asked | asked | asked | st.integers(10, 500) | loads, min_size=10, max_size=40))


def _same(one: bytes, other: bytes) -> bool:
    """Answers but for the random id of a denial."""
    made = [external_auth_pb2.CheckResponse.FromString(data) for data in (one, other)]
    for answer in made:
        answer.dynamic_metadata.fields["lateen"].struct_value.fields.pop("denial_id", None)
        kept = [h for h in answer.denied_response.headers if h.header.key != "x-lateen-denial"]
        del answer.denied_response.headers[:]
        answer.denied_response.headers.extend(kept)
    return made[0] == made[1]


async def _compare(first: tuple[tuple[dict[str, Any], ...], Mapping[str, Any]], play: list[Any]) -> int:
    elapsed = 0.0
    async with http_client() as client:
        keeper = KeyKeeper(client)
        policies = Policies(keeper.want)
        made = [Checker(policies, keeper, Metrics(), Denials(), now=lambda: NOW + elapsed) for _ in range(2)]
        made[1].seen = SeenTokens(most=0)
        known = 0
        for step in [first, *play]:
            if isinstance(step, tuple):
                policies.take({TARGET: workload(*step[0], authentication=dict(step[1]))}, [])
            elif isinstance(step, int):
                elapsed += step
            else:
                answers = [checker.check(TARGET, PROXY, step) for checker in made]
                assert isinstance(answers[0], bytes)
                assert isinstance(answers[1], bytes)
                assert _same(answers[0], answers[1])
                known = max(known, len(made[0].seen))
        return known


@pytest.mark.fuzz
@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(loads, plays())
def test_no_answer_differs(first: tuple[tuple[dict[str, Any], ...], Mapping[str, Any]], play: list[Any]) -> None:
    asyncio.run(_compare(first, play))


def test_results_are_remembered_at_all() -> None:
    good = http(authorization=f"Bearer {_TOKENS[0]}").SerializeToString()
    late = [good, good, 1000, good]
    assert asyncio.run(_compare((_POLICIES[1], _AUTHENTICATIONS[0]), late)) == 1


@pytest.mark.parametrize("query", ["t=x.y.z", "%74=x.y.z", "a=b&t=x.y.z", "t=x.y.z&a=%20", "t+=1&%74=x"])
@pytest.mark.parametrize("place", ["query", "cookie", "x_jwt"])
def test_a_second_token_elsewhere_is_seen(query: str, place: str) -> None:
    bearer = f"Bearer {_TOKENS[0]}"
    more = {"cookie": {"cookie": "c=x.y.z"}, "x_jwt": {"x_jwt": "x.y.z"}}.get(place, {})
    path = f"/?{query}" if place == "query" else "/"
    play = [http(authorization=bearer), http(path=path, authorization=bearer, **more), http(authorization=bearer)]
    asyncio.run(_compare((_POLICIES[0], _AUTHENTICATIONS[1]), [step.SerializeToString() for step in play]))


def _keys() -> KeySet:
    return parse_jwks(JWKS)


def _seen(keys: KeySet) -> Seen:
    return Seen(NO_CHANGES, ((KeySource(url="https://i"), keys),), not_before=NOW, expires=NOW + 100)


def test_a_result_counts_for_its_keys_its_time_and_its_policies() -> None:
    keys = _keys()
    made = SeenTokens()
    assert made.get(("a",), 1, NOW, lambda _: keys) is None
    made.put(("a",), seen := _seen(keys))
    assert made.get(("a",), 1, NOW, lambda _: keys) is seen
    assert made.get(("a",), 1, NOW - 60, lambda _: keys) is seen
    assert made.get(("a",), 1, NOW - 61, lambda _: keys) is None
    assert made.get(("a",), 1, NOW + 160, lambda _: keys) is seen
    assert made.get(("a",), 1, NOW + 161, lambda _: keys) is None
    assert made.get(("a",), 1, NOW, lambda _: _keys()) is None
    assert made.get(("a",), 1, NOW, lambda _: None) is None
    assert made.get(("b",), 1, NOW, lambda _: keys) is None
    assert made.get(("a",), 2, NOW, lambda _: keys) is None
    assert len(made) == 0


def test_the_memory_is_bounded() -> None:
    keys = _keys()
    made = SeenTokens(most=3, most_bytes=100)
    made.get(("a",), 1, NOW, lambda _: keys)
    for number in range(10):
        made.put((str(number),), _seen(keys))
    assert len(made) == 3
    made.put(("x" * 80,), _seen(keys))
    made.put(("y" * 80,), _seen(keys))
    assert len(made) == 1
    made.put(("z" * 20_000,), _seen(keys))
    assert made.get(("y" * 80,), 1, NOW, lambda _: keys) is not None


def test_what_no_rule_looks_at_makes_no_new_entries() -> None:
    spec = RequestAuthenticationSpec.model_validate(_AUTHENTICATIONS[0])
    rules = compile_token_rules([(PolicyOrigin("n", "a"), spec)])
    assert key_of(rules, 1, {"x": "1", "cookie": "c"}, "page=2") == key_of(rules, 1, {"x": "2"}, "page=3")
    assert key_of(rules, 1, {}, "page=%32") != key_of(rules, 1, {}, "page=%33")
    assert key_of(rules, 1, {}, "access_token=2") != key_of(rules, 1, {}, "access_token=3")
    assert key_of(rules, 1, {"authorization": "a"}, "") != key_of(rules, 1, {"authorization": "b"}, "")
    assert key_of(rules, 1, {"authorization": ""}, "") != key_of(rules, 1, {}, "")
