"""`Checker.check`, from the bytes of a CheckRequest to the bytes of its answer: what one request costs the service, without a transport."""

import asyncio
import base64
import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from benchmarks.decisions import policies
from benchmarks.report import Section, Table, number, with_range
from benchmarks.statistics import Spread
from benchmarks.timing import cpu_per_call
from extauthz.check import Checker
from extauthz.denials import Denials
from extauthz.metrics import Metrics
from extauthz.policies import Policies
from extauthz.seen import SeenTokens
from extauthz.tokens import TokenCache
from lateen.envoyapi.envoy.service.auth.v3 import external_auth_pb2
from lateen.envoyapi.lateen.v1alpha1 import workload_pb2
from lateen.fetching import http_client
from lateen.jwks.keeper import KeyKeeper
from lateen.jwks.keys import Key
from lateen.jwks.page import jwks_of

SIZES: Final = (1, 100, 1000)
INDEXED, UNINDEXED = "named peers", "any peer"
PLAIN, CACHED, RSA, ECDSA = "no token", "token, cached", "token, RS256 verified", "token, ES256 verified"
_TARGET, _PROXY, _ISSUER = "bench/app", "spiffe://cluster.local/ns/bench/sa/app", "https://issuer.example"
_COORDINATE_BYTES: Final = 32


def unindexed(count: int) -> list[dict[str, Any]]:
    """Policies that any peer may match, so that no index over peers helps: each rule is looked at until one matches."""
    made = []
    for index in range(count):
        operation = {"methods": ["GET", "POST"], "paths": [f"/v1/service-{index}/*", f"*/service-{index}"]}
        source = {"principals": [f"*/sa/client-{index % 7}", "*/sa/client"]}
        rule: dict[str, object] = {"from": [{"source": source}], "to": [{"operation": operation}]}
        if index % 3 == 2:
            rule["when"] = [{"key": "request.headers[x-tenant]", "values": ["acme", "glob*"]}]
        made.append({"action": "ALLOW", "rules": [rule]})
    return made


class Bench:
    """A checker with policies, asked for one request that the last but one policy allows."""

    def __init__(self, keeper: KeyKeeper, specs: list[dict[str, Any]], jwks: str = "") -> None:
        message = workload_pb2.WorkloadPolicy(
            target=_TARGET, namespace="bench", service_account="app", trust_domain="cluster.local"
        )
        for index, spec in enumerate(specs):
            message.authorization_policies.add(
                kind="AuthorizationPolicy", namespace="bench", name=f"p{index}", spec_json=json.dumps(spec)
            )
        if jwks:
            rule = {"jwtRules": [{"issuer": _ISSUER, "jwks": jwks}]}
            message.request_authentications.add(
                kind="RequestAuthentication", namespace="bench", name="jwt", spec_json=json.dumps(rule)
            )
        held = Policies(keeper.want)
        held.take({_TARGET: message.SerializeToString()}, [])
        self.checker = Checker(held, keeper, Metrics(), Denials())

    def check(self, data: bytes) -> None:
        """One Check that must be allowed."""
        answer = self.checker.check(_TARGET, _PROXY, data)
        assert isinstance(answer, bytes)
        assert external_auth_pb2.CheckResponse.FromString(answer).status.code == 0

    def run(self, data: bytes) -> None:
        """The same, measured."""
        self.checker.check(_TARGET, _PROXY, data)


def request_for(index: int, token: str = "") -> bytes:
    """An ordinary request, as Envoy encodes it, from the peer and for the path that the policy `index` is about."""
    request = external_auth_pb2.CheckRequest()
    attributes = request.attributes
    attributes.source.principal = f"spiffe://cluster.local/ns/team-{index}/sa/client"
    attributes.source.address.socket_address.address = "10.0.0.7"
    attributes.source.address.socket_address.port_value = 40123
    attributes.destination.address.socket_address.address = "10.0.0.9"
    attributes.destination.address.socket_address.port_value = 8080
    http = attributes.request.http
    http.method, http.path, http.host, http.scheme = "GET", f"/v1/service-{index}/items?page=2", "app.bench", "http"
    headers = {"user-agent": "benchmark/1.0", "accept": "*/*", "x-tenant": "acme", "x-request-id": "5e1c7a"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    for name, value in headers.items():
        http.headers[name] = value
    return request.SerializeToString()


def signed(algorithm: str, sign: Callable[[bytes], bytes]) -> str:
    """A token of the benchmark's issuer."""
    claims = {"iss": _ISSUER, "sub": "alice", "aud": "app", "scope": "read write", "exp": int(time.time()) + 3600}
    text = f"{_b64(json.dumps({'alg': algorithm, 'typ': 'JWT'}).encode())}.{_b64(json.dumps(claims).encode())}"
    return f"{text}.{_b64(sign(text.encode()))}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _tokens() -> tuple[str, Mapping[str, str]]:
    """A key set, and a token for each of its keys."""
    rsa_key, ec_key = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())

    def ecdsa(data: bytes) -> bytes:
        r, s = decode_dss_signature(ec_key.sign(data, ec.ECDSA(SHA256())))
        return r.to_bytes(_COORDINATE_BYTES) + s.to_bytes(_COORDINATE_BYTES)

    keys = [
        Key("", frozenset({"RS256"}), rsa_key.public_key()),
        Key("", frozenset({"ES256"}), ec_key.public_key()),
    ]
    found = {
        RSA: signed("RS256", lambda data: rsa_key.sign(data, padding.PKCS1v15(), SHA256())),
        ECDSA: signed("ES256", ecdsa),
    }
    return json.dumps({"keys": jwks_of(keys)}), found


def measure(*, quick: bool) -> Section:
    """CPU of whole Checks by number and kind of policies, and by what is done about tokens."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        return asyncio.run(_measure(quick=quick))
    finally:
        structlog.configure(**before)


async def _measure(*, quick: bool) -> Section:
    timing = {"rounds": 3 if quick else 7, "seconds": 0.02 if quick else 0.15}
    async with http_client() as client:
        keeper = KeyKeeper(client)
        by_size: dict[str, Callable[[], object]] = {}
        for count in SIZES:
            named = [p.model_dump(mode="json", by_alias=True, exclude_unset=True) for p in policies(count)]
            for kind, specs in ((INDEXED, named), (UNINDEXED, unindexed(count))):
                bench = Bench(keeper, specs)
                data = request_for(max(0, count - 2))
                bench.check(data)
                by_size[f"{kind} {count}"] = partial(bench.run, data)
        sizes = cpu_per_call(by_size, **timing)  # type: ignore[arg-type]

        jwks, tokens = _tokens()
        any_of: list[dict[str, Any]] = [
            {"rules": [{"from": [{"source": {"requestPrincipals": ["*"]}}]}]},
            {"rules": [{}]},
        ]
        with_tokens: dict[str, Callable[[], object]] = {}
        for name in (PLAIN, CACHED, RSA, ECDSA):
            bench = Bench(keeper, any_of, jwks)
            data = request_for(0, tokens.get(RSA if name == CACHED else name, ""))
            bench.check(data)
            if name in tokens:  # as with tokens that nobody has sent before
                bench.checker.tokens, bench.checker.seen = TokenCache(max_tokens=0), SeenTokens(most=0)
            with_tokens[name] = partial(bench.run, data)
        found = cpu_per_call(with_tokens, **timing)  # type: ignore[arg-type]
    return _section(sizes, found)


def _section(sizes: Mapping[str, Spread], tokens: Mapping[str, Spread]) -> Section:
    rows = [
        (str(count), with_range(sizes[f"{INDEXED} {count}"]), with_range(sizes[f"{UNINDEXED} {count}"]))
        for count in SIZES
    ]
    plain = tokens[PLAIN].median
    token_rows = [(name, with_range(value), number(value.median / plain)) for name, value in tokens.items()]
    tables = (
        Table(("policies", f"{INDEXED}, us", f"{UNINDEXED}, us"), tuple(rows)),
        Table(("request", "us", "to no token"), tuple(token_rows)),
    )
    notes = (
        "CPU us a Check, median (min..max): decoding the CheckRequest, tokens, decision, encoded answer, metrics; no transport",
        f"{INDEXED}: policies that name their callers, found through an index; {UNINDEXED}: suffix patterns, which defeat it",
        "tokens: 2 policies; verified: signature checked every time, as with tokens never seen before",
    )
    data = {name: value.as_dict() for name, value in {**sizes, **tokens}.items()}
    return Section("checks", "one Check of the authorization service", tables, notes, data)
