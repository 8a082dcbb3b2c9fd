"""The same verdict from the compiled decision, the naive reference evaluator, and a real Envoy that runs the native filters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from extauthz.decide import Verdict, decide
from lateen.mesh.authorizationpolicy import Action, AuthorizationPolicySpec
from lateen.policy.compile import AttachedPolicy, PolicyOrigin, PolicySet, compile_policies
from tests.fuzzing import examples
from tests.policy import reference
from tests.policy.native_envoy import Asked, NativeEnvoy
from tests.policy.test_compile_agrees_with_reference import (
    ALIASES,
    OPERATION_FIELDS,
    OTHER_SOURCE_FIELDS,
    PATTERNS,
    PEER_FIELDS,
    PRINCIPALS,
    TRUST_DOMAINS,
    negated,
)

pytestmark = pytest.mark.timeout(240)

_POLICIES = 120
_REQUESTS_EACH = 8
_LOOPBACK = [
    "127.0.0.1",
    "127.0.0.2/31",
    "127.0.0.0/8",
    "::1",
    "0.0.0.0/0",
    "::/0",
    "::ffff:127.0.0.0/105",
    "10.0.0.0/8",
]
_FORWARDED = ["10.0.0.1", "10.0.0.0/8", "10.0.0.2/31", "::1", "fd00::/8", "0.0.0.0/0", "::/0", "::ffff:10.0.0.0/120"]
_PEERS = [
    "",
    *(f"spiffe://{p}" for p in PRINCIPALS),
    "spiffe://td1/k/v/ns/a/k/v/sa/x/k/v",
    "spiffe://td1",
    "https://td1/ns/a/sa/x",
]
_CLAIMS: list[object] = [
    None,
    {},
    *({"iss": iss, "sub": sub} for iss in ("https://i", "https://ii", "i", "") for sub in ("s", "xs", "", "s/s")),
    *({name: value} for name in ("aud", "azp") for value in ("api", "app", ["api", "b"], ["b"], [])),
    *({"scope": value} for value in ("read write", "reader", ["write", "read"], "", "d", 7)),
    *({"a": value} for value in ("v", {"b": "v"}, {"b": ["v", 1]}, {"b": {"b": "v"}}, {"c": "v"}, ["v"])),
    *({"n": value} for value in (1, "1", True, None)),
]
_TARGETS = ["/", "/a", "/a/", "/a/b", "/ab", "//b", "/b", "/x/b", "/x/y/b", "/a/x/c", "/a/x/c/", "/a/x/c/d", "/a?b=/x/b", "/a/%20"]  # fmt: skip
_HEADERS: list[tuple[tuple[str, str], ...]] = [(), (("x-a", ""),), (("X-A", "v"),), (("x-a", "vw"),), (("x-b", "v"),)]


class Maker:
    """Policies, and requests that nearly meet them, from a seed."""

    def __init__(self, seed: int, envoy: NativeEnvoy) -> None:
        self.random = Random(seed)
        ports = [str(port) for port in envoy.ports]
        self.patterns = {
            **{name: PATTERNS[ALIASES.get(name, name)] for name in [*PATTERNS, *ALIASES]},
            "ipBlocks": _LOOPBACK,
            "source.ip": _LOOPBACK,
            "destination.ip": [*_LOOPBACK, envoy.address],
            "remoteIpBlocks": _FORWARDED,
            "remote.ip": _FORWARDED,
            "ports": [*ports, "80"],
            "destination.port": [*ports, "80"],
            "experimental.envoy.filters.x[l]": ["v", "[v]", "[*]", "*", "[w]"],
            "experimental.envoy.filters.x[n]": ["5", "*"],
        }
        self.keys = [name for name in self.patterns if "." in name]

    def values(self, name: str) -> list[str]:
        return self.random.sample(self.patterns[name], self.random.randint(1, 2))

    def fields(self, names: Sequence[str]) -> dict[str, list[str]]:
        some = self.random.sample(list(names), self.random.randint(1, 2))
        return {(negated(n) if self.random.random() < 0.3 else n): self.values(n) for n in some}

    def condition(self) -> dict[str, object]:
        key = self.random.choice(self.keys)
        which = self.random.choice([("values",), ("notValues",), ("values", "notValues")])
        return {"key": key, **{name: self.values(key) for name in which}}

    def rule(self) -> dict[str, object]:
        chance = self.random.random
        rule: dict[str, object] = {}
        sources = (*self.random.choice(PEER_FIELDS), *OTHER_SOURCE_FIELDS)
        if chance() < 0.5:
            rule["from"] = [{"source": self.fields(sources)} for _ in range(self.random.randint(1, 2))]
        if chance() < 0.5:
            rule["to"] = [{"operation": self.fields(OPERATION_FIELDS)} for _ in range(self.random.randint(1, 2))]
        if chance() < 0.5:
            rule["when"] = [self.condition() for _ in range(self.random.randint(1, 2))]
        return rule

    def policies(self) -> list[AttachedPolicy]:
        actions = [Action.ALLOW, Action.ALLOW, Action.DENY, Action.AUDIT]
        return [
            _attached(
                i,
                self.random.choice(actions),
                [self.rule() for _ in range(self.random.randint(0, 3))],
                dry_run=self.random.random() < 0.1,
            )
            for i in range(self.random.randint(1, 4))
        ]

    def request(self) -> Asked:
        choose = self.random.choice
        peer = choose(_PEERS)
        claims = choose(_CLAIMS)
        return Asked(
            principal=peer,
            source=choose(["127.0.0.1", "127.0.0.2", "127.200.0.1"]),
            sni=choose(["", "a.com", "b.com"]) if peer else "",
            port=choose([0, 1]),
            method=choose(["GET", "PUT", "POST"]),
            target=choose(_TARGETS),
            host=choose(["a.com", "A.com", "b.a.com", "b.a.com:80", "a.b"]),
            forwarded_for=choose(["", "10.0.0.1", "11.0.0.1, 10.0.0.3", "fd00::5", "x", "::ffff:10.0.0.1"]),
            headers=choose(_HEADERS),
            claims=json.dumps(claims) if claims is not None else "",
        )


def _attached(number: int, action: Action, rules: Sequence[object], *, dry_run: bool = False) -> AttachedPolicy:
    spec = AuthorizationPolicySpec.model_validate({"action": action, "rules": list(rules)})
    return AttachedPolicy(PolicyOrigin("a", f"p{number}"), spec, dry_run=dry_run)


_BASE = Asked()
_NEAR: dict[str, list[Asked]] = {
    "peer": [replace(_BASE, principal=p) for p in _PEERS],
    "token": [replace(_BASE, claims=json.dumps(c) if c is not None else "") for c in _CLAIMS],
    "source": [replace(_BASE, source=s) for s in ("127.0.0.1", "127.0.0.2", "127.200.0.1")],
    "forwarded": [
        replace(_BASE, forwarded_for=f)
        for f in ("", "10.0.0.1", "10.0.0.4", "1.1.1.1, 10.0.0.3", "10.0.0.1, 1.1.1.1", "fd00::5", "fe00::", "x", "::ffff:10.0.0.1")
    ],
    "host": [replace(_BASE, host=h) for h in ("a.com", "A.COM", "b.a.com", "b.a.com:80", "xa.com", "a.", "b")],
    "port": [replace(_BASE, port=p) for p in (0, 1)],
    "method": [replace(_BASE, method=m) for m in ("GET", "PUT", "POST", "DELETE")],
    "path": [replace(_BASE, target=t) for t in _TARGETS],
    "header": [replace(_BASE, headers=h) for h in _HEADERS],
    "sni": [replace(_BASE, principal=_PEERS[1], sni=s) for s in ("", "a.com", "b.com", "com")],
    "fixed": [_BASE],
}  # fmt: skip
_KIND = {
    "principals": "peer", "namespaces": "peer", "serviceAccounts": "peer", "trustDomains": "peer", "requestPrincipals": "token",
    "ipBlocks": "source", "remoteIpBlocks": "forwarded", "remote.ip": "forwarded", "source.ip": "source", "destination.ip": "fixed",
    "hosts": "host", "ports": "port", "destination.port": "port", "methods": "method", "paths": "path",
    "connection.sni": "sni", "request.headers[X-A]": "header",
}  # fmt: skip


def _kind(name: str) -> str:
    if name.startswith("request.auth"):
        return "token"
    if name.startswith("experimental"):
        return "fixed"
    return _KIND.get(name) or _KIND[ALIASES[name]]


def _table(maker: Maker) -> Iterator[tuple[list[AttachedPolicy], list[Asked]]]:
    """Every value of every attribute, and its negation, against requests that differ in that attribute."""
    for name, pool in maker.patterns.items():
        for some in [*([p] for p in pool), pool[:2]]:
            for negative in (False, True):
                rule: dict[str, Any]
                if "." in name:
                    rule = {"when": [{"key": name, "notValues" if negative else "values": some}]}
                else:
                    side = ("to", "operation") if name in OPERATION_FIELDS else ("from", "source")
                    rule = {side[0]: [{side[1]: {negated(name) if negative else name: some}}]}
                yield [_attached(0, Action.ALLOW, [rule])], _NEAR[_kind(name)]


def _compared(envoy: NativeEnvoy, pairs: Sequence[tuple[list[AttachedPolicy], list[Asked]]]) -> tuple[int, int]:
    """How many pairs were compared, and how many of them were allowed."""
    compiled: list[PolicySet] = [compile_policies(some, TRUST_DOMAINS) for some, _ in pairs]
    different: list[str] = []
    compared = allowed = 0
    with envoy.running(compiled, TRUST_DOMAINS):
        for number, (some, requests) in enumerate(pairs):
            for asked in requests:
                request = envoy.input(asked)
                by_reference = reference.allowed(some, request, TRUST_DOMAINS)
                by_service = decide(compiled[number], request).verdict is Verdict.ALLOW
                status = envoy.status(number, asked)
                if status not in {200, 403} or len({by_reference, by_service, status == 200}) > 1:
                    verdicts = f"reference {by_reference}, service {by_service}, Envoy {status}"
                    specs = [p.spec.model_dump_json(exclude_unset=True, by_alias=True) for p in some]
                    different.append(f"{verdicts}: {asked} {' '.join(specs)}")
                compared += 1
                allowed += by_reference
    assert not different, f"{len(different)} of {compared}:\n" + "\n".join(different[:20])
    return compared, allowed


@pytest.fixture
def envoy(tmp_path: Path) -> NativeEnvoy:
    return NativeEnvoy(tmp_path, [p for p in _PEERS if p])


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(7, 7 + (examples(1) + 4) // 5))
def test_generated_policies(envoy: NativeEnvoy, seed: int) -> None:
    maker = Maker(seed, envoy)
    pairs = [(maker.policies(), [maker.request() for _ in range(_REQUESTS_EACH)]) for _ in range(_POLICIES)]
    compared, allowed = _compared(envoy, pairs)
    assert compared >= 500
    assert 0.15 < allowed / compared < 0.85, "the generator has become one-sided"


def test_every_value_of_every_attribute(envoy: NativeEnvoy) -> None:
    compared, allowed = _compared(envoy, list(_table(Maker(0, envoy))))
    assert compared > 2000
    assert 0.15 < allowed / compared < 0.85
