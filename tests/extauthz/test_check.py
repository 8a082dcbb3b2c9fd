"""Check from bytes to bytes: hostile requests, callers that may not ask, keys that are not there yet."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extauthz.denials import render_denial
from extauthz.policies import GRACE_SECONDS
from lateen.adsclient.client import ResourcesRejected
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.service.auth.v3 import external_auth_pb2
from lateen.fetching import http_client
from tests.extauthz.service import PROXY, TARGET, Service, http, workload
from tests.extauthz.tokens import JWKS, KEY, OTHER_KEY, token
from tests.fuzzing import examples
from tests.jwks.keyserver import KeyServer, jwk, key_server

ANY: dict[str, Any] = {"rules": [{}]}
GET_ONLY = {"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}
SIGNED_IN = {"rules": [{"from": [{"source": {"requestPrincipals": ["*"]}}]}]}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with http_client() as client:
        made = Service(client)
        yield made
        await made.keeper.close()


@pytest.mark.parametrize(
    ("target", "caller"),
    [
        ("", PROXY),
        ("ns/other", PROXY),
        ("x" * 100_000, PROXY),
        (TARGET, ""),
        (TARGET, "spiffe://cluster.local/ns/ns/sa/other"),
        (TARGET, "spiffe://cluster.local/ns/other/sa/app"),
        (TARGET, "spiffe://evil/ns/ns/sa/app"),
        (TARGET, PROXY + "/x"),
    ],
)
async def test_only_the_proxies_of_a_known_target_get_an_answer(service: Service, target: str, caller: str) -> None:
    service.load(ANY)
    assert await service.status(http()) == 200
    assert await service.status(http(), target=target, caller=caller) == 403


async def test_a_target_without_an_owner_belongs_to_nobody(service: Service) -> None:
    service.load(ANY, service_account="")
    assert await service.status(http(), caller="spiffe://cluster.local/ns/ns/sa/") == 403


async def test_callers_of_an_alias_trust_domain_are_the_same_proxies(service: Service) -> None:
    service.load(ANY, trust_domain="new", trust_domain_aliases=["old"])
    assert await service.status(http(), caller="spiffe://old/ns/ns/sa/app") == 200
    assert await service.status(http(), caller=PROXY) == 403


async def test_a_broken_policy_denies_is_refused_and_recovers(service: Service) -> None:
    service.load(ANY)
    for broken in (
        workload({"rules": [{"when": [{"key": "x", "values": ["y"]}]}]}),
        workload({"unknown": 1}),
        workload(ANY, authentication={"jwtRules": [{"issuer": "i", "jwks": "{}"}]}),
        workload(ANY, authentication={"jwtRules": [{}]}),
        workload(ANY, target="ns/other"),
        b"\xff",
    ):
        with pytest.raises(ResourcesRejected) as rejected:
            service.policies.take({TARGET: broken}, [])
        assert list(rejected.value.reasons) == [TARGET]
        assert await service.status(http()) == 403
        assert TARGET in service.policies.broken()
    service.load(ANY)
    assert await service.status(http()) == 200


async def test_a_denial_for_broken_policies_tells_the_request(service: Service) -> None:
    with pytest.raises(ResourcesRejected):
        service.load({"rules": [{"when": [{"key": "no.such", "values": ["x"]}]}]})
    response = await service.check(http("PUT", "/a?secret"))
    (header,) = response.denied_response.headers
    denial = service.denials.get(header.header.value)
    assert denial is not None
    assert (denial.request.method, denial.request.path, denial.request.headers) == ("PUT", "/a", {})


async def test_policies_that_went_decide_until_the_proxies_have_followed(service: Service) -> None:
    service.load(GET_ONLY)
    service.policies.take({}, [TARGET])
    assert await service.status(http()) == 200
    assert await service.status(http("POST")) == 403
    service.elapsed = GRACE_SECONDS - 1
    service.policies.take({}, [])
    assert await service.status(http()) == 200
    service.elapsed = GRACE_SECONDS
    assert await service.status(http()) == 403
    service.load(ANY)
    assert await service.status(http("POST")) == 200


async def test_workloads_with_the_same_policies_share_them_and_nothing_is_kept_that_is_not_used(
    service: Service,
) -> None:
    alike = {f"ns/{name}": workload(ANY, GET_ONLY, target=f"ns/{name}") for name in ("a", "b")}
    service.policies.take({**alike, "ns/c": workload(GET_ONLY, target="ns/c")}, [])
    a, b, c = (service.policies.get(f"ns/{name}") for name in "abc")
    assert a is not None
    assert b is not None
    assert c is not None
    assert a.rules is b.rules
    assert a.rules is not c.rules
    service.policies.take({}, ["ns/a", "ns/b"])
    service.policies.take(alike, [])
    again = service.policies.get("ns/a")
    assert again is not None
    assert again.rules is not a.rules


def mutilated() -> list[tuple[str, bytes]]:
    no_method, no_path, no_http = http(), http(), http()
    no_method.attributes.request.http.method = ""
    no_path.attributes.request.http.path = ""
    no_http.attributes.request.ClearField("http")
    bad_utf8 = http().SerializeToString().replace(b"10.0.0.1", b"\xff\xfe\xfd.0.0.")
    return [
        ("nothing", b""),
        ("noise", b"\x0a\xff\xff\xff\x01"),
        ("no method", no_method.SerializeToString()),
        ("no path", no_path.SerializeToString()),
        ("no http", no_http.SerializeToString()),
        ("bad utf-8", bad_utf8),
        ("cut", http(x="y" * 1000).SerializeToString()[:-100]),
        ("huge header, wrong method", http("POST", x="y" * 1_000_000).SerializeToString()),
        ("huge path, wrong method", http("POST", path="/" + "a" * 1_000_000).SerializeToString()),
        ("huge cookie, wrong method", http("POST", cookie="a=b;" * 250_000).SerializeToString()),
        ("huge forwarded-for", http("POST", x_forwarded_for="1.1.1.1," * 100_000).SerializeToString()),
    ]


@pytest.mark.parametrize("data", [d for _, d in mutilated()], ids=[n for n, _ in mutilated()])
async def test_hostile_requests_are_denied(service: Service, data: bytes) -> None:
    service.load(
        GET_ONLY,
        authentication={"jwtRules": [{"issuer": "i", "jwks": JWKS, "fromCookies": ["c"], "fromParams": ["p"]}]},
    )
    started = time.perf_counter()
    response = await service.check(data)
    assert time.perf_counter() - started < 1
    assert response.denied_response.status.code == 403
    assert response.denied_response.body == "RBAC: access denied"
    denial = service.denials.get(response.denied_response.headers[0].header.value)
    assert denial is not None
    assert len(json.dumps(render_denial(denial))) < 20_000


@pytest.mark.parametrize("name", ["noise", "no method", "no path", "bad utf-8"])
async def test_what_makes_no_sense_does_not_pass_an_open_door(service: Service, name: str) -> None:
    service.load(ANY)
    assert await service.status(dict(mutilated())[name]) == 403


@pytest.mark.fuzz
@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 200), st.integers(0, 255))
async def test_no_bytes_crash_the_service_or_pass_a_closed_door(
    service: Service, noise: bytes, at: int, byte: int
) -> None:
    service.load(SIGNED_IN, authentication={"jwtRules": [{"issuer": "i", "jwks": JWKS}]})
    changed = bytearray(http(authorization="Bearer a.b.c", x="y").SerializeToString())
    changed[at % len(changed)] = byte
    for data in (noise, bytes(changed)):
        assert await service.status(data) in {401, 403}


async def test_recent_denials_are_bounded_and_hold_no_secrets(service: Service) -> None:
    key = {"rules": [{"when": [{"key": "request.headers[authorization]", "values": ["x"]}]}]}
    service.load(key)
    ids = []
    for _ in range(6):
        response = await service.check(http(path="/?token=s3cr3t", authorization="Basic s3cr3t", cookie="s3cr3t"))
        ids.append(response.denied_response.headers[0].header.value)
    assert [service.denials.get(i) is not None for i in ids] == [False, False, True, True, True, True]
    denial = service.denials.get(ids[-1])
    assert denial is not None
    rendered = json.dumps(render_denial(denial))
    assert "s3cr3t" not in rendered
    assert "[redacted]" in rendered


async def test_raw_headers_are_understood(service: Service) -> None:
    service.load({"rules": [{"when": [{"key": "request.headers[x]", "values": ["a,b"]}]}]})
    request = http()
    for value in (b"a", b"b"):
        request.attributes.request.http.header_map.headers.append(base_pb2.HeaderValue(key="X", raw_value=value))
    assert await service.status(request) == 200


async def test_remote_address_counts_the_trusted_hops_of_the_mesh(service: Service) -> None:
    service.load({"rules": [{"from": [{"source": {"remoteIpBlocks": ["1.1.1.1"]}}]}]}, trusted_hops=1)
    assert await service.status(http(x_forwarded_for="1.1.1.1, 10.0.0.1")) == 200
    assert await service.status(http(x_forwarded_for="10.0.0.1, 1.1.1.1")) == 403


async def test_preflight_needs_no_token_and_a_bare_options_does(service: Service) -> None:
    service.load(ANY, authentication={"jwtRules": [{"issuer": "https://auth.corp.com", "jwks": JWKS}]})
    asked = {"authorization": "Bearer bad", "origin": "https://a", "access_control_request_method": "GET"}
    assert await service.status(http("OPTIONS", **asked)) == 200
    assert await service.status(http("OPTIONS", authorization="Bearer bad")) == 401


async def test_a_missing_token_is_challenged_without_an_error(service: Service) -> None:
    rule = {"issuer": "https://auth.corp.com", "jwks": JWKS, "presence": "REQUIRED"}
    service.load(ANY, authentication={"jwtRules": [rule]})
    response = await service.check(http(path='/a"b?token=1'))
    assert response.denied_response.status.code == 401
    assert response.denied_response.body == "Jwt is missing"
    assert response.denied_response.headers[0].header.value == 'Bearer realm="http://app/ab"'
    assert await service.status(http(authorization=f"Bearer {token()}")) == 200


REMOTE = {"jwtRules": [{"issuer": "https://auth.corp.com", "jwksUri": "http://127.0.0.1:1/none"}]}


async def test_without_keys_a_token_is_refused_with_a_reason_and_no_token_still_passes(service: Service) -> None:
    service.load(ANY, authentication=REMOTE)
    response = await service.check(http(authorization=f"Bearer {token()}"))
    assert response.denied_response.status.code == 401
    assert response.denied_response.body == "Jwks remote fetch is failed"
    denial_id = next(h.header.value for h in response.denied_response.headers if h.header.key == "x-lateen-denial")
    denial = service.denials.get(denial_id)
    assert denial is not None
    assert "ConnectError" in denial.reason
    assert await service.status(http()) == 200


@pytest.fixture
async def issuer() -> AsyncIterator[KeyServer]:
    async with key_server() as server:
        yield server


async def test_a_rotated_key_is_fetched_when_a_token_names_it(service: Service, issuer: KeyServer) -> None:
    url = issuer.serve_json("/jwks", {"keys": [jwk(KEY, "k1")]})
    service.load(SIGNED_IN, authentication={"jwtRules": [{"issuer": "https://auth.corp.com", "jwksUri": url}]})
    # the very first request waits for the first fetch
    assert await service.status(http(authorization=f"Bearer {token()}")) == 200
    rotated = token(OTHER_KEY, header={"kid": "k2"})
    issuer.serve_json("/jwks", {"keys": [jwk(OTHER_KEY, "k2")]})
    asked = await asyncio.gather(*(service.status(http(authorization=f"Bearer {rotated}")) for _ in range(20)))
    assert set(asked) == {200}
    assert issuer.asked.count("/jwks") == 2
    # tokens of the key that is gone are refused although they were cached
    assert await service.status(http(authorization=f"Bearer {token()}")) == 401


async def test_verified_claims_and_the_deciding_rule_are_dynamic_metadata(service: Service) -> None:
    service.load(SIGNED_IN, authentication={"jwtRules": [{"issuer": "https://auth.corp.com", "jwks": JWKS}]})
    response = await service.check(http(authorization=f"Bearer {token()}"))
    fields = response.dynamic_metadata.fields
    assert fields["payload"].struct_value["sub"] == "alice"
    assert fields["lateen"].struct_value["policy"] == "ns/p0"
    assert fields["lateen"].struct_value["verdict"] == "allow"
    denied = await service.check(http())
    lateen = denied.dynamic_metadata.fields["lateen"].struct_value
    assert lateen["denial_id"] == denied.denied_response.headers[0].header.value
    assert 'lateen_authz_decisions_total{policy="ns/p0",verdict="allow"} 1.0' in service.metrics.render().decode()


async def test_the_peer_behind_an_announced_client_is_the_connections_own(service: Service) -> None:
    service.load({"rules": [{"from": [{"source": {"ipBlocks": ["127.0.0.9"]}}]}, {"from": [{"source": {"remoteIpBlocks": ["10.0.0.2"]}}]}]})  # fmt: skip

    def allowed(source: str, peer: str) -> bool:
        request = http()
        request.attributes.source.address.socket_address.address = source
        answer = service.checker.check(TARGET, PROXY, request.SerializeToString(), peer=peer)
        assert isinstance(answer, bytes)
        return bool(external_auth_pb2.CheckResponse.FromString(answer).status.code == 0)

    assert allowed("10.0.0.1", "127.0.0.9")
    assert not allowed("10.0.0.1", "")
    assert not allowed("127.0.0.9", "10.0.0.1"), "what is announced is no peer"
    assert allowed("10.0.0.2", "127.0.0.8"), "but it is the client"
