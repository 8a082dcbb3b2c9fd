from lateen.mesh.peerauthentication import MutualTlsMode
from lateen.mesh.view import MeshView
from tests.mesh.views import doc, view_of

LABELS = {"app": "a"}


def _policy(key: str, spec: str, created: str = "") -> str:
    return doc(f"PeerAuthentication/{key}", f"spec: {{{spec}}}", created=created)


def _mode(view: MeshView, namespace: str = "n", port: int | None = None) -> str:
    return str(view.mtls_mode(namespace, LABELS, port))


def test_nothing_said_is_permissive() -> None:
    assert _mode(view_of()) == "PERMISSIVE"


def test_workload_over_namespace_over_mesh() -> None:
    mesh = _policy("istio-system/default", "mtls: {mode: STRICT}")
    namespace = _policy("n/default", "mtls: {mode: DISABLE}")
    workload = _policy("n/a", "selector: {matchLabels: {app: a}}, mtls: {mode: PERMISSIVE}")
    assert _mode(view_of(mesh)) == "STRICT"
    assert _mode(view_of(mesh, namespace)) == "DISABLE"
    assert _mode(view_of(mesh, namespace), "m") == "STRICT"
    assert _mode(view_of(mesh, namespace, workload)) == "PERMISSIVE"
    assert str(view_of(mesh, namespace, workload).mtls_mode("n", {"app": "b"})) == "DISABLE"


def test_unset_inherits() -> None:
    view = view_of(
        _policy("istio-system/default", "mtls: {mode: STRICT}"),
        _policy("n/default", "mtls: {mode: UNSET}"),
        _policy("n/a", "selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: UNSET}, 81: {mode: DISABLE}}"),
    )
    assert [_mode(view, "n", port) for port in (None, 80, 81, 82)] == ["STRICT", "STRICT", "DISABLE", "STRICT"]


def test_port_level_inherits_from_its_own_policy_first() -> None:
    view = view_of(
        _policy("n/a", "selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: UNSET}}"),
    )
    assert _mode(view, "n", 80) == "STRICT"


def test_in_one_scope_the_oldest_counts() -> None:
    young = _policy("n/a-young", "mtls: {mode: DISABLE}", "2026-02-01T00:00:00Z")
    old = _policy("n/z-old", "mtls: {mode: STRICT}", "2026-01-01T00:00:00Z")
    assert _mode(view_of(young, old)) == "STRICT"


def test_a_selector_in_the_root_namespace_is_ignored() -> None:
    view = view_of(_policy("istio-system/a", "selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}"))
    assert _mode(view) == "PERMISSIVE"
    assert _mode(view, "istio-system") == "PERMISSIVE"


def test_another_root_namespace() -> None:
    policy = _policy("mesh-root/default", "mtls: {mode: STRICT}")
    assert _mode(view_of(policy, mesh="rootNamespace: mesh-root")) == "STRICT"
    assert _mode(view_of(policy)) == "PERMISSIVE"


def test_the_policies_that_had_a_say_are_known() -> None:
    view = view_of(
        _policy("istio-system/default", "mtls: {mode: STRICT}"),
        _policy("n/default", "{}".strip("{}")),
        _policy("n/a", "selector: {matchLabels: {app: a}}"),
    )
    assert [p.name for p in view.peer_authentications("n", LABELS)] == ["a", "default", "default"]
    assert view.mtls_mode("n", LABELS) is MutualTlsMode.STRICT
