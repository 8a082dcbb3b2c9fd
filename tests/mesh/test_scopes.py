import pytest

from lateen.mesh.view import MeshView
from tests.mesh.views import doc, service, view_of, workload

SERVICES = (
    service("n/own", ports="[{port: 80, name: http}, {port: 9000, name: tcp}]"),
    service("n/other"),
    service("m/far", ports="[{port: 80, name: http}, {port: 9000, name: tcp}]"),
    service("istio-system/lateen-extauthz", ports="[{port: 9191, name: grpc-authz}]"),
)
OURS = "lateen-extauthz:9191"


def _seen(view: MeshView, namespace: str = "n", *, scoped: bool = True, **labels: str) -> list[str]:
    found = view.visible_services(namespace, labels, scoped=scoped)
    return [f"{s.hostname.removesuffix('.svc.cluster.local').split('.')[0]}:{p.number}" for s in found for p in s.ports]


def _sidecar(key: str, spec: str, created: str = "") -> str:
    return doc(f"Sidecar/{key}", f"spec: {{{spec}}}", created=created)


def _routes(view: MeshView, namespace: str = "n", gateway: str = "mesh", **labels: str) -> list[str]:
    return [vs.name for vs in view.virtual_services(namespace, labels, gateway)]


def _virtual_service(key: str, spec: str, created: str = "") -> str:
    return doc(f"VirtualService/{key}", f"spec: {{{spec}}}", created=created)


ROUTE = "http: [{route: [{destination: {host: far.m.svc.cluster.local, port: {number: 80}}}]}]"


def test_without_a_sidecar_everything_exported_is_visible() -> None:
    view = view_of(*SERVICES)
    assert _seen(view) == ["far:80", "far:9000", OURS, "other:80", "own:80", "own:9000"]


def test_export_to() -> None:
    def exported(name: str, to: str) -> str:
        return service(f"n/{name}", annotations=f"{{networking.istio.io/exportTo: '{to}'}}")

    view = view_of(exported("dot", "."), exported("all", "*"), exported("none", "~"), exported("named", "m"))
    assert _seen(view, "n") == ["all:80", "dot:80"]
    assert _seen(view, "m") == ["all:80", "named:80"]
    assert _seen(view, "x") == ["all:80"]


def test_the_meshs_default_export_of_services() -> None:
    view = view_of(service("n/a"), mesh="defaultServiceExportTo: ['.']")
    assert (_seen(view, "n"), _seen(view, "m")) == (["a:80"], [])


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ("['./*']", ["other:80", "own:80", "own:9000"]),
        ("['*/*']", ["far:80", "far:9000", "other:80", "own:80", "own:9000"]),
        ("['~/*']", []),
        ("['m/*']", ["far:80", "far:9000"]),
        ("['./own.n.svc.cluster.local']", ["own:80", "own:9000"]),
        ("['*/*.m.svc.cluster.local']", ["far:80", "far:9000"]),
        ("['*/*', '~m/*']", ["other:80", "own:80", "own:9000"]),
        ("['*/*', '~*/own.n.svc.cluster.local']", ["far:80", "far:9000", "other:80"]),
    ],
)
def test_a_sidecar_narrows_what_its_workloads_see(hosts: str, expected: list[str]) -> None:
    view = view_of(*SERVICES, _sidecar("n/s", f"egress: [{{hosts: {hosts}}}]"))
    assert [seen for seen in _seen(view) if seen != OURS] == expected
    assert OURS in _seen(view), "our own services stay visible, whatever a Sidecar says"
    assert len(_seen(view, "m")) == 6, "other namespaces are not concerned"
    assert len(_seen(view, scoped=False)) == 6, "gateways obey no Sidecar"


def test_a_sidecar_cannot_show_what_is_not_exported() -> None:
    hidden = service("m/a", annotations="{networking.istio.io/exportTo: '.'}")
    assert _seen(view_of(hidden, _sidecar("n/s", "egress: [{hosts: ['*/*']}]"))) == []


def test_a_sidecar_without_egress_shows_everything() -> None:
    assert (
        len(_seen(view_of(*SERVICES, _sidecar("n/s", "ingress: [{port: {number: 80, protocol: HTTP, name: http}}]"))))
        == 6
    )


def test_a_listener_for_a_port_alone_decides_about_that_port() -> None:
    egress = "egress: [{port: {number: 9000, protocol: TCP, name: tcp}, hosts: ['m/*']}, {hosts: ['./*']}]"
    view = view_of(*SERVICES, _sidecar("n/s", egress))
    assert _seen(view) == ["far:9000", OURS, "other:80", "own:80"]


def test_a_narrowed_service_keeps_its_endpoints() -> None:
    egress = "egress: [{port: {number: 80, protocol: HTTP, name: http}, hosts: ['./own.n.svc.cluster.local']}]"
    view = view_of(*SERVICES, workload("n/w"), _sidecar("n/s", egress))
    own = next(s for s in view.visible_services("n", {}) if s.name == "own")
    assert [port.number for port in own.ports] == [80]
    assert [e.address for e in view.endpoints(own, own.ports[0])] == ["10.0.0.1"]


def test_selector_over_namespace_over_root() -> None:
    root = _sidecar("istio-system/s", "egress: [{hosts: ['~/*']}]")
    wide = _sidecar("n/wide", "egress: [{hosts: ['./*']}]")
    some = _sidecar("n/some", "workloadSelector: {labels: {app: a}}, egress: [{hosts: ['m/*']}]")
    view = view_of(*SERVICES, root, wide, some)
    assert _seen(view, "n", app="a") == ["far:80", "far:9000", OURS]
    assert _seen(view, "n", app="b") == [OURS, "other:80", "own:80", "own:9000"]
    assert _seen(view, "m") == [OURS]


def test_the_root_namespaces_sidecar_speaks_of_the_clients_own_namespace() -> None:
    view = view_of(*SERVICES, _sidecar("istio-system/s", "egress: [{hosts: ['./*']}]"))
    assert _seen(view, "m") == ["far:80", "far:9000", OURS]


def test_of_equal_sidecars_the_oldest_counts() -> None:
    view = view_of(
        *SERVICES,
        _sidecar("n/a", "egress: [{hosts: ['~/*']}]", "2026-02-01T00:00:00Z"),
        _sidecar("n/z", "egress: [{hosts: ['m/*']}]", "2026-01-01T00:00:00Z"),
    )
    assert _seen(view) == ["far:80", "far:9000", OURS]


def test_destinations_of_visible_routes_become_visible() -> None:
    view = view_of(
        *SERVICES,
        _virtual_service("n/vs", f"hosts: [own], {ROUTE}"),
        _sidecar("n/s", "egress: [{hosts: ['./own.n.svc.cluster.local']}]"),
    )
    assert _seen(view) == ["far:80", "far:9000", OURS, "own:80", "own:9000"]


def test_one_service_for_each_name_the_clients_own_first() -> None:
    def entry(key: str, port: int) -> str:
        return doc(f"ServiceEntry/{key}", f"spec: {{hosts: [a.corp], ports: [{{number: {port}, name: http}}]}}")

    view = view_of(entry("m/se", 81), entry("n/se", 82))
    assert (_seen(view, "n"), _seen(view, "m"), _seen(view, "x")) == (["a:82"], ["a:81"], ["a:81"])


def test_virtual_services_of_the_mesh_are_the_default() -> None:
    view = view_of(
        _virtual_service("n/young", f"hosts: [a], {ROUTE}", "2026-02-01T00:00:00Z"),
        _virtual_service("m/old", f"hosts: [a], {ROUTE}", "2026-01-01T00:00:00Z"),
        _virtual_service("n/explicit", f"hosts: [a], gateways: [mesh, gw], {ROUTE}", "2026-03-01T00:00:00Z"),
        _virtual_service("n/gateway-only", f"hosts: [a.corp], gateways: [gw], {ROUTE}"),
        _virtual_service("n/delegate", ROUTE),
    )
    assert _routes(view) == ["old", "young", "explicit"]


def test_gateways_are_named_with_or_without_namespace() -> None:
    view = view_of(
        _virtual_service("n/short", f"hosts: [a], gateways: [gw], {ROUTE}"),
        _virtual_service("m/long", f"hosts: [a], gateways: [n/gw], {ROUTE}"),
        _virtual_service("m/short", f"hosts: [a], gateways: [gw], {ROUTE}"),
    )
    assert _routes(view, "n", "n/gw") == ["long", "short"]
    assert _routes(view, "n", "m/gw") == ["short"]
    assert _routes(view, "n", "gw") == []


def test_virtual_services_are_exported_too() -> None:
    view = view_of(
        _virtual_service("n/private", f"hosts: [a], exportTo: ['.'], {ROUTE}"),
        _virtual_service("n/gateway", f"hosts: [a.corp], gateways: [gw], exportTo: ['.'], {ROUTE}"),
    )
    assert (_routes(view, "n"), _routes(view, "m")) == (["private"], [])
    assert (_routes(view, "n", "n/gw"), _routes(view, "m", "n/gw")) == (["gateway"], [])
    default = view_of(_virtual_service("n/vs", f"hosts: [a], {ROUTE}"), mesh="defaultVirtualServiceExportTo: ['.']")
    assert (_routes(default, "n"), _routes(default, "m")) == (["vs"], [])


def test_a_sidecar_narrows_routes_but_not_those_of_gateways() -> None:
    view = view_of(
        _virtual_service("n/own", f"hosts: [a], {ROUTE}"),
        _virtual_service("m/far", f"hosts: [a.m.svc.cluster.local], {ROUTE}"),
        _virtual_service("m/wild", f"hosts: ['*.corp'], {ROUTE}"),
        _virtual_service("m/gateway", f"hosts: [b.corp], gateways: [n/gw], {ROUTE}"),
        _sidecar("n/s", "egress: [{hosts: ['./*', 'm/x.corp']}]"),
    )
    assert _routes(view) == ["own", "wild"]
    assert _routes(view, "n", "n/gw") == ["gateway"]


def test_outbound_traffic_policy_of_the_sidecar_else_of_the_mesh() -> None:
    view = view_of(
        _sidecar("n/s", "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"),
        _sidecar("m/s", "egress: [{hosts: ['./*']}]"),
        mesh="outboundTrafficPolicy: {mode: ALLOW_ANY}",
    )
    modes = {namespace: str(view.outbound_traffic_policy(namespace, {}).mode) for namespace in ("n", "m", "x")}
    assert modes == {"n": "REGISTRY_ONLY", "m": "ALLOW_ANY", "x": "ALLOW_ANY"}
