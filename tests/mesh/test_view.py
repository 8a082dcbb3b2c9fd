"""The view as a whole: it does not depend on the order of its input, knows where things stand, and is quick."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lateen.mesh.analysis import analyze
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.kubernetes import Service
from lateen.mesh.loader import Located, load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.metadata import Resource
from lateen.mesh.view import MeshView
from lateen.mesh.virtualservice import VirtualService
from lateen.mesh.workload import WorkloadEntry
from tests.mesh.views import doc, load, service, view_of, workload

OLD, YOUNG = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
ROUTE = "http: [{route: [{destination: {host: a}}]}]"
WORLD = load(
    service("n/a"),
    service("n/b", "{app: b}", created=OLD),
    service("m/a"),
    doc(
        "ServiceEntry/n/x1", "spec: {hosts: [x.corp], ports: [{number: 80, name: http, protocol: HTTP}]}", created=YOUNG
    ),
    doc(
        "ServiceEntry/n/x2",
        "spec: {hosts: [x.corp, '*.y.corp'], ports: [{number: 80, name: h2, protocol: HTTP2}]}",
        created=YOUNG,
    ),
    workload("n/w1", "{app: a, service.istio.io/workload-name: w}"),
    workload("n/w2", "{app: a, service.istio.io/workload-name: w, odd: one}", "10.0.0.2"),
    workload("n/w3", "{app: b}", "10.0.0.3"),
    workload("m/w1", "{app: a, gateway.networking.k8s.io/gateway-name: gw}", "10.0.0.4"),
    doc("DestinationRule/n/d1", "spec: {host: a, subsets: [{name: v1, labels: {v: '1'}}]}"),
    doc(
        "DestinationRule/n/d2",
        "spec: {host: a.n.svc.cluster.local, subsets: [{name: v1, labels: {v: '2'}}, {name: v2}]}",
    ),
    doc("DestinationRule/istio-system/d3", "spec: {host: '*.local'}"),
    doc("VirtualService/n/v1", f"spec: {{hosts: [a], {ROUTE}}}", created=YOUNG),
    doc("VirtualService/n/v2", f"spec: {{hosts: [a], {ROUTE}}}", created=OLD),
    doc("VirtualService/m/v3", f"spec: {{hosts: [a.n.svc.cluster.local], gateways: [mesh, n/g], {ROUTE}}}"),
    doc("Sidecar/n/s1", "spec: {egress: [{hosts: ['./*']}]}"),
    doc("Sidecar/n/s2", "spec: {workloadSelector: {labels: {app: b}}, egress: [{hosts: ['*/*']}]}"),
    doc("PeerAuthentication/n/p1", "spec: {mtls: {mode: STRICT}}", created=OLD),
    doc("PeerAuthentication/n/p2", "spec: {mtls: {mode: DISABLE}}", created=OLD),
    doc("AuthorizationPolicy/n/ap1", "spec: {selector: {matchLabels: {app: a}}}"),
    doc("AuthorizationPolicy/istio-system/ap2", "spec: {}"),
    doc("AuthorizationPolicy/n/ap3", "spec: {selector: {matchLabels: {app: nobody}}}"),
    doc(
        "IstioGateway/n/g",
        "spec: {selector: {app: a}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}",
    ),
    doc(
        "Gateway/m/gw",
        "spec: {gatewayClassName: istio, listeners: [{name: h, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]}",
    ),
    doc("HTTPRoute/m/r1", "spec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: a, port: 80}]}]}"),
    doc(
        "HTTPRoute/n/r2",
        "spec: {parentRefs: [{name: gw, namespace: m}], rules: [{backendRefs: [{name: gone, port: 80}]}]}",
    ),
).resources


def _answers(resources: Sequence[Located]) -> list[object]:
    """What a view says about everything in it, in its own order."""
    view = MeshView.build(resources, MeshConfig())
    clients = [(namespace, {"app": app}) for namespace in ("n", "m", "x", "istio-system") for app in ("a", "b")]
    gateway = ResourceKey("Gateway", "m", "gw")
    return [
        list(view.services.items()),
        view.workloads,
        [[view.endpoints(s, p) for p in s.ports] for s in view.services.values()],
        [view.services_of(w) for w in view.workloads],
        [view.visible_services(*client) for client in clients],
        [view.virtual_services(*client) for client in clients],
        view.virtual_services("n", {}, "n/g"),
        [view.merged_destination_rule(*client, host) for client in clients for host in view.services],
        [view.mtls_mode(*client, 8080) for client in clients],
        [view.authorization_policies(w) for w in view.workloads],
        [view.istio_gateways(w) for w in view.workloads],
        [view.k8s_gateway_of(w) for w in view.workloads],
        view.gateway_status(gateway),
        [view.get(kind) for kind in ("Service", "VirtualService", "Sidecar")],
        analyze(view),
    ]


EXPECTED = _answers(WORLD)


@settings(max_examples=40, deadline=None)
@given(st.permutations(WORLD))
def test_the_order_of_the_input_does_not_show(resources: Sequence[Located]) -> None:
    assert _answers(resources) == EXPECTED


def test_the_answers_are_not_empty() -> None:
    assert all(EXPECTED), "the property above would hold for a view that knows nothing"


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(3)))
def test_of_resources_with_one_key_the_last_in_its_file_counts(order: Sequence[int]) -> None:
    documents = [service("n/a", f"{{app: v{number}}}") for number in range(3)]
    resources: list[Located] = []
    for number, document in enumerate(documents):
        resources += load_text("\n" * number + document, "same.yaml").resources
    view = MeshView.build([resources[index] for index in order], MeshConfig())
    assert view.services["a.n.svc.cluster.local"].selector == {"app": "v2"}


def test_it_knows_where_a_resource_stands() -> None:
    view = view_of(service("n/a"), service("n/b"))
    source = view.source(ResourceKey("Service", "n", "b"))
    assert source is not None
    assert source.position(("metadata", "name")).line == 11
    assert view.source(ResourceKey("Service", "n", "missing")) is None
    assert view.resource(ResourceKey("Service", "n", "missing")) is None


def test_plain_resources_need_no_source() -> None:
    view = MeshView.build([load(service("n/a")).resources[0].resource], MeshConfig())
    assert list(view.services) == ["a.n.svc.cluster.local"]
    assert view.source(ResourceKey("Service", "n", "a")) is None


def test_secrets_and_identities() -> None:
    view = view_of(doc("Secret/n/s", "type: Opaque"), mesh="trustDomain: corp.example")
    assert view.secret("n", "s") is not None
    assert view.secret("m", "s") is None
    assert view.identity_of("n", "sa") == "spiffe://corp.example/ns/n/sa/sa"


def test_services_cannot_be_changed() -> None:
    view = view_of(service("n/a"))
    with pytest.raises(TypeError):
        view.services["x"] = view.services["a.n.svc.cluster.local"]  # type: ignore[index]  # that is the point


@pytest.mark.timeout(60)
def test_ten_thousand_workloads() -> None:
    """About a second on one core; anything quadratic would take minutes."""
    resources: list[Resource] = []
    for number in range(1000):
        name, namespace = f"s{number}", f"ns{number % 20}"
        selector = {"app": name, "env": "prod"}
        ports = [{"port": 80, "name": "http", "targetPort": 8080}]
        metadata = {"name": name, "namespace": namespace}
        route = {"hosts": [name], "http": [{"route": [{"destination": {"host": name}}]}]}
        resources += [
            Service.model_validate({"metadata": metadata, "spec": {"selector": selector, "ports": ports}}),
            VirtualService.model_validate({"metadata": metadata, "spec": route}),
        ]
        for replica in range(10):
            spec = {
                "address": f"10.{number // 250}.{number % 250}.{replica}",
                "labels": selector,
                "serviceAccount": name,
            }
            meta = {"name": f"{name}-{replica}", "namespace": namespace}
            resources.append(WorkloadEntry.model_validate({"metadata": meta, "spec": spec}))
    started = time.perf_counter()
    view = MeshView.build(resources, MeshConfig())
    endpoints = sum(len(view.endpoints(s, p)) for s in view.services.values() for p in s.ports)
    policies = sum(len(view.authorization_policies(w)) for w in view.workloads)
    memberships = sum(len(view.services_of(w)) for w in view.workloads)
    findings = analyze(view)
    elapsed = time.perf_counter() - started
    assert (endpoints, policies, memberships, findings) == (10_000, 0, 10_000, ())
    assert elapsed < 15
