"""`lateen explain authz` over files: verdict, deciding rule with its line, and the first condition that failed."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lateen.cli.asking import Answer, ask, compile_for
from lateen.cli.exits import CommandError, Exit
from lateen.cli.explain import question_of, render_answer, render_denial
from lateen.cli.main import app
from lateen.cli.meshview import find_workload, located_items, view_of_files
from lateen.jwks.keys import KeySet, parse_jwks
from lateen.mesh.analyzers.expected import with_expected_workloads
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.loader import load_mesh_config, load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView
from lateen.policy.tokens import KeySource
from tests.extauthz.tokens import ISSUER, JWKS, OTHER_KEY, token

EXAMPLE = Path(__file__).parents[2] / "envoy-configs" / "payments"
ORDERS = "spiffe://cluster.local/ns/orders/sa/orders-svc"
AUTHZ = str(EXAMPLE / "authz-payments-strict.yaml")


def line_of(text: str, after: str = "") -> int:
    lines = Path(AUTHZ).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if after in line)
    return next(i for i, line in enumerate(lines[start:], start + 1) if text in line)


@pytest.fixture(scope="module")
def view() -> MeshView:
    return view_of_files([EXAMPLE])


def no_keys(_: KeySource) -> KeySet | None:
    return None


def answer(
    view: MeshView,
    method: str | None,
    path: str | None,
    target: str = "payments/payments-api",
    **more: Any,  # noqa: ANN401 - options of question_of
) -> Answer:
    keys = more.pop("keys", no_keys)
    question = question_of(view, method, path, target=target, **{"source": "orders", **more})
    return ask(view, compile_for(view, find_workload(view, target)), question, keys, time.time())


def test_the_deciding_rule_is_named_with_its_line(view: MeshView) -> None:
    found = answer(view, "POST", "/v1/charge?x=1", headers=["x-tenant=acme"])
    assert found.allowed
    assert found.policy == "AuthorizationPolicy payments/allow-orders-to-charge"
    assert found.rule == 0
    assert found.position == f"{AUTHZ}:{line_of('rules:', 'allow-orders-to-charge') + 1}"
    text = render_answer(found)
    assert text.startswith("ALLOWED  POST /v1/charge to payments/payments-api-v1:8080 from " + ORDERS)
    assert "deny-all" in text
    assert "has no rules: it allows nothing" in text


def test_a_near_miss_shows_the_first_condition_that_failed_and_what_there_was(view: MeshView) -> None:
    found = answer(view, "POST", "/v1/charge", headers=["x-tenant=evil"])
    assert not found.allowed
    assert found.policy == "none"
    assert (
        'when[0].values: request.headers[x-tenant] must be acme | globex, it is "evil"\n' in render_answer(found) + "\n"
    )
    absent = render_answer(answer(view, "POST", "/v1/charge"))
    assert "request.headers[x-tenant] must be acme | globex, it is absent" in absent
    other = answer(view, "POST", "/v1/charge", source="spiffe://cluster.local/ns/x/sa/y", headers=["x-tenant=acme"])
    assert 'it is "cluster.local/ns/x/sa/y"' in render_answer(other)


def test_plaintext_to_strict_mutual_tls_never_reaches_a_policy(view: MeshView) -> None:
    found = answer(view, "POST", "/v1/charge", plaintext=True)
    assert not found.allowed
    assert found.policy == "PeerAuthentication/istio-system/default"
    assert "mutual TLS is STRICT" in found.reason
    assert found.position.startswith(str(EXAMPLE / "peer-authentication.yaml"))
    assert found.rules == ()


INLINE = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: app, namespace: n}}
spec: {{selector: {{matchLabels: {{app: a}}}}, template: {{metadata: {{labels: {{app: a}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: jwt, namespace: n}}
spec: {{jwtRules: [{{issuer: '{ISSUER}', jwks: '{JWKS}'}}, {{issuer: remote, jwksUri: 'https://remote/jwks'}}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: alice, namespace: n}}
spec: {{rules: [{{from: [{{source: {{requestPrincipals: ['*/alice']}}}}]}}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: seen, namespace: n}}
spec: {{action: AUDIT, rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: tried, namespace: n, annotations: {{istio.io/dry-run: "true"}}}}
spec: {{action: DENY, rules: [{{}}]}}
"""


@pytest.fixture
def inline() -> MeshView:
    loaded = load_text(INLINE, "mesh.yaml")
    assert not loaded.invalid
    return with_expected_workloads(MeshView.build(loaded.resources, MeshConfig()))


def test_tokens_are_verified_with_the_keys_at_hand_and_it_is_said_when_not(inline: MeshView) -> None:
    good = answer(inline, "GET", "/", "app", source=None, plaintext=True, token=token())
    assert good.allowed
    assert good.notes == ()
    assert good.audit == "n/seen rule 0"
    assert good.dry_run == "deny by n/tried rule 0"
    assert "AUDIT matched: n/seen rule 0" in render_answer(good)
    assert "dry-run policies would: deny" in render_answer(good)

    forged = answer(inline, "GET", "/", "app", source=None, plaintext=True, token=token(OTHER_KEY))
    assert (forged.verdict, forged.reason) == ("unauthenticated", "Jwt verification fails")
    assert "DENIED (401)" in render_answer(forged)

    remote = token(OTHER_KEY, iss="remote")
    unverified = answer(inline, "GET", "/", "app", source=None, plaintext=True, token=remote)
    assert unverified.allowed
    assert "was NOT verified" in unverified.notes[0]
    assert "if the token's signature is good" in render_answer(unverified).splitlines()[0]
    known = parse_jwks(JWKS)
    refused = answer(inline, "GET", "/", "app", source=None, plaintext=True, token=remote, keys=lambda _: known)
    assert refused.verdict == "unauthenticated"


def test_paths_are_normalized_as_the_proxy_does(view: MeshView) -> None:
    found = answer(view, "POST", "/v1/x/..%2e/../v1/./%63harge", headers=["x-tenant=acme"])
    assert found.request["path"] == "/v1/x/v1/charge"
    found = answer(view, "POST", "/a/%2e%2e/v1/%63harge?next=/../x", headers=["x-tenant=acme"])
    assert found.request["path"] == "/v1/charge"
    assert found.allowed


@pytest.mark.parametrize("path", ["v1/charge", "/v1/charg\u00e9", "/v1/charge#x", "/v1/%00"])
def test_what_the_proxy_cannot_read_meets_no_policy(view: MeshView, path: str) -> None:
    found = answer(view, "POST", path, headers=["x-tenant=acme"])
    assert not found.allowed
    assert "answers 400" in found.reason


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (
            ["--from", "orders", "--to", "payments/payments-api", "POST", "/v1/charge", "-H", "x-tenant=acme"],
            0,
            "ALLOWED",
        ),
        (["--from", "orders", "--to", "payments/payments-api", "GET", "/v1/charge"], 1, "DENIED"),
        (["--to", "payments/payments-api", "GET", "/"], 2, "who asks?"),
        (["--from", "orders", "--to", "nobody", "GET", "/"], 2, "no workload named nobody"),
        (["--from", "orders", "--to", "payments/payments-api", "GET"], 2, "METHOD and PATH go together"),
        (["--from", "orders", "--to", "payments/payments-api"], 2, "speaks HTTP"),
        (["--from", "orders", "--to", "payments/payments-api", "GET", "/", "-H", "x"], 2, "not a header"),
    ],
)
def test_exit_codes(arguments: list[str], code: int, text: str) -> None:
    result = CliRunner().invoke(app, ["explain", "authz", "-f", str(EXAMPLE), *arguments])
    if isinstance(result.exception, CommandError):
        assert (result.exception.code, code) == (Exit(code), code)
        assert text in result.exception.message
    else:
        assert result.exit_code == code
        assert text in result.stdout


def test_json_has_every_rule() -> None:
    arguments = ["--from", "orders", "--to", "payments/payments-api", "GET", "/v1/charge", "-o", "json"]
    result = CliRunner().invoke(app, ["explain", "authz", "-f", str(EXAMPLE), *arguments])
    value = json.loads(result.stdout)
    assert value["verdict"] == "deny"
    assert {rule["policy"] for rule in value["rules"]} == {
        "payments/allow-orders-to-charge",
        "payments/allow-jwt-readonly",
    }


def test_resources_of_the_api_get_their_lines_back_only_where_the_file_says_the_same() -> None:
    text = Path(AUTHZ).read_text()
    on_disk = {item.resource.key: item for item in load_text(text, AUTHZ).resources}
    key = ResourceKey("AuthorizationPolicy", "payments", "allow-orders-to-charge")
    same = {"resource": on_disk[key].resource.to_dict(), "source": {"file": AUTHZ, "line": 9}}
    changed = json.loads(json.dumps(same))
    changed["resource"]["spec"]["rules"][0]["to"][0]["operation"]["methods"] = ["GET"]
    (found,) = located_items([same], on_disk)
    assert found.source.position(("spec", "rules", 0)).line == line_of("rules:", "allow-orders-to-charge") + 1
    (found,) = located_items([changed], on_disk)
    assert found.source.position(("spec", "rules", 0)).line == 9


def test_a_denial_of_the_service_is_told_in_the_same_words() -> None:
    failed = {
        "field": "to[0].operation.methods",
        "attribute": "request.method",
        "expected": ["POST"],
        "negated": False,
        "actual": "GET",
    }
    rule = {
        "policy": "n/p",
        "position": "f:3",
        "action": "ALLOW",
        "rule": 0,
        "matched": False,
        "skipped": "",
        "failed": [failed],
    }
    found = {
        "id": "ab", "at": "2026-01-01", "target": "n/app", "status": 403, "reason": "no ALLOW rule matched", "policy": "none", "rule": None,
        "position": "", "rules": [rule],
        "request": {"protocol": "http", "method": "GET", "path": "/x", "principal": "", "source_ip": "10.0.0.1"},
    }  # fmt: skip
    text = render_denial(found)
    assert text.startswith("DENIED (403)  GET /x to n/app from a peer without identity")
    assert 'request.method must be POST, it is "GET"' in text


def test_a_denial_of_what_could_not_be_read_says_so() -> None:
    unread = {"protocol": "unknown", "method": "", "path": "", "principal": "", "source_ip": ""}
    found = {
        "id": "ab", "at": "2026-01-01", "target": "", "status": 403, "reason": "not a CheckRequest", "policy": "none", "rule": None,
        "position": "", "rules": [], "request": unread,
    }  # fmt: skip
    assert render_denial(found).startswith("DENIED (403)  a request that could not be read to")


BROKEN = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: app, namespace: n, labels: {app: app}}
spec: {address: 127.0.0.9, serviceAccount: app}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: good, namespace: n}
spec: {rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: broken, namespace: n}
spec:
  rules:
  - {}
  - when: [{key: no.such, values: [x]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: n}
spec: {action: CUSTOM, provider: {name: nobody}, rules: [{}]}
"""


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    (folder / "n.yaml").write_text(BROKEN)
    result = CliRunner().invoke(app, [*arguments, "-f", str(folder / "n.yaml")])
    return result.exit_code, result.output


def test_a_policy_that_cannot_be_used_denies_and_is_named_with_its_line(tmp_path: Path) -> None:
    asked = ("explain", "authz", "--to", "app", "--plaintext", "GET", "/")
    code, told = run(tmp_path, *asked)
    assert code == 1
    assert told.startswith("DENIED  GET / to n/app")
    assert (
        f"by AuthorizationPolicy n/broken rules[1] ({tmp_path}/n.yaml:{1 + BROKEN.splitlines().index('  - when: [{key: no.such, values: [x]}]')})"
        in told
    )
    assert 'unknown attribute "no.such"' in told
    code, told = run(tmp_path, *asked, "-o", "json")
    assert (code, json.loads(told)["verdict"], json.loads(told)["rule"]) == (1, "deny", 1)


def test_what_applies_says_what_cannot_be_used(tmp_path: Path) -> None:
    code, told = run(tmp_path, "authz", "check", "app")
    assert code == 0
    assert 'n/broken: everything is denied: rules[1].when[0].key: unknown attribute "no.such"' in told
    assert 'n/ask: what its rules match is denied: the mesh has no extension provider "nobody"' in told
    assert "n/app: everything is denied until what cannot be used is mended" in told
    _, told = run(tmp_path, "authz", "check", "app", "-o", "json")
    value = json.loads(told)
    assert value["enforcement"] == "extAuthz"
    assert [(e["policy"], bool(e["problem"])) for e in value["policies"]] == [
        ("n/ask", True),
        ("n/broken", True),
        ("n/good", False),
    ]


def test_what_a_client_sent_cannot_play_with_the_terminal() -> None:
    rule = {
        "policy": "n/p", "position": "f:3", "action": "ALLOW", "rule": 0, "matched": False, "skipped": "",
        "failed": [{"field": "when[0].values", "attribute": "request.headers[x]", "expected": ["a"], "negated": False, "actual": "\x1b[2J\nALLOWED \x9b1m"}],
    }  # fmt: skip
    found = {
        "id": "ab", "at": "2026-01-01", "target": "n/app", "status": 403, "reason": "no ALLOW rule matched", "policy": "none", "rule": None,
        "position": "", "rules": [rule],
        "request": {"protocol": "http", "method": "GET", "path": "/\x1b]0;x\x07", "principal": "\r", "source_ip": "10.0.0.1"},
    }  # fmt: skip
    text = render_denial(found)
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\\x1b[2J\\nALLOWED \\x9b1m" in text


CUSTOM = """
apiVersion: v1
kind: Service
metadata: {name: opa, namespace: n}
spec: {ports: [{name: grpc, port: 9000}], selector: {app: opa}}
---
apiVersion: v1
kind: Pod
metadata: {name: app, namespace: n, labels: {app: a}}
spec: {containers: [{name: c, image: i}]}
status: {podIP: 10.0.0.1, phase: Running}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: asked, namespace: n}
spec: {action: CUSTOM, provider: {name: PROVIDER}, rules: [{to: [{operation: {paths: [/asked]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-put, namespace: n}
spec: {action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]}
"""


@pytest.mark.parametrize(
    ("provider", "method", "path", "allowed", "text"),
    [
        ("opa", "GET", "/asked", True, "from a peer without identity (plaintext)  if opa allows it\n"),
        (
            "opa",
            "GET",
            "/asked",
            True,
            'first the extension provider "opa" decides, for CUSTOM n/asked rules[0] (mesh.yaml:16)',
        ),
        (
            "opa",
            "PUT",
            "/asked",
            False,
            "what it denies ends here; while it cannot be reached, denied\n  by AuthorizationPolicy n/no-put",
        ),
        ("opa", "PUT", "/asked", False, "by AuthorizationPolicy n/no-put"),
        ("opa", "GET", "/other", True, "ALLOWED"),
        ("nobody", "GET", "/asked", False, 'the mesh has no extension provider "nobody"'),
        ("nobody", "GET", "/other", True, "ALLOWED"),
    ],
)
def test_custom_policies_are_for_their_providers(
    provider: str, method: str, path: str, *, allowed: bool, text: str
) -> None:
    config = {"extensionProviders": [{"name": "opa", "envoyExtAuthzGrpc": {"service": "opa.n.svc.cluster.local", "port": 9000}}]}  # fmt: skip
    mesh, _ = load_mesh_config(json.dumps(config), "mesh.yaml")
    made = MeshView.build(load_text(CUSTOM.replace("PROVIDER", provider), "mesh.yaml").resources, mesh)
    found = answer(made, method, path, "app", source=None, plaintext=True)
    assert found.allowed is allowed
    assert text in render_answer(found)


@pytest.mark.parametrize(
    ("condition", "allowed", "note"),
    [
        ("{key: 'request.headers[host]', values: ['app.*']}", True, ""),
        ("{key: 'request.headers[:authority]', values: ['app.*']}", True, ""),
        ("{key: 'request.headers[:path]', values: ['/b?c=/../d']}", True, ""),
        ("{key: 'request.headers[:method]', values: [GET]}", True, ""),
        ("{key: connection.sni, values: ['outbound_.80_._.app.n.svc.cluster.local']}", True, "connection.sni is taken"),
        ("{key: 'experimental.envoy.filters.x[k]', notValues: [v]}", True, "is not known here"),
    ],
)
def test_what_the_proxy_would_know_is_known(condition: str, note: str, *, allowed: bool) -> None:
    documents = (
        CUSTOM.partition("---\napiVersion: security")[0]
        + f"""---
apiVersion: v1
kind: Service
metadata: {{name: app, namespace: n}}
spec: {{ports: [{{name: http, port: 80}}], selector: {{app: a}}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: n}}
spec: {{rules: [{{when: [{condition}]}}]}}
"""
    )
    made = MeshView.build(load_text(documents, "mesh.yaml").resources, MeshConfig())
    found = answer(made, "GET", "/a/../b?c=/../d", "app", source="cluster.local/ns/n/sa/x")
    assert found.allowed is allowed
    assert note in "".join(found.notes)
    assert bool(found.notes) is bool(note)


@pytest.mark.parametrize(
    ("key", "allowed", "text"),
    [("request.headers[x]", True, "enforced by the proxy itself"), ("source.namespace", False, "cannot express")],
)
def test_native_enforcement_denies_what_it_cannot_express(key: str, *, allowed: bool, text: str) -> None:
    mesh, _ = load_mesh_config(json.dumps({"enforcement": "native"}), "mesh.yaml")
    value = "a" * 9000 + "*b" if not allowed else "y"
    documents = (
        CUSTOM.partition("---\napiVersion: security")[0]
        + f"""---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: n}}
spec: {{action: DENY, rules: [{{when: [{{key: '{key}', values: ['{value}']}}]}}]}}
"""
    )
    made = MeshView.build(load_text(documents, "mesh.yaml").resources, mesh)
    found = answer(made, "GET", "/", "app", source=None, plaintext=True)
    assert found.allowed is allowed
    assert text in render_answer(found)


def test_a_gateway_takes_plaintext_whatever_the_mesh_does() -> None:
    documents = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: edge, namespace: n}
spec: {address: 10.0.0.9, labels: {istio: ingressgateway}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: n}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: n}
spec: {mtls: {mode: STRICT}}
"""
    made = MeshView.build(load_text(documents, "mesh.yaml").resources, MeshConfig())
    assert answer(made, "GET", "/", "edge", source=None).allowed
