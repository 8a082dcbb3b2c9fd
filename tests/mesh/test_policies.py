import pytest

from lateen.mesh.view import MeshView
from tests.mesh.views import doc, replica, service, view_of, workload

GATEWAY = doc("Gateway/n/gw", "spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}")
PLAIN = workload("n/plain", "{app: a}")
SERVES_GATEWAY = workload("n/gateway", "{app: a, gateway.networking.k8s.io/gateway-name: gw}", "10.0.0.2")
ELSEWHERE = workload("m/plain", "{app: a}", "10.0.0.3")
TARGET = "[{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]"


def _policy(key: str, spec: str = "", created: str = "") -> str:
    return doc(f"AuthorizationPolicy/{key}", f"spec: {{{spec}}}", created=created)


def _applying(view: MeshView, key: str) -> list[str]:
    return [policy.name for policy in view.authorization_policies(replica(view, key))]


def _view(*documents: str) -> MeshView:
    return view_of(GATEWAY, PLAIN, SERVES_GATEWAY, ELSEWHERE, *documents)


def test_no_selector_selects_the_namespace_and_from_the_root_the_mesh() -> None:
    view = _view(_policy("n/wide"), _policy("istio-system/root"))
    assert _applying(view, "n/plain") == ["root", "wide"]
    assert _applying(view, "n/gateway") == ["root", "wide"]
    assert _applying(view, "m/plain") == ["root"]


def test_selectors() -> None:
    view = _view(
        _policy("n/match", "selector: {matchLabels: {app: a}}"),
        _policy("n/other", "selector: {matchLabels: {app: b}}"),
        _policy("istio-system/root", "selector: {matchLabels: {app: a}}"),
    )
    assert _applying(view, "n/plain") == ["match", "root"]
    assert _applying(view, "m/plain") == ["root"]


def test_the_order_is_by_age() -> None:
    view = _view(
        _policy("n/b", created="2026-01-02T00:00:00Z"),
        _policy("istio-system/c", created="2026-01-01T00:00:00Z"),
        _policy("n/a", "selector: {matchLabels: {app: a}}", created="2026-01-03T00:00:00Z"),
    )
    assert _applying(view, "n/plain") == ["c", "b", "a"]


def test_target_refs_act_on_the_gateway_only() -> None:
    view = _view(_policy("n/target", f"targetRefs: {TARGET}"), _policy("m/target", f"targetRefs: {TARGET}"))
    assert _applying(view, "n/gateway") == ["target"]
    assert _applying(view, "n/plain") == []
    assert _applying(view, "m/plain") == []


def test_target_ref_is_the_older_spelling() -> None:
    view = _view(_policy("n/target", f"targetRef: {TARGET[1:-1]}"))
    assert (_applying(view, "n/gateway"), _applying(view, "n/plain")) == (["target"], [])


@pytest.mark.parametrize(
    "ref",
    [
        "{group: gateway.networking.k8s.io, kind: Gateway, name: another}",
        "{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}",
        "{kind: Service, name: gw}",
        "{group: networking.istio.io, kind: Gateway, name: gw}",
    ],
)
def test_other_targets_select_nobody(ref: str) -> None:
    view = _view(_policy("n/target", f"targetRefs: [{ref}]"))
    assert (_applying(view, "n/gateway"), _applying(view, "n/plain")) == ([], [])


def test_a_gateway_of_a_foreign_class_does_not_make_its_workload_ours() -> None:
    foreign = doc(
        "Gateway/n/gw", "spec: {gatewayClassName: nginx, listeners: [{name: http, port: 80, protocol: HTTP}]}"
    )
    view = view_of(foreign, SERVES_GATEWAY, _policy("n/target", f"targetRefs: {TARGET}"))
    assert view.k8s_gateway_of(replica(view, "n/gateway")) is None
    assert _applying(view, "n/gateway") == []


def test_a_gateway_deployed_by_hand_is_known_by_its_service() -> None:
    gateway = GATEWAY + "  addresses: [{type: Hostname, value: ingress.n.svc.cluster.local}]\n"
    gateway = gateway.replace("spec: {gatewayClassName: istio, ", "spec:\n  gatewayClassName: istio\n  ").replace(
        "HTTP}]}", "HTTP}]"
    )
    view = view_of(gateway, service("n/ingress"), PLAIN, ELSEWHERE, _policy("n/target", f"targetRefs: {TARGET}"))
    found = view.k8s_gateway_of(replica(view, "n/plain"))
    assert found is not None
    assert found.name == "gw"
    assert view.k8s_gateway_of(replica(view, "m/plain")) is None
    assert _applying(view, "n/plain") == ["target"]


def test_the_other_kinds_are_selected_alike() -> None:
    rule = "jwtRules: [{issuer: i, jwks: '{}'}]"
    view = _view(
        doc("RequestAuthentication/n/ra", f"spec: {{selector: {{matchLabels: {{app: a}}}}, {rule}}}"),
        doc("RequestAuthentication/m/ra-m", f"spec: {{{rule}}}"),
        doc(
            "RateLimitPolicy/n/rl",
            "spec: {selector: {matchLabels: {app: a}}, limits: [{name: x, requests: 1, per: second}]}",
        ),
        doc(
            "RateLimitPolicy/n/rl-b",
            "spec: {selector: {matchLabels: {app: b}}, limits: [{name: x, requests: 1, per: second}]}",
        ),
    )
    plain = replica(view, "n/plain")
    assert [p.name for p in view.request_authentications(plain)] == ["ra"]
    assert [p.name for p in view.rate_limit_policies(plain)] == ["rl"]
    assert [p.name for p in view.request_authentications(replica(view, "m/plain"))] == ["ra-m"]


def test_istio_gateways_select_in_any_namespace() -> None:
    view = _view(
        doc("IstioGateway/x/by-label", "spec: {selector: {app: a}, servers: []}"),
        doc("IstioGateway/n/by-name", "spec: {selector: {gateway.networking.k8s.io/gateway-name: gw}, servers: []}"),
        doc("IstioGateway/n/nobody", "spec: {selector: {app: z}, servers: []}"),
    )
    assert [g.name for g in view.istio_gateways(replica(view, "n/gateway"))] == ["by-label", "by-name"]
    assert [g.name for g in view.istio_gateways(replica(view, "m/plain"))] == ["by-label"]
