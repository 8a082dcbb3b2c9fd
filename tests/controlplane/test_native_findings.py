"""What `analyze` says where a policy cannot be enforced as it is written, and that such a workload denies everything."""

from __future__ import annotations

import re

import pytest

from lateen.controlplane.authorization import checks_of
from lateen.controlplane.native_findings import native_findings
from lateen.controlplane.native_rbac import REFUSED
from lateen.envoyapi.envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from lateen.mesh.authorizationpolicy import AuthorizationPolicy
from lateen.mesh.loader import load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView
from lateen.policy.compile import AttachedPolicy, PolicyOrigin, compile_policies
from lateen.policy.errors import PolicyError

_MESH = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: a, namespace: default}
spec:
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a, lateen.dev/enforcement: ENGINE}}
    spec: {containers: [{name: a, image: a}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: default}
spec: SPEC
"""
_HOST = '{rules: [{to: [{operation: {hosts: ["straße.test"]}}]}]}'
_PATH = '{action: DENY, rules: [{to: [{operation: {paths: ["/' + "x" * 9000 + '/{*}"]}}]}]}'


def _view(engine: str, spec: str) -> MeshView:
    loaded = load_text(_MESH.replace("ENGINE", engine).replace("SPEC", spec), "a.yaml")
    return MeshView.build(loaded.resources, loaded.mesh or MeshConfig())


@pytest.mark.parametrize(
    ("engine", "spec", "code", "line"),
    [
        ("native", _HOST, "LTN0302", 14),
        ("native", _PATH, "LTN0302", 14),
        ("natve", "{}", "LTN0304", 8),
        ("native", "{action: CUSTOM, rules: [{}]}", "LTN0303", 14),
    ],
)
def test_findings(engine: str, spec: str, code: str, line: int) -> None:
    found = native_findings(_view(engine, spec))
    assert [(d.code, d.file, d.line) for d in found] == [(code, "a.yaml", line)]


@pytest.mark.parametrize(("provider", "codes"), [("metrics", ["LTN0303"]), ("lost", ["LTN0303"]), ("nobody", [])])
def test_authorizers_that_cannot_be_asked(provider: str, codes: list[str]) -> None:
    """One that does not exist at all is found as any reference is: IST0101."""
    text = _MESH.replace("ENGINE", "native").replace("SPEC", f"{{action: CUSTOM, provider: {{name: {provider}}}}}")
    lost = {"name": "lost", "envoyExtAuthzGrpc": {"service": "a.b", "port": 9}}
    mesh = MeshConfig.model_validate({"extensionProviders": [{"name": "metrics", "prometheus": {}}, lost]})
    assert [d.code for d in native_findings(MeshView.build(load_text(text, "a.yaml").resources, mesh))] == codes


_BROKEN = [
    ("{when: [{key: request.path, values: [/a]}]}", "when[0].key"),
    ("{when: [{key: request.foo, values: [a]}]}", "when[0].key"),
    ('{when: [{key: "request.headers[]", values: [a]}]}', "when[0].key"),
    ('{when: [{key: "request.headers[a", values: [a]}]}', "when[0].key"),
    ("{when: [{key: request.auth.claims, values: [a]}]}", "when[0].key"),
    ("{when: [{key: source.ip, values: [10.0.0.0/8, 10.0.0.0/33]}]}", "when[0].values[1]"),
    ("{when: [{key: source.ip}]}", "when[0]"),
    ('{when: [{key: source.ip, notValues: [""]}]}', "when[0].notValues[0]"),
    ('{to: [{operation: {paths: ["/a/{*}.txt"]}}]}', "to[0].operation.paths[0]"),
    ('{to: [{operation: {paths: ["/{**}/{*}"]}}]}', "to[0].operation.paths[0]"),
    ('{to: [{operation: {paths: ["/a//{*}"]}}]}', "to[0].operation.paths[0]"),
    ('{to: [{operation: {paths: ["/a/{*}/b*"]}}]}', "to[0].operation.paths[0]"),
    ('{to: [{operation: {notPaths: ["/{id}"]}}]}', "to[0].operation.notPaths[0]"),
    ('{to: [{operation: {ports: ["80"]}}, {operation: {ports: ["65536"]}}]}', "to[1].operation.ports[0]"),
    ("{to: [{operation: {}}]}", "to[0].operation"),
    ("{to: [{}]}", "to[0]"),
    ("{from: [{source: {}}]}", "from[0].source"),
    ('{from: [{source: {ipBlocks: ["300.1.1.1"]}}]}', "from[0].source.ipBlocks[0]"),
    ('{from: [{source: {notRemoteIpBlocks: ["300.1.1.1"]}}]}', "from[0].source.notRemoteIpBlocks[0]"),
    ('{from: [{source: {serviceAccounts: ["a/b/c"]}}]}', "from[0].source.serviceAccounts[0]"),
    ('{from: [{source: {serviceAccounts: ["a/*"]}}]}', "from[0].source.serviceAccounts[0]"),
    ('{from: [{source: {principals: [""]}}]}', "from[0].source.principals[0]"),
]


@pytest.mark.parametrize("engine", ["extAuthz", "native"])
@pytest.mark.parametrize(("rule", "place"), _BROKEN)
def test_a_rule_that_means_nothing_is_found_and_denies_everything(rule: str, place: str, engine: str) -> None:
    view = _view(engine, "{action: DENY, rules: [{}, " + rule + "]}")
    assert [(d.code, d.file, d.line, d.path) for d in native_findings(view)] == [
        ("LTN0305", "a.yaml", 14, f"spec.rules[1].{place}")
    ]
    (policy,) = view.get("AuthorizationPolicy")
    assert isinstance(policy, AuthorizationPolicy)
    with pytest.raises(PolicyError, match=re.escape("rules[1]")):
        compile_policies([AttachedPolicy(PolicyOrigin("default", "p"), policy.spec)])


def test_every_problem_is_told_at_its_field() -> None:
    spec = """
  action: DENY
  rules:
  - from:
    - source:
        ipBlocks: [10.0.0.0/8, 300.1.1.1]
        namespaces: [a, ""]
    to:
    - operation:
        ports: ["http"]
        paths:
        - /fine
        - /{id}
    when:
    - key: request.foo
      values: [a]
  - to: [{}]
"""
    found = native_findings(_view("extAuthz", spec))
    assert {d.code for d in found} == {"LTN0305"}
    assert [(d.line, d.path.removeprefix("spec."), d.message) for d in found] == [
        (20, "rules[0].from[0].source.namespaces[1]", "an empty value"),
        (19, "rules[0].from[0].source.ipBlocks[1]", '"300.1.1.1" is neither an IP address nor a CIDR range'),
        (26, "rules[0].to[0].operation.paths[1]", '"/{id}" has braces that are no {*} or {**} between slashes'),
        (23, "rules[0].to[0].operation.ports[0]", '"http" is not a port'),
        (28, "rules[0].when[0].key", 'unknown attribute "request.foo"'),
        (30, "rules[1].to[0]", "operation must be set"),
    ]
    first = found[1]
    assert first.source_line[first.column - 1 :].startswith("300.1.1.1")


@pytest.mark.parametrize("engine", ["extAuthz", "native"])
@pytest.mark.parametrize(("action", "dry_run"), [("AUDIT", "false"), ("DENY", "true")])
def test_what_only_reports_denies_nothing_when_it_is_broken(engine: str, action: str, dry_run: str) -> None:
    text = _MESH.replace("ENGINE", engine).replace("SPEC", f"{{action: {action}, rules: [{_BROKEN[0][0]}]}}")
    text = text.replace("name: p,", f"name: p, annotations: {{istio.io/dry-run: '{dry_run}'}},")
    view = MeshView.build(load_text(text, "a.yaml").resources, MeshConfig())
    (found,) = native_findings(view)
    assert (found.code, found.hint) == ("LTN0305", "correct it: it reports nothing as long as it stands like this")
    (policy,) = view.get("AuthorizationPolicy")
    assert isinstance(policy, AuthorizationPolicy)
    attached = AttachedPolicy(PolicyOrigin("default", "p"), policy.spec, dry_run=dry_run == "true")
    compiled = compile_policies([attached])
    assert not compiled.deny.rules
    assert not compiled.audit.rules
    assert not compiled.dry_run_deny.rules


@pytest.mark.parametrize(
    ("rule", "field"),
    [('{jwks: "{}"}', ".jwks"), ("{}", ""), ('{jwks: "{\\"keys\\": [{\\"kty\\": \\"oct\\"}]}"}', ".jwks")],
)
def test_token_rules_without_usable_keys_are_found(rule: str, field: str) -> None:
    text = (
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: p}\n"
        "spec:\n  jwtRules:\n  - RULE\n  - {issuer: fine}\n  - RULE\n"
    )
    loaded = load_text(text.replace("RULE", rule), "a.yaml")
    found = native_findings(MeshView.build(loaded.resources, MeshConfig()))
    assert [(d.code, d.line, d.path) for d in found] == [
        ("LTN0305", 6, f"spec.jwtRules[0]{field}"),
        ("LTN0305", 8, f"spec.jwtRules[2]{field}"),
    ]


@pytest.mark.parametrize(
    ("engine", "spec"), [("extAuthz", _HOST), ("native", '{rules: [{to: [{operation: {hosts: ["a.test"]}}]}]}')]
)
def test_nothing_to_say(engine: str, spec: str) -> None:
    assert native_findings(_view(engine, spec)) == ()


@pytest.mark.parametrize("spec", [_HOST, _PATH])
def test_what_cannot_be_expressed_denies_everything(spec: str) -> None:
    workload_yaml = (
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
        "metadata: {name: a, namespace: default, labels: {app: a}}\nspec: {address: 127.0.0.9}\n"
    )
    loaded = load_text(_MESH.replace("ENGINE", "native").replace("SPEC", spec) + workload_yaml, "a.yaml")
    view = MeshView.build(loaded.resources, MeshConfig.model_validate({"enforcement": "native"}))
    workload = view.workload("default", "a")
    assert workload is not None
    checks = checks_of(view, workload)
    assert not checks.ask_service
    (only,) = checks.http
    assert list(rbac_pb2.RBAC.FromString(only.typed_config.value).rules.policies) == [REFUSED]
    assert len(checks.tcp) == 1
