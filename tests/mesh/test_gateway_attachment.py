import pytest

from lateen.mesh.gateway_attachment import GatewayStatus, hostnames
from lateen.mesh.gatewayapi import Listener
from lateen.mesh.httproute import HTTPRoute
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.view import MeshView
from tests.mesh.views import doc, load, service, view_of

KEY = ResourceKey("Gateway", "n", "gw")
HTTP = "{name: http, port: 80, protocol: HTTP}"
SECRET = doc("Secret/n/cert", "type: kubernetes.io/tls")


def _gateway(*listeners: str, class_name: str = "istio") -> str:
    return doc("Gateway/n/gw", f"spec: {{gatewayClassName: {class_name}, listeners: [{', '.join(listeners)}]}}")


def _route(key: str = "n/r", parent: str = "{name: gw}", more: str = "", created: str = "") -> str:
    rules = "rules: [{backendRefs: [{name: a, port: 80}]}]"
    return doc(f"HTTPRoute/{key}", f"spec: {{parentRefs: [{parent}], {more} {rules}}}", created=created)


def _status(*documents: str) -> GatewayStatus:
    return view_of(*documents).gateway_status(KEY)


def _attached(status: GatewayStatus) -> dict[str, list[str]]:
    return {s.listener.name: [f"{a.route.namespace}/{a.route.name}" for a in s.routes] for s in status.listeners}


def _reasons(status: GatewayStatus) -> list[str]:
    return [parent.reason for parent in status.parents]


# listeners


def test_a_plain_listener_is_accepted() -> None:
    (listener,) = _status(_gateway(HTTP)).listeners
    assert (listener.accepted, listener.resolved, listener.reason) == (True, True, "")


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ("{name: b, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}", "ProtocolConflict"),
        ("{name: b, port: 8080, protocol: HTTP}", "PortUnavailable"),
        ("{name: b, port: 81, protocol: TCP}", "UnsupportedProtocol"),
        ("{name: b, port: 81, protocol: TLS, tls: {mode: Passthrough}}", "UnsupportedProtocol"),
        ("{name: b, port: 81, protocol: HTTPS}", "Invalid"),
        ("{name: b, port: 80, protocol: HTTP, hostname: a.com}", ""),
        ("{name: b, port: 8081, protocol: HTTP}", ""),
    ],
)
def test_conflicts_leave_the_earlier_listener_alone(second: str, reason: str) -> None:
    status = _status(_gateway(HTTP, second), SECRET)
    first, other = status.listeners
    assert first.accepted
    assert (other.accepted, other.reason) == (not reason, reason)
    assert len(status.accepted) == (1 if reason else 2)


def test_a_listener_that_is_refused_takes_no_port() -> None:
    status = _status(_gateway("{name: a, port: 80, protocol: TCP}", HTTP))
    assert [listener.accepted for listener in status.listeners] == [False, True]


def test_certificates() -> None:
    listener = "{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [REF]}}"

    def status(ref: str, *more: str) -> tuple[bool, str, tuple[tuple[str, str], ...]]:
        (found,) = _status(
            _gateway(listener.replace("REF", ref)), SECRET, doc("Secret/m/cert", "type: Opaque"), *more
        ).listeners
        assert found.accepted
        return (found.resolved, found.reason, found.certificates)

    assert status("{name: cert}") == (True, "", (("n", "cert"),))
    assert status("{name: missing}") == (False, "InvalidCertificateRef", (("n", "missing"),))
    assert status("{kind: ConfigMap, name: cert}") == (False, "InvalidCertificateRef", ())
    assert status("{name: cert, namespace: m}") == (False, "RefNotPermitted", ())
    grant = _grant("m", "Gateway", "n", "Secret")
    assert status("{name: cert, namespace: m}", grant) == (True, "", (("m", "cert"),))


def _grant(
    namespace: str, kind: str, origin: str, to: str, name: str = "", *, from_group: str = "gateway.networking.k8s.io"
) -> str:
    target = f"{{group: '', kind: {to}{f', name: {name}' if name else ''}}}"
    source = f"{{group: {from_group}, kind: {kind}, namespace: {origin}}}"
    return doc(f"ReferenceGrant/{namespace}/grant", f"spec: {{from: [{source}], to: [{target}]}}")


@pytest.mark.parametrize(
    ("grant", "expected"),
    [
        (_grant("m", "HTTPRoute", "n", "Service"), True),
        (_grant("m", "HTTPRoute", "n", "Service", "a"), True),
        (_grant("m", "HTTPRoute", "n", "Service", "b"), False),
        (_grant("m", "HTTPRoute", "x", "Service"), False),
        (_grant("m", "Gateway", "n", "Service"), False),
        (_grant("m", "HTTPRoute", "n", "Secret"), False),
        (_grant("n", "HTTPRoute", "n", "Service"), False),
        (_grant("m", "HTTPRoute", "n", "Service", from_group="example.com"), False),
    ],
)
def test_reference_grants(grant: str, expected: bool) -> None:
    view = view_of(grant)
    assert view.reference_granted("HTTPRoute", "n", "Service", "m", "a") is expected
    assert view.reference_granted("HTTPRoute", "n", "Service", "n", "a"), "inside one namespace none is needed"


# routes


@pytest.mark.parametrize(
    ("parent", "reason"),
    [
        ("{name: gw}", ""),
        ("{name: gw, sectionName: http}", ""),
        ("{name: gw, port: 80}", ""),
        ("{name: gw, sectionName: https}", "NoMatchingParent"),
        ("{name: gw, port: 81}", "NoMatchingParent"),
        ("{name: gw, sectionName: http, port: 81}", "NoMatchingParent"),
    ],
)
def test_section_and_port_choose_listeners(parent: str, reason: str) -> None:
    status = _status(_gateway(HTTP), _route(parent=parent))
    assert _reasons(status) == [reason]
    assert _attached(status) == {"http": [] if reason else ["n/r"]}


def test_other_parents_are_not_this_gateways_business() -> None:
    status = _status(
        _gateway(HTTP),
        _route("n/a", "{name: another}"),
        _route("m/b", "{name: gw}"),
        _route("n/c", "{kind: Service, group: '', name: gw}"),
        _route("m/d", "{name: gw, namespace: n}"),
    )
    assert _attached(status) == {"http": []}
    assert [(p.route.name, p.reason) for p in status.parents] == [("d", "NotAllowedByListeners")]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ("", ["n/r"]),
        ("allowedRoutes: {namespaces: {from: Same}}", ["n/r"]),
        ("allowedRoutes: {namespaces: {from: All}}", ["m/r", "n/r"]),
        ("allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: m}}}}", ["m/r"]),
        (
            "allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: n}}}}",
            ["n/r"],
        ),
        (
            "allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [m]}]}}}",
            ["m/r"],
        ),
        (
            "allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: NotIn, values: [m]}]}}}",
            ["n/r"],
        ),
        (
            "allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: Exists}]}}}",
            ["m/r"],
        ),
        (
            "allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: DoesNotExist}]}}}",
            ["n/r"],
        ),
        (
            "allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: Odd}]}}}",
            [],
        ),
        ("allowedRoutes: {namespaces: {from: Selector}}", []),
        ("allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}", []),
        ("allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}, {kind: HTTPRoute}]}", ["m/r", "n/r"]),
    ],
)
def test_allowed_routes(allowed: str, expected: list[str]) -> None:
    status = _status(
        _gateway(f"{{name: http, port: 80, protocol: HTTP, {allowed}}}"),
        doc("Namespace/m", labels="{team: m}"),
        _route("n/r"),
        _route("m/r", "{name: gw, namespace: n}"),
    )
    assert _attached(status) == {"http": expected}
    assert sum(reason == "NotAllowedByListeners" for reason in _reasons(status)) == 2 - len(expected)


@pytest.mark.parametrize(
    ("listener", "route", "expected"),
    [
        (None, (), ("*",)),
        (None, ("a.com", "*.b.com"), ("a.com", "*.b.com")),
        ("a.com", (), ("a.com",)),
        ("a.com", ("a.com", "b.com"), ("a.com",)),
        ("*.a.com", ("x.a.com", "a.com", "*.a.com"), ("x.a.com", "*.a.com")),
        ("x.a.com", ("*.a.com",), ("x.a.com",)),
        ("a.com", ("b.com",), ()),
    ],
)
def test_hostnames_are_the_intersection(
    listener: str | None, route: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    found = load(_route(more=f"hostnames: {[*route]}," if route else "")).resources[0].resource
    assert isinstance(found, HTTPRoute)
    assert hostnames(Listener(name="l", port=80, protocol="HTTP", hostname=listener), found) == expected


def test_a_route_attaches_to_the_listeners_that_share_a_hostname() -> None:
    listeners = (
        "{name: a, port: 80, protocol: HTTP, hostname: a.com}",
        "{name: b, port: 80, protocol: HTTP, hostname: b.com}",
    )
    status = _status(
        _gateway(*listeners),
        _route("n/r", more="hostnames: [b.com],"),
        _route("n/none", more="hostnames: [c.com],"),
    )
    assert _attached(status) == {"a": [], "b": ["n/r"]}
    assert {p.route.name: p.reason for p in status.parents} == {"none": "NoMatchingListenerHostname", "r": ""}


def test_routes_stand_in_precedence_order() -> None:
    documents = [
        _gateway("{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}"),
        _route("n/z", created="2026-01-01T00:00:00Z"),
        _route("n/a", created="2026-01-02T00:00:00Z"),
        _route("m/b", "{name: gw, namespace: n}", created="2026-01-02T00:00:00Z"),
    ]
    assert _attached(_status(*documents)) == {"http": ["n/z", "m/b", "n/a"]}
    view = view_of(*documents)
    assert [route.name for route in view.gateway_status(KEY).routes] == ["z", "b", "a"]


def test_a_listener_that_is_not_served_has_no_routes() -> None:
    status = _status(_gateway("{name: a, port: 80, protocol: HTTP}", "{name: b, port: 8080, protocol: HTTP}"), _route())
    assert _attached(status) == {"a": ["n/r"], "b": []}


# backends


@pytest.mark.parametrize(
    ("ref", "reason", "port"),
    [
        ("{name: a, port: 80}", "", 80),
        ("{name: a, port: 81}", "BackendNotFound", None),
        ("{name: missing, port: 80}", "BackendNotFound", None),
        ("{name: a, namespace: m, port: 80}", "RefNotPermitted", None),
        ("{name: a, namespace: granted, port: 80}", "", 80),
        ("{group: example.com, kind: Bucket, name: a}", "InvalidKind", None),
    ],
)
def test_backends(ref: str, reason: str, port: int | None) -> None:
    view = view_of(
        doc("HTTPRoute/n/r", f"spec: {{rules: [{{backendRefs: [{ref}]}}]}}"),
        service("n/a"),
        service("m/a"),
        service("granted/a"),
        _grant("granted", "HTTPRoute", "n", "Service"),
    )
    found = _resolve(view)
    assert found == (reason, port)


def _resolve(view: MeshView) -> tuple[str, int | None]:
    route = view.resource(ResourceKey("HTTPRoute", "n", "r"))
    assert isinstance(route, HTTPRoute)
    found = view.resolve_backend(route, route.spec.rules[0].backend_refs[0])
    return (found.reason, found.port.number if found.port else None)


# classes


def test_gateways_of_our_classes() -> None:
    def gateway(name: str, class_name: str) -> str:
        return doc(f"Gateway/n/{name}", f"spec: {{gatewayClassName: {class_name}, listeners: [{HTTP}]}}")

    def gateway_class(name: str, controller: str) -> str:
        return doc(f"GatewayClass/{name}", f"spec: {{controllerName: {controller}}}")

    view = view_of(
        gateway("a", "istio"),
        gateway("b", "lateen"),
        gateway("c", "nginx"),
        gateway("d", "named"),
        gateway("e", "taken"),
        gateway_class("named", "lateen.dev/gateway-controller"),
        gateway_class("taken", "example.com/controller"),
        gateway_class("lateen", "example.com/controller"),
    )
    assert [gateway.name for gateway in view.k8s_gateways()] == ["a", "d"]
    with pytest.raises(KeyError):
        view.gateway_status(ResourceKey("Gateway", "n", "c"))
