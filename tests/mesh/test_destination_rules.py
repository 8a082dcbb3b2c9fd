from lateen.mesh.view import MeshView
from tests.mesh.views import doc, service, view_of

HOST = "a.svc-ns.svc.cluster.local"
SERVICE = service("svc-ns/a")


def _rule(key: str, spec: str = "", host: str = HOST, created: str = "") -> str:
    return doc(f"DestinationRule/{key}", f"spec: {{host: '{host}', {spec}}}", created=created)


def _name(view: MeshView, client: str = "client", host: str = HOST, **labels: str) -> str:
    found = view.destination_rule(client, labels, host)
    return f"{found.namespace}/{found.name}" if found else ""


def test_the_clients_namespace_then_the_services_then_the_root() -> None:
    client, own, root = _rule("client/dr"), _rule("svc-ns/dr"), _rule("istio-system/dr")
    assert _name(view_of(SERVICE, client, own, root)) == "client/dr"
    assert _name(view_of(SERVICE, own, root)) == "svc-ns/dr"
    assert _name(view_of(SERVICE, root)) == "istio-system/dr"
    assert _name(view_of(SERVICE)) == ""
    assert _name(view_of(SERVICE, client, own, root), "third") == "svc-ns/dr"


def test_a_rule_of_a_third_namespace_does_not_count() -> None:
    assert _name(view_of(SERVICE, _rule("third/dr"))) == ""


def test_export_to_hides_a_rule() -> None:
    hidden = _rule("svc-ns/dr", "exportTo: ['.']")
    assert _name(view_of(SERVICE, hidden, _rule("istio-system/dr"))) == "istio-system/dr"
    assert _name(view_of(SERVICE, hidden), "svc-ns") == "svc-ns/dr"
    named = _rule("svc-ns/dr", "exportTo: [client]")
    assert _name(view_of(SERVICE, named)) == "svc-ns/dr"
    assert _name(view_of(SERVICE, named), "third") == ""


def test_the_meshs_default_export() -> None:
    view = view_of(SERVICE, _rule("svc-ns/dr"), mesh="defaultDestinationRuleExportTo: ['.']")
    assert _name(view) == ""
    assert _name(view, "svc-ns") == "svc-ns/dr"


def test_a_client_in_the_root_namespace_prefers_the_services_own_rule() -> None:
    view = view_of(SERVICE, _rule("svc-ns/dr"), _rule("istio-system/dr"))
    assert _name(view, "istio-system") == "svc-ns/dr"
    private = view_of(SERVICE, _rule("svc-ns/dr"), _rule("istio-system/dr", "exportTo: ['.']"))
    assert _name(private, "istio-system") == "istio-system/dr"
    assert _name(private) == "svc-ns/dr"


def test_the_most_specific_host_wins_inside_a_namespace_and_does_not_inherit() -> None:
    wide = _rule("svc-ns/wide", "trafficPolicy: {tls: {mode: DISABLE}}", "*.svc-ns.svc.cluster.local")
    view = view_of(SERVICE, service("svc-ns/b"), wide, _rule("svc-ns/exact"))
    assert _name(view) == "svc-ns/exact"
    assert _name(view, host="b.svc-ns.svc.cluster.local") == "svc-ns/wide"
    found = view.destination_rule("client", {}, HOST)
    assert found is not None
    assert found.spec.traffic_policy is None


def test_a_wildcard_in_the_nearer_namespace_beats_an_exact_host_further_away() -> None:
    view = view_of(SERVICE, _rule("client/wide", host="*.local"), _rule("svc-ns/exact"))
    assert _name(view) == "client/wide"


def test_short_hosts_belong_to_the_rules_namespace() -> None:
    assert _name(view_of(SERVICE, _rule("svc-ns/dr", host="a"))) == "svc-ns/dr"
    assert _name(view_of(SERVICE, _rule("client/dr", host="a"))) == ""


def test_rules_for_one_host_are_merged_and_the_older_has_the_say() -> None:
    old = _rule("svc-ns/z", "subsets: [{name: v1, labels: {v: old}}]", created="2026-01-01T00:00:00Z")
    young = _rule(
        "svc-ns/a",
        "subsets: [{name: v1, labels: {v: young}}, {name: v2, labels: {v: '2'}}], trafficPolicy: {tls: {mode: SIMPLE}}",
        created="2026-02-01T00:00:00Z",
    )
    third = _rule("svc-ns/b", "trafficPolicy: {tls: {mode: DISABLE}}", created="2026-03-01T00:00:00Z")
    view = view_of(SERVICE, young, third, old)
    merged = view.merged_destination_rule("client", {}, HOST)
    assert merged is not None
    assert [key.name for key in merged.sources] == ["z", "a", "b"]
    assert {subset.name: subset.labels["v"] for subset in merged.rule.spec.subsets} == {"v1": "old", "v2": "2"}
    assert merged.rule.spec.traffic_policy is not None
    assert merged.rule.spec.traffic_policy.tls is not None
    assert merged.rule.spec.traffic_policy.tls.mode == "SIMPLE"


def test_rules_with_different_visibility_are_not_merged() -> None:
    view = view_of(
        SERVICE,
        _rule("svc-ns/a", "exportTo: ['.'], subsets: [{name: v1}]", created="2026-01-01T00:00:00Z"),
        _rule("svc-ns/b", "subsets: [{name: v2}]", created="2026-02-01T00:00:00Z"),
    )
    assert _name(view, "client") == "svc-ns/b"
    assert _name(view, "svc-ns") == "svc-ns/a"


def test_a_workload_selector_acts_for_matching_clients_of_its_namespace() -> None:
    selecting = "workloadSelector: {matchLabels: {app: c}}"
    view = view_of(SERVICE, _rule("client/all"), _rule("client/some", selecting), _rule("svc-ns/theirs", selecting))
    assert _name(view, app="c") == "client/some"
    assert _name(view, app="d") == "client/all"
    assert _name(view_of(SERVICE, _rule("svc-ns/theirs", selecting)), app="c") == ""


def test_a_host_nobody_declares_is_found_by_its_clients() -> None:
    view = view_of(_rule("client/dr", host="www.example.com"))
    assert _name(view, host="www.example.com") == "client/dr"
    assert _name(view, "third", host="www.example.com") == ""
