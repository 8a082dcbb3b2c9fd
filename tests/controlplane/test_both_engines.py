"""Each action and each kind of condition, in both enforcement modes, over HTTP and TCP, through a real Envoy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.controlplane.enforced import Ask, Case, Enforced, enforced, token

pytestmark = pytest.mark.timeout(180)

A, B = "cluster.local/ns/a/sa/x", "cluster.local/ns/b/sa/y"
OK, NO, UNAUTHENTICATED, CLOSED = 200, 403, 401, 0


def _allow(**rule: object) -> dict[str, object]:
    return {"rules": [rule]}


def _source(**source: object) -> dict[str, object]:
    return _allow(**{"from": [{"source": source}]})


def _operation(**operation: object) -> dict[str, object]:
    return _allow(to=[{"operation": operation}])


def _when(key: str, *values: str) -> dict[str, object]:
    return _allow(when=[{"key": key, "values": list(values)}])


def _peers(name: str, spec: dict[str, object]) -> Case:
    """Something of the peer: decided alike on HTTP and TCP."""
    asked = [Ask(OK, A), Ask(NO, B), Ask(NO), Ask(OK, A, tcp=True), Ask(CLOSED, B, tcp=True), Ask(CLOSED, tcp=True)]
    return Case(name, asked, [spec])


def _of_http(name: str, spec: dict[str, object], *asked: Ask, tokens: bool = False) -> Case:
    """Something that only HTTP has: an ALLOW rule with it allows no TCP connection."""
    return Case(name, [*asked, Ask(CLOSED, A, tcp=True)], [spec], tokens=tokens)


def _paths_mode(mode: str, *, resolved: int, merged: int, decoded: int) -> Case:
    """What a DENY of /admin/* comes to where paths that only look different are the same, or not, to the mesh."""
    asked = [
        Ask(NO, path="/admin/x"),
        Ask(OK, path="/administrator"),
        *(Ask(resolved, path=path) for path in ("/x/../admin/x", "/./admin/x", "/%61dmin/x", "/x\\..\\admin/x")),
        Ask(merged, path="//admin/x"),
        Ask(NO, path="/admin//x"),
        *(Ask(decoded, path=path) for path in ("/%2fadmin/x", "/admin%2Fx", "/x/%2e%2e%5cadmin/x")),
    ]
    spec = {"action": "DENY", **_operation(paths=["/admin/*"])}
    return Case(f"paths-{mode.lower().replace('_', '-')}", asked, [spec], mesh=f"pathNormalization: {{normalization: {mode}}}")  # fmt: skip


def _tag(key: str, value: str) -> Case:
    """What another filter left in dynamic metadata: here an authorizer that is asked first."""
    ask = {"action": "CUSTOM", "provider": {"name": "other"}, "rules": [{}]}
    asked = [Ask(OK, headers={"x-tag": "red"}), Ask(NO, headers={"x-tag": "blue"}), Ask(NO), Ask(CLOSED, tcp=True)]
    return Case(f"metadata-{key}", asked, [ask, _when(f"experimental.envoy.filters.http.ext_authz[{key}]", value)])


_ALIAS = "trustDomainAliases: [old.domain]"
_OLD, _ELSE = "old.domain/ns/a/sa/x", "else.domain/ns/a/sa/x"
_DENY_GET = {"action": "DENY", **_operation(methods=["GET"])}
_FROM_2 = Ask(OK, source="127.0.0.2")
CASES = [
    Case("open", [Ask(OK), Ask(OK, tcp=True)]),
    Case("nothing", [Ask(NO, A), Ask(CLOSED, A, tcp=True)], [{}]),
    Case("anything", [Ask(OK), Ask(OK, tcp=True)], [{"rules": [{}]}]),
    Case("denied", [Ask(NO, A), Ask(CLOSED, A, tcp=True)], [{"action": "DENY", "rules": [{}]}, {"rules": [{}]}]),
    Case("deny-get", [Ask(NO), Ask(OK, method="POST"), Ask(CLOSED, tcp=True)], [_DENY_GET]),
    Case("audit", [Ask(OK), Ask(OK, tcp=True)], [{"action": "AUDIT", "rules": [{}]}]),
    Case("dry-run", [Ask(OK), Ask(OK, tcp=True)], [{"action": "DENY", "rules": [{}]}], dry_run=True),
    Case("dry-run-allow", [Ask(OK), Ask(OK, tcp=True)], [{}], dry_run=True),
    _peers("principals", _source(principals=["cluster.local/ns/a/*"])),
    _peers("namespaces", _source(namespaces=["a"])),
    _peers("service-accounts", _source(serviceAccounts=["a/x"])),
    _peers("when-principal", _when("source.principal", A)),
    _peers("when-namespace", _when("source.namespace", "a")),
    _peers("when-account", _when("source.serviceAccount", "a/x")),
    Case("trust-domains", [Ask(OK, A), Ask(NO), Ask(OK, B, tcp=True), Ask(CLOSED, tcp=True)], [_source(trustDomains=["cluster.*"])]),
    Case("when-trust-domain", [Ask(OK, A), Ask(NO, _OLD), Ask(CLOSED, _OLD, tcp=True)], [_when("source.trustDomain", "*.local")], mesh="trustDomainAliases: [old.domain, other.local]"),
    Case("aliases", [Ask(OK, A), Ask(OK, _OLD), Ask(CLOSED, _ELSE), Ask(NO, B), Ask(OK, _OLD, tcp=True), Ask(CLOSED, _ELSE, tcp=True)], [_source(principals=[A])], mesh=_ALIAS),
    Case("alias-named", [Ask(OK, A), Ask(OK, _OLD), Ask(CLOSED, _ELSE)], [_source(principals=[_OLD])], mesh=_ALIAS),
    Case("alias-domains", [Ask(OK, A), Ask(OK, _OLD), Ask(CLOSED, _ELSE)], [_source(trustDomains=["old.domain"])], mesh=_ALIAS),
    Case("no-alias", [Ask(OK, A), Ask(CLOSED, _OLD), Ask(CLOSED, _OLD, tcp=True)], [_source(principals=[A])]),
    Case("mesh-wide", [Ask(NO, A), Ask(CLOSED, A, tcp=True)], [{"action": "DENY", "rules": [{}]}], namespace="istio-system"),
    Case("elsewhere", [Ask(OK, A), Ask(OK, A, tcp=True)], [{"action": "DENY", "rules": [{}]}], namespace="other"),
    Case("account-of-the-policy", [Ask(OK, "cluster.local/ns/istio-system/sa/x"), Ask(NO, A)], [_source(serviceAccounts=["x"])], namespace="istio-system"),
    Case("not-principals", [Ask(NO, A), Ask(OK, B), Ask(OK)], [_source(notPrincipals=[A])]),
    Case("ip-blocks", [_FROM_2, Ask(NO), Ask(NO, headers={"x-forwarded-for": "127.0.0.2, 127.0.0.2"}), Ask(CLOSED, tcp=True)], [_source(ipBlocks=["127.0.0.2"])]),
    Case("when-ip", [_FROM_2, Ask(NO)], [_when("source.ip", "127.0.0.2/31")]),
    _of_http(
        "remote-ip-blocks",
        _source(remoteIpBlocks=["10.0.0.0/8"]),
        Ask(OK, headers={"x-forwarded-for": "10.1.1.1, 9.9.9.9"}),
        Ask(NO, headers={"x-forwarded-for": "9.9.9.9, 10.1.1.1"}),
        Ask(NO),
    ),
    _of_http("when-remote-ip", _when("remote.ip", "10.0.0.0/8"), Ask(OK, headers={"x-forwarded-for": "10.1.1.1, 9.9.9.9"}), Ask(NO)),
    _of_http("hosts", _operation(hosts=["*.TEST"]), Ask(OK, host="App.Test"), Ask(NO, host="test")),
    Case("when-ip-tcp", [Ask(OK, source="127.0.0.2", tcp=True), Ask(CLOSED, tcp=True)], [_when("source.ip", "127.0.0.2")]),
    Case("not-values", [Ask(OK), Ask(OK, headers={"x-a": "w"}), Ask(NO, headers={"x-a": "v"})], [_allow(when=[{"key": "request.headers[x-a]", "notValues": ["v"]}])]),
    Case("no-token-no-entry", [Ask(NO), Ask(OK, token={}), Ask(NO, token={"sub": ""}), Ask(CLOSED, tcp=True)], [{"action": "DENY", **_source(notRequestPrincipals=["*"])}], tokens=True),
    *(_paths_mode(mode, resolved=r, merged=m, decoded=d) for mode, r, m, d in (("NONE", OK, OK, OK), ("BASE", NO, OK, OK), ("MERGE_SLASHES", NO, NO, OK), ("DECODE_AND_MERGE_SLASHES", NO, NO, NO))),
    _tag("tag", "red"),
    _tag("tags", "[red]"),
    Case("ports", [Ask(OK), Ask(CLOSED, tcp=True)], [_operation(ports=["8080"])]),
    Case("when-port", [Ask(NO), Ask(OK, tcp=True)], [_when("destination.port", "8082")]),
    Case("when-destination", [Ask(OK), Ask(OK, tcp=True)], [_when("destination.ip", "127.0.0.0/8")]),
    _of_http("methods", _operation(methods=["P*"]), Ask(OK, method="POST"), Ask(NO)),
    _of_http("paths", _operation(paths=["/a/*"]), Ask(OK, path="/a/b?c"), Ask(OK, path="/x/../a/b"), Ask(NO, path="/a/../b")),
    _of_http("templates", _operation(paths=["/a/{*}/b/{**}"]), Ask(OK, path="/a/1/b/2/3"), Ask(NO, path="/a/1/2/b/3")),
    _of_http("headers", _when("request.headers[X-Tenant]", "acme*"), Ask(OK, headers={"x-tenant": "acme1"}), Ask(NO)),
    _of_http("host-header", _when("request.headers[Host]", "app.*"), Ask(OK), Ask(NO, host="b.test")),
    Case("sni", [Ask(OK, A), Ask(NO, A, sni="b.test"), Ask(OK, A, tcp=True)], [_when("connection.sni", "app.*")]),
    _of_http(
        "request-principals",
        _source(requestPrincipals=["https://issuer.test/*"]),
        Ask(OK, token={}),
        Ask(NO),
        Ask(UNAUTHENTICATED, token="a.b.c"),
        Ask(UNAUTHENTICATED, token=token({"exp": 1000})),
        Ask(UNAUTHENTICATED, token=token({"iss": "https://else.test"})),
        Ask(UNAUTHENTICATED, token=token({}, kid="unknown")),
        tokens=True,
    ),
    _of_http("when-request-principal", _when("request.auth.principal", "https://issuer.test/s"), Ask(OK, token={}), Ask(NO, token={"sub": "t"}), tokens=True),
    _of_http("claims", _when("request.auth.claims[scope]", "read"), Ask(OK, token={"scope": "write read"}), Ask(NO, token={"scope": "reader"}), tokens=True),
    _of_http("nested", _when("request.auth.claims[a][b]", "v"), Ask(OK, token={"a": {"b": ["u", "v"]}}), Ask(NO, token={"a": "v"}), tokens=True),
    _of_http("claim-urls", _when("request.auth.claims[https://x.test/roles]", "a"), Ask(OK, token={"https://x.test/roles": ["b", "a"]}), Ask(NO, token={"https://x": {"test/roles": "a"}}), tokens=True),
    _of_http("claim-scalars", _when("request.auth.claims[n]", "5", "true"), Ask(OK, token={"n": "5"}), Ask(NO, token={"n": 5}), Ask(NO, token={"n": True}), Ask(NO, token={"n": [5]}), tokens=True),
    _of_http("audiences", _when("request.auth.audiences", "api"), Ask(OK, token={"aud": ["api", "x"]}), Ask(NO, token={}), tokens=True),
    _of_http("presenter", _when("request.auth.presenter", "app"), Ask(OK, token={"azp": "app"}), Ask(NO, token={}), tokens=True),
    _of_http(
        "claim-headers",
        _when("request.headers[x-team]", "red"),
        Ask(OK, token={"team": "red"}),
        Ask(NO, headers={"x-team": "red"}),
        Ask(NO, token={"team": "blue"}, headers={"x-team": "red"}),
        Ask(NO, method="OPTIONS", headers={"x-team": "red", "origin": "https://a", "access-control-request-method": "GET"}),
        tokens=True,
    ),
    Case("only-tokens", [Ask(OK), Ask(OK, token={}), Ask(UNAUTHENTICATED, token="x.y.z"), Ask(OK, tcp=True)], tokens=True),
    Case(
        "custom",
        [
            Ask(UNAUTHENTICATED, path="/ask/1", headers={"x-verdict": "other-no"}),
            Ask(UNAUTHENTICATED, path="/ask/denied", headers={"x-verdict": "other-no"}),
            Ask(NO, path="/ask/denied"),
            Ask(OK, path="/ask/1", token={"role": "admin"}),
            Ask(OK, path="/free", headers={"x-verdict": "other-no"}),
            Ask(UNAUTHENTICATED, path="/free", headers={"x-verdict": "other-no"}, token={"role": "asked"}),
        ],
        [
            {"action": "CUSTOM", "provider": {"name": "other"}, **_operation(paths=["/ask/*"])},
            {"action": "CUSTOM", "provider": {"name": "other"}, **_when("request.auth.claims[role]", "asked")},
            {"action": "DENY", **_operation(paths=["*/denied"])},
        ],
        tokens=True,
    ),
    Case(
        "limited",
        [Ask(OK, token={"tenant": "acme"})],
        limits={"limits": [{"name": "by-tenant", "descriptors": [{"claim": {"name": "tenant"}}], "requests": 10, "per": "minute"}]},
        tokens=True,
    ),
]  # fmt: skip


@pytest.fixture(scope="module", params=["extAuthz", "native"])
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Enforced]:
    with enforced(request.param, CASES, tmp_path_factory.mktemp("engines")) as started:
        yield started


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdicts(world: Enforced, case: Case) -> None:
    found = [(ask, world.status(case.name, ask)) for ask in case.asked]
    assert [status for _, status in found] == [ask.expected for ask, _ in found], found


def test_a_rate_limit_by_claim_finds_the_claim(world: Enforced) -> None:
    world.descriptors.clear()
    assert world.status("limited", Ask(OK, token={"tenant": "globex"})) == OK
    entries = [e.value for request in world.descriptors for d in request.descriptors for e in d.entries]
    assert "globex" in entries


def test_a_token_goes_no_further_and_its_claims_do(world: Enforced) -> None:
    received = world.http("claim-headers", Ask(OK, token={"team": "red"})).json["headers"]
    assert "authorization" not in received
    assert received["x-team"] == "red"


_RULE = "policy.ns[default]-policy[{}-0]-rule[0]."


@pytest.mark.parametrize(
    ("case", "status", "in_service", "in_envoy"),
    [
        ("dry-run", OK, ("dry_run_decisions", "deny", "dry-run-0"), "istio_dry_run_deny_." + _RULE + "shadow_denied"),
        ("dry-run-allow", OK, ("dry_run_decisions", "deny", "none"), "istio_dry_run_allow_.shadow_denied"),
        ("audit", OK, ("audit_matches", "", "audit-0"), "lateen_audit_." + _RULE + "shadow_denied"),
        ("deny-get", NO, ("decisions", "deny", "deny-get-0"), "rbac.denied"),
        ("anything", OK, ("decisions", "allow", "anything-0"), "rbac.allowed"),
    ],
)
def test_metrics_by_policy_and_verdict(
    world: Enforced, case: str, status: int, in_service: tuple[str, str, str], in_envoy: str
) -> None:
    name, verdict, policy = in_service
    labels = {
        "policy": policy if policy == "none" else f"default/{policy}",
        **({"verdict": verdict} if verdict else {}),
    }

    def counted() -> float:
        if world.engine == "native":
            return world.counted(in_envoy.format(case))
        return world.metrics.registry.get_sample_value(f"lateen_authz_{name}_total", labels) or 0

    before = counted()
    assert world.status(case, Ask(status)) == status
    assert counted() == before + 1
