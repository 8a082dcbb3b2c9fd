"""What ext_authz is told about a workload: every rule can be found again in its file."""

from extauthz.decide import Verdict, decide
from extauthz.policies import compile_workload
from lateen.controlplane.bound_policies import workload_policies
from lateen.mesh.loader import load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView
from lateen.policy.explain import trace_policies
from lateen.policy.request import CheckInput

_MESH = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: a, namespace: default}
spec: {address: 127.0.0.9, serviceAccount: a}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: default}
spec:
  action: DENY
  rules:
  - to: [{operation: {methods: [PUT]}}]

  # and
  - to: [{operation: {methods: [POST]}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: t, namespace: default}
spec:
  jwtRules:
  - {issuer: https://a}
  - {issuer: https://b}
"""


def test_rules_keep_their_lines() -> None:
    view = MeshView.build(load_text(_MESH, "mesh.yaml").resources, MeshConfig())
    (blob,) = workload_policies(view)
    rules = compile_workload(blob.name, blob.data, {}).rules
    assert rules is not None
    request = CheckInput(http=True, method="POST", path="/")
    assert [trace.position for trace in trace_policies(rules.policies, request)] == ["mesh.yaml:12", "mesh.yaml:15"]
    decision = decide(rules.policies, request)
    assert decision.verdict is Verdict.DENY
    assert decision.rule is not None
    assert decision.rule.origin.position_of(decision.rule.index) == "mesh.yaml:15"
    assert [rule.origin.position_of(rule.index) for rule in rules.tokens.rules] == ["mesh.yaml:22", "mesh.yaml:23"]
