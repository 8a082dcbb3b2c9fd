"""The compiled decision and the naive reference evaluator, over generated policies and requests that nearly meet."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from extauthz.decide import Verdict, decide
from lateen.mesh.authorizationpolicy import Action, AuthorizationPolicySpec
from lateen.policy.claims import verified_claims
from lateen.policy.compile import AttachedPolicy, PolicyOrigin, compile_policies
from lateen.policy.explain import trace_policies
from lateen.policy.request import CheckInput
from tests.fuzzing import examples
from tests.policy import reference

TRUST_DOMAINS = ("td1", "old-td", "new-td")

PRINCIPALS = ["td1/ns/a/sa/x", "old-td/ns/a/sa/x", "cluster.local/ns/a/sa/x", "other/ns/a/sa/x", "td1/ns/ab/sa/xy"]
PATTERNS = {
    "principals": [*PRINCIPALS, "*", "*/ns/a/sa/x", "*/sa/x", "td1/ns/a/*", "td1/*", "x", "td1/ns/a/sa/*"],
    "requestPrincipals": ["*", "https://i/s", "https://i/*", "*/s", "*s", "https*", "i", "https://i/", "*i/s"],
    "namespaces": ["a", "ab", "a*", "*b", "*", "b"],
    "serviceAccounts": ["x", "a/x", "ab/xy", "b/x"],
    "trustDomains": ["td1", "old-td", "*-td", "other", "*", "td*"],
    "ipBlocks": ["10.0.0.1", "10.0.0.0/8", "10.0.0.2/31", "::1", "fd00::/8", "0.0.0.0/0"],
    "hosts": ["A.com", "*.a.com", "a.*", "*", "b.a.com:80"],
    "ports": ["80", "8080", "0"],
    "methods": ["GET", "P*", "*T", "*"],
    "paths": ["/a", "/a/*", "*/b", "*", "/{*}/b", "/a/{**}", "/{**}/b", "/a/{*}/c/{**}", "/"],
    "request.headers[X-A]": ["v", "v*", "*w", "*"],
    "request.auth.claims[scope]": ["read", "re*", "*d", "*"],
    "request.auth.claims[a][b]": ["v", "*"],
    "request.auth.claims[n]": ["1", "*"],
    "request.auth.audiences": ["api", "*"],
    "request.auth.presenter": ["app", "*"],
    "connection.sni": ["a.com", "*.com", "*"],
    "experimental.envoy.filters.x[k]": ["v", "[v]", "*", "[*]"],
}
ALIASES = {
    "remoteIpBlocks": "ipBlocks",
    "source.ip": "ipBlocks",
    "remote.ip": "ipBlocks",
    "destination.ip": "ipBlocks",
    "destination.port": "ports",
    "source.namespace": "namespaces",
    "source.principal": "principals",
    "source.serviceAccount": "serviceAccounts",
    "source.trustDomain": "trustDomains",
    "request.auth.principal": "requestPrincipals",
}
PEER_FIELDS = (("principals", "namespaces"), ("serviceAccounts",))
OTHER_SOURCE_FIELDS = ("requestPrincipals", "trustDomains", "ipBlocks", "remoteIpBlocks")
OPERATION_FIELDS = ("hosts", "ports", "methods", "paths")
KEYS = [k for k in PATTERNS if "." in k] + [k for k in ALIASES if "." in k]


def values(name: str) -> SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(PATTERNS[ALIASES.get(name, name)]), min_size=1, max_size=3, unique=True)


def negated(name: str) -> str:
    return f"not{name[0].upper()}{name[1:]}"


@st.composite
def fields(draw: st.DrawFn, names: tuple[str, ...]) -> dict[str, list[str]]:
    chosen = draw(st.lists(st.sampled_from([*names, *map(negated, names)]), min_size=1, max_size=3, unique=True))
    positive = {negated(name): name for name in names}
    return {name: draw(values(positive.get(name, name))) for name in chosen}


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, object]:
    key = draw(st.sampled_from(KEYS))
    which = draw(st.sampled_from([("values",), ("notValues",), ("values", "notValues")]))
    return {"key": key, **{name: draw(values(key)) for name in which}}


@st.composite
def rules(draw: st.DrawFn) -> dict[str, object]:
    peers = draw(st.sampled_from(PEER_FIELDS))
    sources = st.lists(fields((*peers, *OTHER_SOURCE_FIELDS)).map(lambda f: {"source": f}), min_size=1, max_size=2)
    operations = st.lists(fields(OPERATION_FIELDS).map(lambda f: {"operation": f}), min_size=1, max_size=2)
    rule: dict[str, object] = {}
    if draw(st.booleans()):
        rule["from"] = draw(sources)
    if draw(st.booleans()):
        rule["to"] = draw(operations)
    if draw(st.booleans()):
        rule["when"] = draw(st.lists(conditions(), min_size=1, max_size=2))
    return rule


@st.composite
def policies(draw: st.DrawFn) -> list[AttachedPolicy]:
    specs = draw(
        st.lists(
            st.tuples(st.sampled_from([*Action, Action.ALLOW, Action.DENY]), st.lists(rules(), max_size=3)),
            max_size=4,
        )
    )
    return [
        AttachedPolicy(
            PolicyOrigin("a", f"p{i}"),
            AuthorizationPolicySpec.model_validate({"action": action, "rules": some}),
            dry_run=draw(st.integers(0, 9)) == 0,
        )
        for i, (action, some) in enumerate(specs)
    ]


PAYLOADS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "iss": st.sampled_from(["https://i", "i", ""]),
        "sub": st.sampled_from(["s", "", "xs"]),
        "aud": st.sampled_from(["api", ["api", "b"], ["b"]]),
        "azp": st.sampled_from(["app", "b"]),
        "scope": st.sampled_from(["read write", "reader", ["write", "read"], 7]),
        "a": st.sampled_from(["v", {"b": "v"}, {"b": ["v", 1]}, {"c": "v"}, ["v"]]),
        "n": st.sampled_from([1, "1", True, None]),
    },
)
ADDRESSES = st.sampled_from(
    ["10.0.0.1", "10.0.0.2", "10.0.0.3", "11.0.0.1", "::1", "fd00::5", "::ffff:10.0.0.1", "", "x"]
)


@st.composite
def requests(draw: st.DrawFn) -> CheckInput:
    http = draw(st.integers(0, 4)) > 0
    payload = draw(PAYLOADS) if http else None
    names = [f"spiffe://{p}" for p in PRINCIPALS]
    more = [
        "",
        "CN=x",
        "CN=x/ns/a/sa/x",
        "spiffe://td1/k/v/ns/a/k/v/sa/x/k/v",
        "spiffe://new-td/ns/a/sa/x",
        "spiffe://td1",
    ]
    return CheckInput(
        http=http,
        principal=draw(st.sampled_from([*names, *more])),
        source_ip=draw(ADDRESSES),
        remote_ip=draw(ADDRESSES),
        destination_ip=draw(ADDRESSES),
        destination_port=draw(st.sampled_from([0, 80, 8080, 8081])),
        sni=draw(st.sampled_from(["", "a.com", "b.com", "com"])),
        method=draw(st.sampled_from(["GET", "POST", "get", "PUT"])) if http else "",
        path=draw(
            st.sampled_from(["/a", "/a/", "/a/b", "/a/b/c", "/b", "/", "/a//b", "/é/b", "/a/x/c/", "/a/x/c", "/a/x*y"])
        )
        if http
        else "",
        host=draw(st.sampled_from(["a.com", "b.a.com", "b.a.com:80", "c", ""])) if http else "",
        headers=draw(st.sampled_from([{}, {"x-a": "v"}, {"x-a": ""}, {"x-a": "w"}, {"x-b": "v"}])) if http else {},
        claims=verified_claims(payload) if payload is not None else None,
        metadata=draw(st.sampled_from([{}, {"envoy.filters.x": {"k": "v"}}, {"envoy.filters.x": {"k": ["v", 1]}}])),
    )


@pytest.mark.fuzz
@settings(max_examples=examples(150), deadline=None)
@given(policies(), st.lists(requests(), min_size=1, max_size=6))
def test_compiled_decision_equals_the_reference(some: list[AttachedPolicy], inputs: list[CheckInput]) -> None:
    compiled = compile_policies(some, TRUST_DOMAINS)
    for request in inputs:
        verdict = decide(compiled, request).verdict is Verdict.ALLOW
        assert verdict == reference.allowed(some, request, TRUST_DOMAINS)


@pytest.mark.fuzz
@settings(max_examples=examples(100), deadline=None)
@given(policies(), requests())
def test_explain_tells_the_same_story_as_the_decision(some: list[AttachedPolicy], request: CheckInput) -> None:
    compiled = compile_policies(some, TRUST_DOMAINS)
    decision = decide(compiled, request)
    matched = [(t.policy, t.rule) for t in trace_policies(compiled, request) if t.matched and t.action != "AUDIT"]
    if decision.rule is not None:
        assert matched[0] == (str(decision.rule.origin), decision.rule.index)
    else:
        assert matched == []


@pytest.mark.fuzz
@settings(max_examples=examples(60), deadline=None)
@given(policies(), requests(), st.randoms(use_true_random=False))
def test_order_of_policies_does_not_change_the_verdict(
    some: list[AttachedPolicy], request: CheckInput, random: Random
) -> None:
    shuffled = list(some)
    random.shuffle(shuffled)
    first, second = (decide(compile_policies(p, TRUST_DOMAINS), request).verdict for p in (some, shuffled))
    assert first == second


@pytest.mark.fuzz
@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(rules(), min_size=1, max_size=4),
    st.lists(requests(), min_size=1, max_size=6),
    st.integers(0, 4),
    st.booleans(),
)
def test_an_index_over_peers_changes_nothing(
    some: list[dict[str, object]], inputs: list[CheckInput], place: int, deny: bool
) -> None:
    """Among many rules for exact peers, which are found through an index, the generated ones still decide as they would alone."""
    peers = [
        {"from": [{"source": {"principals": [principal]}}], "to": [{"operation": {"paths": [f"/{i}"]}}]}
        for i, principal in enumerate([*PRINCIPALS, *PRINCIPALS])
    ]
    spaces = [{"from": [{"source": {"namespaces": ["a", "b"]}}], "to": [{"operation": {"ports": ["8081"]}}]}]
    action = Action.DENY if deny else Action.ALLOW
    all_rules = [*peers[:place], *some, *spaces, *peers[place:]]
    spec = AuthorizationPolicySpec.model_validate({"action": action, "rules": all_rules})
    policy = [AttachedPolicy(PolicyOrigin("a", "p"), spec)]
    compiled = compile_policies(policy, TRUST_DOMAINS)
    table = compiled.deny if deny else compiled.allow
    for request in inputs:
        matching = [
            i for i, rule in enumerate(spec.rules) if reference.rule_matches(rule, action, request, "a", TRUST_DOMAINS)
        ]
        first = table.first(request)
        assert (first.index if first is not None else None) == (matching[0] if matching else None)


BASE = CheckInput(http=True, method="GET", path="/a", host="a.com", destination_port=80)
VARIANTS: dict[str, list[CheckInput]] = {
    "principals": [
        BASE._replace(principal=p)
        for p in [
            *(f"spiffe://{x}" for x in PRINCIPALS),
            "",
            "CN=x",
            "CN=spiffe://td1/ns/a/sa/x",
            "https://td1/ns/a/sa/x",
            "spiffe://td1/k/v/ns/a/k/v/sa/x/k/v",
            "spiffe://td1",
        ]
    ],
    "requestPrincipals": [
        BASE,
        *(
            BASE._replace(claims=verified_claims({"iss": iss, "sub": sub}))
            for iss in ("https://i", "https://ii", "https:/", "i", "")
            for sub in ("s", "xs", "", "s/s")
        ),
        BASE._replace(claims=verified_claims({"iss": "i", "sub": 5})),
    ],
    "ipBlocks": [
        BASE._replace(source_ip=a, remote_ip=b, destination_ip=a)
        for a in (
            "10.0.0.1",
            "10.0.0.3",
            "10.0.0.4",
            "11.0.0.1",
            "::1",
            "fd00::5",
            "fe00::",
            "::ffff:10.0.0.1",
            "",
            "x",
        )
        for b in ("10.0.0.2", "11.0.0.1", "::2")
    ],
    "hosts": [BASE._replace(host=h) for h in ("a.com", "b.a.com", "b.a.com:80", "xa.com", "a.", "")],
    "ports": [BASE._replace(destination_port=p) for p in (0, 80, 8080, 8)],
    "methods": [BASE._replace(method=m) for m in ("GET", "get", "PUT", "POST", "P", "T")],
    "paths": [
        BASE._replace(path=p)
        for p in (
            "/",
            "/a",
            "/a/",
            "/a/b",
            "/ab",
            "//b",
            "/b",
            "/x/b",
            "/x/y/b",
            "/a/x/c",
            "/a/x/c/",
            "/a/x/c/d",
            "/a/é",
            "/a/x*y",
            "/é/b",
            "",
        )
    ],
    "request.headers[X-A]": [
        BASE._replace(headers=h) for h in ({}, {"x-a": ""}, {"x-a": "v"}, {"x-a": "vw"}, {"x-b": "v"})
    ],
    "connection.sni": [BASE._replace(sni=s) for s in ("", "a.com", "b.com", ".com", "com")],
    "experimental.envoy.filters.x[k]": [
        BASE._replace(metadata={"envoy.filters.x": {"k": k}}) for k in ("v", "", "w", ["v"], ["w"], [], [""], 5, None)
    ],
}
CLAIM_VARIANTS = [
    BASE,
    *(
        BASE._replace(claims=verified_claims({name: value}))
        for name in ("scope", "a", "n", "aud", "azp")
        for value in (
            *("read", "read write", "ready", "", "d", "v", "1", "api", "app", 1, True, None),
            *(["read"], ["x", "v"], [1], [], {"b": "v"}, {"b": ["v"]}, {"b": {"b": "v"}}, {"c": "v"}),
        )
    ),
]


def attribute_cases() -> list[tuple[str, str, dict[str, object]]]:
    cases: list[tuple[str, str, dict[str, object]]] = []
    for name in [*PATTERNS, *ALIASES]:
        kind = ALIASES.get(name, name)
        kind = "principals" if kind in {"namespaces", "serviceAccounts", "trustDomains"} else kind
        pool = PATTERNS[ALIASES.get(name, name)]
        for some in [*([p] for p in pool), pool[:2], pool[-2:]]:
            for negative in (False, True):
                if "." in name:
                    rule: dict[str, object] = {"when": [{"key": name, "notValues" if negative else "values": some}]}
                else:
                    side = "operation" if name in OPERATION_FIELDS else "source"
                    field = negated(name) if negative else name
                    rule = {"to" if side == "operation" else "from": [{side: {field: some}}]}
                cases.append((f"{name} {'not ' if negative else ''}{some}", kind, rule))
    return cases


def test_every_value_of_every_attribute_equals_the_reference() -> None:
    checked = 0
    for action in (Action.ALLOW, Action.DENY):
        for name, kind, rule in attribute_cases():
            spec = AuthorizationPolicySpec.model_validate({"action": action, "rules": [rule]})
            policy = [AttachedPolicy(PolicyOrigin("a", "p"), spec)]
            compiled = compile_policies(policy, TRUST_DOMAINS)
            for variant in VARIANTS.get(kind, CLAIM_VARIANTS):
                for request in (variant, variant._replace(http=False)):
                    verdict = decide(compiled, request).verdict is Verdict.ALLOW
                    assert verdict == reference.allowed(policy, request, TRUST_DOMAINS), (action, name, request)
                    checked += 1
    assert checked > 10_000
