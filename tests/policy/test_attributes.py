"""Truth tables: for each field of a rule what matches, and the near misses. The expectations are Istio's, by hand."""

from typing import Any

import pytest

from extauthz.decide import Verdict, decide
from lateen.mesh.authorizationpolicy import AuthorizationPolicySpec
from lateen.policy.claims import verified_claims
from lateen.policy.compile import AttachedPolicy, PolicyOrigin, compile_policies
from lateen.policy.errors import PolicyError
from lateen.policy.request import CheckInput, remote_address

BASE = CheckInput(http=True, method="GET", path="/", host="h", principal="spiffe://cluster.local/ns/a/sa/x")


def claims(**payload: object) -> CheckInput:
    return BASE._replace(claims=verified_claims(payload))


def who(principal: str) -> CheckInput:
    return BASE._replace(principal=principal)


def rule_allows(rule: dict[str, Any], request: CheckInput, trust_domains: tuple[str, ...] = ("cluster.local",)) -> bool:
    spec = AuthorizationPolicySpec.model_validate({"rules": [rule]})
    policies = compile_policies([AttachedPolicy(PolicyOrigin("a", "p"), spec)], trust_domains)
    return decide(policies, request).verdict is Verdict.ALLOW


def source(**fields: list[str]) -> dict[str, Any]:
    return {"from": [{"source": fields}]}


def operation(**fields: list[str]) -> dict[str, Any]:
    return {"to": [{"operation": fields}]}


def when(key: str, *values: str) -> dict[str, Any]:
    return {"when": [{"key": key, "values": list(values)}]}


TABLE: list[tuple[dict[str, Any], CheckInput, bool]] = [
    (source(principals=["cluster.local/ns/a/sa/x"]), BASE, True),
    (source(principals=["cluster.local/ns/a/sa/x"]), who("spiffe://cluster.local/ns/a/sa/xx"), False),
    (source(principals=["cluster.local/ns/a/sa/x"]), who("cluster.local/ns/a/sa/x"), False),
    (source(principals=["*/sa/x"]), BASE, True),
    (source(principals=["*/sa/x"]), who("spiffe://cluster.local/ns/a/sa/y"), False),
    (source(principals=["cluster.local/ns/a/*"]), BASE, True),
    (source(principals=["cluster.local/ns/a/*"]), who("spiffe://cluster.local/ns/ab/sa/x"), False),
    (source(principals=["*"]), BASE, True),
    (source(principals=["*"]), who(""), False),
    (source(notPrincipals=["*"]), who(""), True),
    (source(notPrincipals=["cluster.local/ns/a/sa/x"]), who(""), True),
    (source(notPrincipals=["cluster.local/ns/a/sa/x"]), BASE, False),
    (source(namespaces=["a"]), BASE, True),
    (source(namespaces=["a"]), who("spiffe://cluster.local/ns/aa/sa/x"), False),
    (source(namespaces=["a*"]), who("spiffe://cluster.local/ns/aa/sa/x"), True),
    (source(namespaces=["a"]), who(""), False),
    (source(serviceAccounts=["x"]), BASE, True),
    (source(serviceAccounts=["a/x"]), who("spiffe://other/ns/a/sa/x"), True),
    (source(serviceAccounts=["x"]), who("spiffe://cluster.local/ns/b/sa/x"), False),
    (source(serviceAccounts=["a/x"]), who("spiffe://cluster.local/ns/a/sa/x-junk"), False),
    (source(serviceAccounts=["a/x"]), who("spiffe://cluster.local/k/v/ns/a/k/v/sa/x/k/v"), True),
    (source(trustDomains=["cluster.local"]), BASE, True),
    (source(trustDomains=["cluster"]), BASE, False),
    (source(trustDomains=["*.local"]), BASE, True),
    (source(ipBlocks=["10.0.0.0/8"]), BASE._replace(source_ip="10.1.2.3"), True),
    (source(ipBlocks=["10.0.0.0/8"]), BASE._replace(source_ip="11.1.2.3"), False),
    (source(ipBlocks=["10.0.0.0/8"]), BASE._replace(source_ip="11.0.0.1", remote_ip="10.0.0.1"), False),
    (source(ipBlocks=["10.0.0.0/8"]), BASE._replace(source_ip="::ffff:10.0.0.1"), True),
    (source(ipBlocks=["10.0.0.1"]), BASE._replace(source_ip="10.0.0.2"), False),
    (source(ipBlocks=["fd00::/8"]), BASE._replace(source_ip="fd12::1"), True),
    (source(remoteIpBlocks=["10.0.0.0/8"]), BASE._replace(source_ip="11.0.0.1", remote_ip="10.0.0.1"), True),
    (source(requestPrincipals=["*"]), claims(iss="i", sub="s"), True),
    (source(requestPrincipals=["*"]), claims(iss="i"), False),
    (source(requestPrincipals=["*"]), claims(iss="i", sub=""), False),
    (source(requestPrincipals=["https://auth.corp.com/*"]), claims(iss="https://auth.corp.com", sub="alice"), True),
    (
        source(requestPrincipals=["https://auth.corp.com/*"]),
        claims(iss="https://auth.corp.com/evil", sub="alice"),
        False,
    ),
    (source(requestPrincipals=["https://auth.corp.com/*"]), claims(iss="https://auth.corp.com"), False),
    (source(requestPrincipals=["*/alice"]), claims(iss="anything", sub="alice"), True),
    (source(requestPrincipals=["*/alice"]), claims(iss="anything", sub="malice"), False),
    (source(requestPrincipals=["i/s"]), claims(iss="i", sub="s"), True),
    (source(requestPrincipals=["i/s"]), BASE, False),
    (source(notRequestPrincipals=["*"]), BASE, True),
    (operation(methods=["GET"]), BASE, True),
    (operation(methods=["GET"]), BASE._replace(method="get"), False),
    (operation(notMethods=["GET"]), BASE, False),
    (operation(hosts=["Example.com"]), BASE._replace(host="example.com"), True),
    (operation(hosts=["example.com"]), BASE._replace(host="example.com:80"), False),
    (operation(hosts=["example.com:*"]), BASE._replace(host="example.com:80"), True),
    (operation(ports=["8080"]), BASE._replace(destination_port=8080), True),
    (operation(ports=["8080"]), BASE._replace(destination_port=80), False),
    (operation(paths=["/v1/charge"]), BASE._replace(path="/v1/charge"), True),
    (operation(paths=["/v1/charge"]), BASE._replace(path="/v1/charge/"), False),
    (operation(paths=["/v1/charge"]), BASE._replace(path="/V1/charge"), False),
    (operation(paths=["/v1/*"]), BASE._replace(path="/v1/"), True),
    (operation(paths=["/v1/*"]), BASE._replace(path="/v1"), False),
    (operation(paths=["*/info"]), BASE._replace(path="/a/info"), True),
    (operation(paths=["/a/{*}/c"]), BASE._replace(path="/a/b/c"), True),
    (operation(paths=["/a/{*}/c"]), BASE._replace(path="/a/b/b/c"), False),
    (operation(paths=["/a/{*}/c"]), BASE._replace(path="/a//c"), False),
    (operation(paths=["/a/{**}"]), BASE._replace(path="/a/"), True),
    (operation(paths=["/a/{**}"]), BASE._replace(path="/a/b/c"), True),
    (operation(paths=["/a/{**}"]), BASE._replace(path="/a"), False),
    (operation(paths=["/{**}/c"]), BASE._replace(path="/a/b/c"), True),
    (operation(paths=["/a.c/{*}"]), BASE._replace(path="/abc/x"), False),
    (when("request.headers[X-Tenant]", "acme"), BASE._replace(headers={"x-tenant": "acme"}), True),
    (when("request.headers[X-Tenant]", "acme"), BASE._replace(headers={"x-tenant": "acme,evil"}), False),
    (when("request.headers[X-Tenant]", "acme"), BASE, False),
    (when("request.headers[X-Tenant]", "*"), BASE._replace(headers={"x-tenant": ""}), True),
    ({"when": [{"key": "request.headers[x]", "notValues": ["a"]}]}, BASE, True),
    ({"when": [{"key": "request.headers[x]", "notValues": ["a"]}]}, BASE._replace(headers={"x": "a"}), False),
    (when("request.auth.claims[scope]", "payments:read"), claims(scope="payments:write payments:read"), True),
    (when("request.auth.claims[scope]", "payments:read"), claims(scope="payments:reader"), False),
    (when("request.auth.claims[groups]", "admin"), claims(groups=["user", "admin"]), True),
    (when("request.auth.claims[groups]", "admin"), claims(groups="user admin"), False),
    (when("request.auth.claims[a][b]", "v"), claims(a={"b": ["v"]}), True),
    (when("request.auth.claims[a][b]", "v"), claims(a={"c": "v"}), False),
    (when("request.auth.claims[a.b/c]", "v"), claims(**{"a.b/c": "v"}), True),
    (when("request.auth.claims[level]", "5"), claims(level=5), False),
    (when("request.auth.claims[ok]", "true"), claims(ok=True), False),
    (when("request.auth.audiences", "api"), claims(aud=["web", "api"]), True),
    (when("request.auth.audiences", "api"), claims(aud="apis"), False),
    (when("request.auth.presenter", "app"), claims(azp="app"), True),
    (when("connection.sni", "*.example.com"), BASE._replace(sni="a.example.com"), True),
    (when("connection.sni", "*.example.com"), BASE._replace(sni="example.com"), False),
    (when("destination.ip", "10.0.0.1"), BASE._replace(destination_ip="10.0.0.1"), True),
    (when("destination.port", "80"), BASE._replace(destination_port=81), False),
    (when("experimental.envoy.filters.a.b[c]", "v"), BASE._replace(metadata={"envoy.filters.a.b": {"c": "v"}}), True),
    (
        when("experimental.envoy.filters.a.b[c]", "[v]"),
        BASE._replace(metadata={"envoy.filters.a.b": {"c": ["v"]}}),
        True,
    ),
    (
        when("experimental.envoy.filters.a.b[c]", "v"),
        BASE._replace(metadata={"envoy.filters.a.b": {"c": ["v"]}}),
        False,
    ),
    ({}, BASE, True),
]


@pytest.mark.parametrize(
    ("rule", "request_", "expected"), TABLE, ids=lambda v: None if isinstance(v, CheckInput) else str(v)[:80]
)
def test_rule(rule: dict[str, Any], request_: CheckInput, expected: bool) -> None:
    assert rule_allows(rule, request_) is expected


@pytest.mark.parametrize(
    ("principal", "caller", "expected"),
    [
        ("old/ns/a/sa/x", "spiffe://new/ns/a/sa/x", True),
        ("new/ns/a/sa/x", "spiffe://old/ns/a/sa/x", True),
        ("cluster.local/ns/a/sa/x", "spiffe://old/ns/a/sa/x", True),
        ("cluster.local/ns/a/sa/x", "spiffe://cluster.local/ns/a/sa/x", False),
        ("other/ns/a/sa/x", "spiffe://new/ns/a/sa/x", False),
        ("other/ns/a/sa/x", "spiffe://other/ns/a/sa/x", True),
        ("*/ns/a/sa/x", "spiffe://third/ns/a/sa/x", True),
        ("new/ns/a/*", "spiffe://old/ns/a/sa/x", False),
    ],
)
def test_trust_domain_aliases(principal: str, caller: str, expected: bool) -> None:
    assert rule_allows(source(principals=[principal]), who(caller), ("new", "old")) is expected


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (when("request.unknown", "x"), 'unknown attribute "request.unknown"'),
        (when("request.headers[]", "x"), "must be request.headers[NAME]"),
        (when("request.auth.claims[a]b", "x"), "must be request.auth.claims[NAME]"),
        (when("experimental.envoy.filters.a", "x"), "must end with a name in brackets"),
        ({"when": [{"key": "source.ip"}]}, "needs values or notValues"),
        (source(ipBlocks=["10.0.0.0/33"]), "prefix length out of range"),
        (source(ipBlocks=["localhost"]), '"localhost" is neither an IP address nor a CIDR range'),
        (operation(ports=["http"]), '"http" is not a port'),
        (operation(ports=["65536"]), '"65536" is not a port'),
        (operation(paths=["/{**}/a/{**}"]), "must be the last operator"),
        (when("request.path", "/a"), 'unknown attribute "request.path"'),
        (source(), "must not be empty"),
        ({"from": [{}]}, "must be set"),
    ],
)
def test_what_cannot_be_compiled_names_policy_rule_and_field(rule: dict[str, Any], text: str) -> None:
    with pytest.raises(PolicyError) as error:
        rule_allows(rule, BASE)
    assert text in str(error.value)
    assert str(error.value).startswith("AuthorizationPolicy a/p rules[0]: ")


@pytest.mark.parametrize(
    ("forwarded_for", "hops", "expected"),
    [
        ("", 0, "peer"),
        ("1.1.1.1", 0, "1.1.1.1"),
        ("1.1.1.1, 2.2.2.2", 0, "2.2.2.2"),
        ("1.1.1.1, 2.2.2.2", 1, "1.1.1.1"),
        ("1.1.1.1,2.2.2.2", 2, "peer"),
        ("9.9.9.9, 1.1.1.1, 2.2.2.2", 1, "1.1.1.1"),
        ("evil", 0, "peer"),
        ("1.1.1.1,", 0, "peer"),
        ("::1", 0, "::1"),
    ],
)
def test_remote_address_counts_trusted_hops_from_the_right(forwarded_for: str, hops: int, expected: str) -> None:
    assert remote_address(forwarded_for, hops, "peer") == expected


def test_values_of_a_policy_never_become_code() -> None:
    evil = "'); import os; os.abort() #"
    for rule in (
        source(principals=[evil]),
        operation(paths=[evil, evil + "*", "*" + evil], hosts=[evil]),
        when(f"request.headers[{evil}]", evil),
        when(f"request.auth.claims[{evil}]", evil),
    ):
        assert rule_allows(rule, BASE) is False
