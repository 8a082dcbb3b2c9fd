"""Each code of the loader: a text that triggers it where it should, and a near miss that does not. A meta-test keeps the table complete."""

from dataclasses import dataclass, field

import pytest

from lateen.mesh import yaml_source
from lateen.mesh.diagnostics import CODES
from lateen.mesh.loader import load_paths, load_text

VS = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n"
OK = VS.replace("spec:", "spec: {}")
DR = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n"
GW = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec:\n"
SVC = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n"
RL = "apiVersion: lateen.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: a}\nspec:\n"


@dataclass(frozen=True)
class Case:
    """`bad` triggers the code at `place`; `good` is close to it and does not."""

    code: str
    bad: str
    place: tuple[int, int]
    good: str
    message: str
    hint: str = ""
    path: str = field(default="", kw_only=True)


CASES = [
    Case("LTN0001", "a: [1, 2\n", (1, 4), VS + "  hosts: [a]\n", "flow sequence"),
    Case("LTN0001", "a:\n\tb: 1\n", (2, 1), VS + '  hosts: ["\\t"]\n', "cannot start any token", "tabs"),
    Case("LTN0001", "a: *x\n", (1, 4), "a: &x 1\nb: *x\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "alias *x"),
    Case("LTN0001", "a: !secret x\n", (1, 4), SVC.replace("name: a", "name: !!str a"), "tag !secret", "remove the tag"),
    Case("LTN0002", VS + "  hosts: [a]\n  gateways: [b]\n  hosts: [c]\n", (7, 3), VS + "  hosts: [a, a]\n", '"hosts" stands twice', "line 5"),
    Case("LTN0003", "a: " + "[" * 101 + "]" * 101, (1, 104), "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nstatus: {a: " + "[" * 98 + "]" * 98 + "}", "nested more than 100"),
    Case("LTN0005", "- a\n", (1, 1), "# only a comment\n", "must be an object"),
    Case("LTN0005", "? [a]\n: b\n", (1, 3), SVC + "  selector: {80: a}\n", "a key must be text"),
    Case("LTN0101", VS.replace("VirtualService", "VirtualServce"), (2, 1), OK, "unknown kind VirtualServce", "did you mean VirtualService?"),
    Case("LTN0101", VS.replace("networking", "security"), (1, 1), OK, "there is no VirtualService", "networking.istio.io/v1"),
    Case("LTN0101", SVC.replace("Service", "Servce"), (2, 1), SVC.replace("Service", "Endpoints"), "unknown kind Servce", "Service"),
    Case("LTN0102", VS.replace("io/v1", "io/v1beta2"), (1, 1), OK.replace("io/v1", "io/v1beta1"), "has no version v1beta2", "io/v1beta1"),
    Case("LTN0103", "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a}\n", (2, 1), OK, "not used by the mesh"),
    Case("LTN0103", "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\n", (2, 1), OK, "not used by Lateen yet"),
    Case("LTN0104", VS + "  gatways: [a]\n", (5, 3), VS + "  gateways: [a]\n", 'unknown field "gatways"', 'did you mean "gateways"?'),
    Case("LTN0104", VS + "  http:\n  - timeot: 1s\n", (6, 5), SVC + "  sessionAffinity: None\n", 'unknown field "timeot"', "timeout"),
    Case("LTN0105", DR + "  subsets: []\n", (4, 1), DR + "  host: a\n", "host is required", "add host"),
    Case("LTN0105", "kind: VirtualService\nmetadata: {name: a}\n", (1, 1), OK, "apiVersion is required", "networking.istio.io/v1"),
    Case("LTN0105", VS.replace("name: a", ""), (3, 1), OK, "name is required"),
    Case("LTN0105", SVC + "  ports:\n  - {port: 1}\n  - {port: 2, name: b}\n", (6, 5), SVC + "  ports: [{port: 1}]\n", "several ports"),
    Case("LTN0106", VS + "  hosts: a\n", (5, 3), VS + "  hosts: [a]\n", "hosts must be a list, got a string", '["a"]'),
    Case("LTN0106", VS + "  hosts: [on]\n", (5, 11), VS + '  hosts: ["on"]\n', "got a boolean (true)", "YAML reads a bare on as true"),
    Case("LTN0106", VS + "  hosts: [0755]\n", (5, 11), VS + '  hosts: ["0755"]\n', "got a number (493)", "octal"),
    Case("LTN0106", VS + "  hosts:\n", (5, 3), VS + "  hosts: []\n", "nothing (null)", "remove the line"),
    Case("LTN0106", VS + "  http: [{timeout: 5}]\n", (5, 11), VS + "  http: [{timeout: 5s}]\n", "must be a duration", "add a unit: 5s"),
    Case("LTN0106", VS + "  http: [{name: }]\n", (5, 11), VS + '  http: [{name: ""}]\n', "name has no value (null)", "remove"),
    Case("LTN0106", SVC.replace("name: a", "name: 5"), (3, 12), SVC.replace("name: a", 'name: "5"'), "name must be a string", '"5"'),
    Case(
        "LTN0107",
        DR + "  host: a\n  trafficPolicy: {tls: {mode: ISTIO_MUTAL}}\n",
        (6, 25),
        DR + "  host: a\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}\n",
        '"ISTIO_MUTAL" is not allowed, must be one of DISABLE',
        "did you mean ISTIO_MUTUAL?",
        path="spec.trafficPolicy.tls.mode",
    ),
    Case(
        "LTN0108",
        VS + "  http: [{match: [{uri: {exact: /, prefix: /a}}]}]\n",
        (5, 36),
        VS + "  http: [{match: [{uri: {prefix: /a}}]}]\n",
        "only one of exact and prefix can be set",
        path="spec.http[0].match[0].uri.prefix",
    ),
    Case(
        "LTN0108",
        RL + "  limits: [{name: a, requests: 1, per: second, descriptors: [{}]}]\n",
        (5, 62),
        RL + "  limits: [{name: a, requests: 1, per: second, descriptors: [{path: {}}]}]\n",
        "must be set",
    ),
    Case(
        "LTN0109",
        GW + "  servers: [{port: {name: a, protocol: TCP, number: -1}, hosts: []}]\n",
        (5, 45),
        GW + "  servers: [{port: {name: a, protocol: TCP, number: 0}, hosts: []}]\n",
        "must be at least 0, got -1",
    ),
    Case("LTN0109", RL + "  limits: []\n", (5, 3), RL + "  limits: [{name: a, unlimited: true}]\n", "must not be empty"),
    Case("LTN0109", VS + "  http: [{timeout: 0s}]\n", (5, 11), VS + "  http: [{timeout: 1ms}]\n", "must be at least 1ms, got 0s"),
    Case(
        "LTN0110",
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: a}\nspec: {tracing: []}\n",
        (4, 1),
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: a}\n",
        "no effect yet",
    ),
    Case("LTN0111", OK + "---\n" + OK, (8, 12), OK + "---\n" + OK.replace("name: a", "name: a, namespace: b"), "declared twice", "x.yaml:3"),
    Case(
        "LTN0112",
        RL + "  limits: [{name: a, unlimited: true}, {name: a, unlimited: true}]\n",
        (5, 41),
        RL + "  limits: [{name: a, unlimited: true}, {name: b, unlimited: true}]\n",
        'duplicate name "a"',
    ),
    Case("IST0106", VS.replace("name: a", "name: A_b"), (3, 12), OK.replace("name: a", "name: a-b.c"), "not well-formed", "lower-case"),
    Case("IST0106", VS + "  http: [{timeout: 5x}]\n", (5, 11), VS + "  http: [{timeout: 5m}]\n", '"5x" is not a duration', "10s"),
]  # fmt: skip
BY_OTHER_TESTS = {"LTN0003": "large files below", "LTN0004": "missing files below"}
OTHER_OWNERS = {
    "IST0101": "lateen.mesh.analysis",
    "LTN0113": "lateen.controlplane.api",
}


def _owned_elsewhere(code: str) -> bool:
    return (
        code in OTHER_OWNERS
        or (code.startswith("IST") and code != "IST0106")
        or code.startswith(("LTN02", "LTN03", "LTN04", "LTN09"))
    )


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.code}-{c.message[:24]}")
def test_triggers(case: Case) -> None:
    loaded = load_text(case.bad, "x.yaml")
    found = [d for d in loaded.diagnostics if d.code == case.code]
    assert found, loaded.diagnostics
    first = found[0]
    assert (first.line, first.column) == case.place, first
    assert case.message in first.message
    assert case.hint in first.hint
    assert first.path == case.path or not case.path
    assert first.file == "x.yaml"
    assert first.source_line == case.bad.split("\n")[first.line - 1]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.code}-{c.message[:24]}")
def test_near_miss(case: Case) -> None:
    loaded = load_text(case.good, "x.yaml")
    assert not [d for d in loaded.diagnostics if d.code == case.code], loaded.diagnostics
    assert not loaded.invalid


def test_large_files() -> None:
    big = "a: b\n" * (yaml_source.MAX_BYTES // 5 + 1)
    assert [d.code for d in load_text(big, "x").diagnostics] == ["LTN0003"]
    assert load_text("# c\n" * 1000, "x").diagnostics == ()


def test_missing_files() -> None:
    found = load_paths(["/nowhere/at/all.yaml"]).diagnostics
    assert [(d.code, d.file, d.invalid) for d in found] == [("LTN0004", "/nowhere/at/all.yaml", True)]


def test_every_code_has_a_case_and_a_near_miss() -> None:
    tested = {case.code for case in CASES} | set(BY_OTHER_TESTS)
    assert {code for code in CODES if not _owned_elsewhere(code)} == tested


def test_codes_are_well_formed() -> None:
    for code, meaning in CODES.items():
        assert code[:3] in {"IST", "LTN"}
        assert code[3:].isdigit()
        assert len(code) == 7
        assert meaning[0].islower()
        assert not meaning.endswith(".")
