"""Manifests in, workloads out."""

from pathlib import Path

import pytest

from lateen.local.plan import Plan, WorkloadKind, bind_port, expand_env, make_plan
from lateen.local.source import parse_local, read_directory
from lateen.mesh.loader import load_text

EXAMPLE = Path(__file__).parents[2] / "envoy-configs" / "payments"
LOCAL = """
apiVersion: lateen.dev/v1alpha1
kind: Local
spec:
  images:
    demo: {command: [python3, app.py], workdir: apps, env: {MODE: test}}
    special:2: {command: [special]}
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: IMAGE
          args: [--fast]
          ports: [{name: http-web, containerPort: 9000}]
          env: [{name: BASE, value: http://x}, {name: URL, value: $(BASE)/y}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http-web}]
"""


def _plan(text: str) -> Plan:
    local, findings = parse_local(LOCAL, "lateen.yaml")
    assert findings == ()
    loaded = load_text(text, "web.yaml")
    assert not loaded.invalid, loaded.diagnostics
    return make_plan(loaded.resources, local, "istio-system")


def test_a_deployment_becomes_a_workload() -> None:
    (workload,) = _plan(DEPLOYMENT.replace("IMAGE", "demo:1.2")).workloads
    assert (workload.name, workload.namespace, workload.replicas) == ("web", "shop", 2)
    assert workload.kind is WorkloadKind.SIDECAR
    assert workload.labels == {"app": "web", "service.istio.io/workload-name": "web"}
    assert workload.service_account == "default"
    (container,) = workload.containers
    assert container.command == ("python3", "app.py", "--fast")
    assert container.workdir == "apps"
    assert container.port == 9000
    assert expand_env(container) == {"MODE": "test", "BASE": "http://x", "URL": "http://x/y"}


def test_named_target_ports_are_resolved_for_the_workload_entry() -> None:
    (workload,) = _plan(DEPLOYMENT.replace("IMAGE", "demo")).workloads
    assert workload.service_ports == {"http": 9000}


@pytest.mark.parametrize(
    ("image", "known"),
    [
        pytest.param("demo", True, id="bare"),
        pytest.param("demo:latest", True, id="any tag of a bare name"),
        pytest.param("demo@sha256:00", True, id="digest"),
        pytest.param("special:2", True, id="exact tag"),
        pytest.param("special:3", False, id="another tag"),
        pytest.param("registry:5000/demo", False, id="another registry"),
    ],
)
def test_images_are_found_by_name(image: str, known: bool) -> None:
    plan = _plan(DEPLOYMENT.replace("IMAGE", image))
    assert bool(plan.workloads) is known
    assert [d.code for d in plan.diagnostics] == ([] if known else ["LTN0901"])


def test_an_image_without_command_says_where_and_what_to_add() -> None:
    (problem,) = _plan(DEPLOYMENT.replace("IMAGE", "other:1")).diagnostics
    assert problem.file == "web.yaml"
    assert "image: other:1" in problem.source_line
    assert "image: IMAGE" in DEPLOYMENT.splitlines()[problem.line - 1]
    assert "lateen.yaml" in problem.hint
    local, findings = parse_local(
        "apiVersion: lateen.dev/v1alpha1\nkind: Local\nspec:\n  images:\n    " + problem.hint.partition(":  ")[2], "l"
    )
    assert findings == ()
    assert local.image("other:1") is not None


GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: istio
  listeners: [{name: web, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: plain, namespace: shop}
spec:
  selector: {gateway.networking.k8s.io/gateway-name: edge}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
"""


def test_a_gateway_brings_its_proxy_and_its_service() -> None:
    plan = _plan(GATEWAY)
    (workload,) = plan.workloads
    assert workload.kind is WorkloadKind.ROUTER
    assert (workload.name, workload.service_account) == ("edge-istio", "edge-istio")
    assert workload.labels["gateway.networking.k8s.io/gateway-name"] == "edge"
    assert workload.gateway_protocols == ((8080, False), (8443, True))
    (service,) = plan.gateway_services
    assert [(p.port, p.target_port) for p in service.ports] == [(80, 8080), (443, 8443)]
    assert dict(service.labels).items() <= dict(workload.labels).items()


@pytest.mark.parametrize("gateway_class", ["istio-waypoint", "istio-remote"])
def test_gateways_that_are_not_ingress_proxies_are_not_run(gateway_class: str) -> None:
    assert _plan(GATEWAY.replace("gatewayClassName: istio", f"gatewayClassName: {gateway_class}")).workloads == ()


def test_the_ingress_gateway_of_istios_samples_is_brought_when_it_is_selected() -> None:
    text = GATEWAY.partition("---")[2].replace("gateway.networking.k8s.io/gateway-name: edge", "istio: ingressgateway")
    (workload,) = _plan(text).workloads
    assert (workload.name, workload.namespace) == ("istio-ingressgateway", "istio-system")
    assert workload.listen_ports == (8080,)


def test_a_container_image_auto_is_a_gateway_of_its_own() -> None:
    plan = _plan(DEPLOYMENT.replace("IMAGE", "auto"))
    assert [w.kind for w in plan.workloads] == [WorkloadKind.ROUTER]


def test_two_workloads_of_one_name_have_different_logs() -> None:
    two = DEPLOYMENT.replace("IMAGE", "demo")
    plan = _plan(two + "---" + two.replace("shop", "annex"))
    assert sorted(w.log_name for w in plan.workloads) == ["web", "web.shop"]


@pytest.mark.parametrize(("declared", "bound"), [(80, 8080), (443, 8443), (1023, 9023), (1024, 1024), (8443, 8443)])
def test_privileged_ports_are_bound_higher(declared: int, bound: int) -> None:
    assert bind_port(declared) == bound


def test_the_example_is_valid_and_complete() -> None:
    source = read_directory(EXAMPLE)
    assert source.diagnostics == ()
    plan = source.plan()
    assert plan.diagnostics == ()
    assert {(w.namespace, w.name, w.replicas, w.service_account) for w in plan.workloads} == {
        ("orders", "orders", 1, "orders-svc"),
        ("payments", "payments-api-v1", 2, "payments-api"),
        ("payments", "payments-api-v2", 2, "payments-api"),
        ("legacy-system", "ledger", 1, "default"),
        ("payments", "payments-gateway-istio", 1, "payments-gateway-istio"),
    }
    assert len(source.local.try_it) == 5


def test_no_key_is_committed() -> None:
    assert not [p for p in EXAMPLE.rglob("*") if p.is_file() and "PRIVATE KEY" in p.read_text()]
