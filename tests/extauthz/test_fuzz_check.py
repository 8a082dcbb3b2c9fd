"""Check under hostile input: never a crash, and never an allow that the reference evaluator denies."""

import asyncio
import ipaddress
import json
import zlib
from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from extauthz.check import Checker
from extauthz.denials import Denials
from extauthz.metrics import Metrics
from extauthz.policies import Policies
from lateen.envoyapi.envoy.service.auth.v3 import external_auth_pb2
from lateen.envoyapi.lateen.v1alpha1 import workload_pb2
from lateen.fetching import http_client
from lateen.jwks.keeper import KeyKeeper
from lateen.mesh.authorizationpolicy import AuthorizationPolicySpec
from lateen.policy.claims import verified_claims
from lateen.policy.compile import AttachedPolicy, PolicyOrigin
from lateen.policy.request import CheckInput
from tests.extauthz.service import PROXY, TARGET
from tests.extauthz.tokens import ISSUER, JWKS, KEY, OTHER_KEY, b64, payload, token
from tests.fuzzing import examples
from tests.jwks.keyserver import jwk
from tests.policy import reference
from tests.policy.test_compile_agrees_with_reference import PRINCIPALS, policies

pytestmark = pytest.mark.fuzz

CLAIMS: dict[str, Any] = {
    "scope": "read write",
    "a": {"b": ["v", 1]},
    "aud": ["api"],
    "azp": "app",
    "n": "1",
    "exp": 4_000_000_000,
}
GOOD = token(**CLAIMS)
"""Valid for longer than any run of `make fuzz` takes."""
AUTHENTICATION = {"jwtRules": [{"issuer": ISSUER, "jwks": JWKS, "fromHeaders": [{"name": "x-jwt"}], "fromParams": ["t"], "forwardOriginalToken": True}]}  # fmt: skip


def raw(header: Mapping[str, Any], body: bytes) -> str:
    """Sections around any bytes, signed with the right key: only what is inside is wrong."""
    signed = f"{b64(header)}.{b64(body)}"
    return f"{signed}.{b64(RSAAlgorithm(RSAAlgorithm.SHA256).sign(signed.encode(), KEY))}"


K1 = {"alg": "RS256", "kid": "k1"}
INSIDE = f'"iss":"{ISSUER}","sub":"root"'
BAD_TOKENS = (
    GOOD + "x",
    GOOD[:-4],
    token(OTHER_KEY, **CLAIMS),
    token(OTHER_KEY, header={"kid": "k1", "jwk": jwk(OTHER_KEY)}),
    token(OTHER_KEY, header={"kid": "k1", "jku": "https://evil.example/jwks", "x5u": "https://evil.example/x5u"}),
    token(OTHER_KEY, header={"kid": "../../../dev/null"}),
    token(header={"kid": "k1' OR '1'='1"}),
    token(exp=1),
    token(iss="https://evil.example"),
    f"{b64({'alg': 'none'})}.{b64(payload(**CLAIMS))}.",
    raw(K1, ("{" + INSIDE + "," + ",".join(f'"{i}":1' for i in range(10_000)) + "}").encode()),
    raw(K1, ("{" + INSIDE + ',"a":' + "[" * 20_000 + "]" * 20_000 + "}").encode())[:32_000],
    raw(K1, ("{" + INSIDE + ',"a":' + '{"a":' * 500 + "1" + "}" * 501).encode()),
    raw(K1, ("{" + INSIDE + ',"sub":"alice"}').encode()),
    raw(K1, ("{" + INSIDE + ',"a":1e999}').encode()),
    raw(K1, ("{" + INSIDE + ',"a":"\\ud800"}').encode()),
    raw(K1, b"\xff\xfe"),
    raw({**K1, "zip": "DEF"}, zlib.compress(b"{" + b" " * 10_000_000 + b"}")[:20_000]),
    # A compressed JWE: five sections.
    ".".join([b64({"alg": "RSA-OAEP", "enc": "A256GCM", "zip": "DEF"}), *(b64(b"x" * 200),) * 4]),
    "a" * 40_000,
    "..",
    "é.é.é",
)  # fmt: skip
# Nothing of this changes who the caller is: without a valid token there is none.
WORDS = st.sampled_from(
    ["", "GET", "POST", "get", "a.com", "A.COM", "b.a.com:80", "/a", "/a/b", "/a%2Fb", "/%61", "/a/../b", "/a//b", "/a;x=1", "/A", "/é/b", "/\u202e/b",
     "/a\x00", "/a?x=/b", "/a#/b", "*", "v", "vw", "w", "\uff56", "10.0.0.1", "::1", "80"]
) | st.text(max_size=30)  # fmt: skip
ADDRESSES = st.sampled_from(
    ["10.0.0.1", "10.0.0.2", "::1", "::ffff:10.0.0.1", "fd00::5", "0x0a000001", "010.0.0.1", "10.0.0.1\n", "", "é"]
)
FORWARDED = st.sampled_from(["", "10.0.0.1", "10.0.0.1, 10.0.0.2", ",", " 10.0.0.1", "10.0.0.1:80", "," * 50_000])
NAMES = st.sampled_from(["x-a", "X-A", "x-b", ":path", "origin", "access-control-request-method", "cookie", "é"])
HUGE = st.sampled_from(["y" * 1_000_000, "a=b;" * 250_000, "%" * 1_000_000])


@st.composite
def check_requests(draw: st.DrawFn) -> tuple[external_auth_pb2.CheckRequest, str]:
    """A CheckRequest, often absurd, and the token in it."""
    request = external_auth_pb2.CheckRequest()
    attributes = request.attributes
    attributes.source.principal = draw(
        st.sampled_from([*(f"spiffe://{p}" for p in PRINCIPALS), *PRINCIPALS, ""]) | st.text(max_size=40)
    )
    attributes.source.address.socket_address.address = draw(ADDRESSES)
    attributes.destination.address.socket_address.address = draw(ADDRESSES)
    attributes.destination.address.socket_address.port_value = draw(st.sampled_from([0, 80, 8080, 2**32 - 1]))
    attributes.tls_session.sni = draw(st.sampled_from(["", "a.com", "b.com", "A.COM"]))
    if draw(st.integers(0, 9)) == 0:
        json_format.ParseDict({"k": draw(st.sampled_from(["v", ["v", 1], {"v": "v"}, None]))}, attributes.metadata_context.filter_metadata["envoy.filters.x"])  # fmt: skip
    found = ""
    if draw(st.integers(0, 5)) > 0:
        http = attributes.request.http
        http.method, http.path, http.host, http.scheme = draw(WORDS), draw(WORDS), draw(WORDS), draw(WORDS)
        for name, value in draw(st.dictionaries(NAMES, WORDS, max_size=4)).items():
            http.headers[name] = value
        if draw(st.integers(0, 19)) == 0:
            http.headers[draw(NAMES)] = draw(HUGE)
        if draw(st.booleans()):
            http.headers["x-forwarded-for"] = draw(FORWARDED)
        if draw(st.booleans()):
            found = draw(st.sampled_from([GOOD, *BAD_TOKENS]))
            http.headers["x-jwt"] = found
    return request, found


def by_the_book(request: external_auth_pb2.CheckRequest, found: str) -> CheckInput | None:
    """What the policies should see of a request that a proxy could have sent; None: it must be denied whatever they say."""
    attributes = request.attributes
    http = attributes.request.http if attributes.request.HasField("http") else None
    base = CheckInput(
        http=http is not None,
        principal=attributes.source.principal,
        source_ip=attributes.source.address.socket_address.address,
        remote_ip=attributes.source.address.socket_address.address,
        destination_ip=attributes.destination.address.socket_address.address,
        destination_port=attributes.destination.address.socket_address.port_value,
        sni=attributes.tls_session.sni,
        metadata={name: json_format.MessageToDict(value) for name, value in attributes.metadata_context.filter_metadata.items()},
    )  # fmt: skip
    if http is None:
        return base
    headers = dict(http.headers)
    preflight = http.method == "OPTIONS" and {"origin", "access-control-request-method"} <= headers.keys()
    if found not in ("", GOOD) and not preflight:
        return None
    last = headers.get("x-forwarded-for", "").split(",")[-1].strip(" \t")
    return base._replace(
        method=http.method,
        path=http.path.split("?")[0].split("#")[0],
        host=http.host.lower(),
        headers=headers,
        claims=verified_claims(payload(**CLAIMS)) if found == GOOD and not preflight else None,
        remote_ip=last if _is_address(last) else base.source_ip,
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def loaded(some: list[AttachedPolicy], keeper: KeyKeeper) -> tuple[Checker, Denials]:
    """A checker with these policies and token rules."""
    message = workload_pb2.WorkloadPolicy(
        target=TARGET, namespace="ns", service_account="app", trust_domain="cluster.local"
    )
    for policy in some:
        attached = message.authorization_policies.add(
            kind="AuthorizationPolicy",
            namespace=policy.origin.namespace,
            name=policy.origin.name,
            spec_json=policy.spec.model_dump_json(by_alias=True, exclude_unset=True),
        )
        if policy.dry_run:
            attached.annotations["istio.io/dry-run"] = "true"
    message.request_authentications.add(
        kind="RequestAuthentication", namespace="a", name="jwt", spec_json=json.dumps(AUTHENTICATION)
    )
    held, denials = Policies(keeper.want), Denials(capacity=2)
    held.take({TARGET: message.SerializeToString()}, [])
    return Checker(held, keeper, Metrics(), denials), denials


def answered(checker: Checker, denials: Denials, data: bytes) -> bool:
    """Whether the request is allowed; our own failure is a failure of the test."""
    answer = checker.check(TARGET, PROXY, data)
    assert isinstance(answer, bytes), "inline keys are never waited for"
    response = external_auth_pb2.CheckResponse.FromString(answer)
    if response.HasField("ok_response"):
        assert response.status.code == 0
        return True
    ids = [h.header.value for h in response.denied_response.headers if h.header.key == "x-lateen-denial"]
    denial = denials.get(ids[0])
    assert denial is not None
    assert denial.reason != "internal error"
    assert response.denied_response.status.code in {401, 403}
    return False


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(policies(), st.lists(check_requests(), min_size=1, max_size=5))
def test_no_request_passes_that_the_reference_denies(
    some: list[AttachedPolicy], requests: list[tuple[external_auth_pb2.CheckRequest, str]]
) -> None:
    async def run() -> None:
        async with http_client() as client:
            checker, denials = loaded(some, KeyKeeper(client))
            for request, found in requests:
                allowed = answered(checker, denials, request.SerializeToString())
                expected = by_the_book(request, found)
                http = request.attributes.request.http
                nonsense = request.attributes.request.HasField("http") and not (http.method and http.path)
                if expected is None or (nonsense and http.method != "CONNECT"):
                    assert not allowed
                elif not nonsense:
                    assert allowed == reference.allowed(some, expected), expected

    asyncio.run(run())


@settings(max_examples=examples(120), deadline=None, suppress_health_check=list(HealthCheck))
@given(check_requests(), st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6), st.integers(0, 50))
def test_broken_bytes_never_fail_and_never_open_a_closed_door(
    made: tuple[external_auth_pb2.CheckRequest, str], flips: list[tuple[int, int]], cut: int
) -> None:
    """Whatever is done to the bytes: a policy that asks for a token of this issuer is not passed without one."""
    request, found = made
    if found == GOOD:
        del request.attributes.request.http.headers["x-jwt"]
    data = bytearray(request.SerializeToString())
    for at, byte in flips:
        if data:
            data[at % len(data)] = byte
    del data[len(data) - min(cut, len(data)) :]

    async def run() -> None:
        async with http_client() as client:
            checker, denials = loaded(CLOSED, KeyKeeper(client))
            assert not answered(checker, denials, bytes(data))

    asyncio.run(run())


def closed() -> list[AttachedPolicy]:
    spec = {"rules": [{"from": [{"source": {"requestPrincipals": [f"{ISSUER}/alice"]}}]}]}
    return [AttachedPolicy(PolicyOrigin("a", "p"), AuthorizationPolicySpec.model_validate(spec))]


CLOSED = closed()


@pytest.mark.parametrize("index", range(len(BAD_TOKENS)))
def test_every_bad_token_is_refused_by_name(index: int) -> None:
    request = external_auth_pb2.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path = "GET", "/"
    http.headers["x-jwt"] = BAD_TOKENS[index]

    async def run() -> None:
        async with http_client() as client:
            checker, denials = loaded([], KeyKeeper(client))
            assert not answered(checker, denials, request.SerializeToString())

    asyncio.run(run())


def test_the_good_token_is_accepted() -> None:
    """Else all of the above would hold for a service that refuses everything."""
    request = external_auth_pb2.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path = "GET", "/"
    http.headers["x-jwt"] = GOOD

    async def run() -> None:
        async with http_client() as client:
            checker, denials = loaded(CLOSED, KeyKeeper(client))
            assert answered(checker, denials, request.SerializeToString())

    asyncio.run(run())
