"""Snapshots: references hold, proxies share bytes, a change touches what depends on it, and policies are bound by workload."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lateen.controlplane import names
from lateen.controlplane.bound_policies import workload_limits, workload_policies
from lateen.controlplane.proxy import Mode, Proxy, ProxyType
from lateen.controlplane.snapshot import Memo, Snapshot, snapshot_for
from lateen.envoyapi.lateen.v1alpha1 import workload_pb2
from lateen.mesh.loader import load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView
from tests.controlplane.golden_cases import GOLDEN

_BASE = (GOLDEN / "base" / "bookstore.yaml").read_text()
_SECOND = """
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: client-1, namespace: default}
spec: {address: 127.9.0.40, labels: {app: client, version: v2}, serviceAccount: client}
"""
_BY_SOURCE = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - {match: [{sourceLabels: {version: v2}}], route: [{destination: {host: ratings.prod.svc.cluster.local, port: {number: 9080}}}]}
  - {route: [{destination: {host: reviews}}]}
"""
_POLICIES = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: client-only, namespace: default, annotations: {istio.io/dry-run: "true"}}
spec: {selector: {matchLabels: {app: db}}, rules: [{from: [{source: {principals: ["cluster.local/ns/default/sa/client"]}}]}]}
---
apiVersion: lateen.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: few, namespace: default}
spec: {selector: {matchLabels: {app: db}}, limits: [{name: all, requests: 2, per: second}]}
"""


def _view(*texts: str) -> MeshView:
    loaded = load_text("".join((_BASE, *texts)), "mesh.yaml")
    assert not [d.message for d in loaded.diagnostics if d.invalid]
    return MeshView.build(loaded.resources, MeshConfig())


def _proxy(view: MeshView, name: str, mode: Mode = Mode.REDIRECT) -> Proxy:
    workload = view.workload("default", name)
    assert workload is not None
    return Proxy(
        "",
        ProxyType.SIDECAR,
        name,
        "default",
        workload.address,
        "127.0.0.1",
        mode,
        workload.labels,
        workload.service_account,
    )


def _bytes(snapshot: Snapshot) -> dict[tuple[str, str], bytes]:
    return {(url, name): blob.data for url, named in snapshot.resources.items() for name, blob in named.items()}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("texts", [(), (_BY_SOURCE,), (_POLICIES,)], ids=["plain", "by source", "policies"])
def test_a_memo_changes_nothing(mode: Mode, texts: tuple[str, ...]) -> None:
    view, memo = _view(_SECOND, *texts), Memo()
    for name in ("client-0", "client-1", "db-0", "client-0"):
        proxy = _proxy(view, name, mode)
        assert _bytes(snapshot_for(view, proxy, memo)) == _bytes(snapshot_for(view, proxy))


def test_proxies_share_what_does_not_concern_their_labels() -> None:
    view, memo = _view(_SECOND), Memo()
    first, second = (snapshot_for(view, _proxy(view, name), memo) for name in ("client-0", "client-1"))
    for url in (names.RDS, names.EDS):
        assert [id(b) for b in first.resources[url].values()] == [id(b) for b in second.resources[url].values()]


def test_labels_that_matter_part_them() -> None:
    view, memo = _view(_SECOND, _BY_SOURCE), Memo()
    first, second = (snapshot_for(view, _proxy(view, name), memo) for name in ("client-0", "client-1"))
    assert first.resources[names.RDS]["9080"] is not second.resources[names.RDS]["9080"]
    assert first.resources[names.RDS]["7070"] is second.resources[names.RDS]["7070"]


def test_a_change_keeps_the_blobs_it_does_not_concern() -> None:
    memo = Memo()
    old_view, new_view = _view(), _view(_BY_SOURCE)
    old = snapshot_for(old_view, _proxy(old_view, "client-0"), memo)
    new = snapshot_for(new_view, _proxy(new_view, "client-0"), memo)
    changed = {
        (url.rpartition(".")[2], name)
        for url, named in new.resources.items()
        for name, blob in named.items()
        if old.resources[url].get(name) is not blob
    }
    assert changed == {("RouteConfiguration", "9080")}
    assert old.version != new.version


@pytest.mark.parametrize(
    ("url", "name", "complaint"),
    [
        (names.RDS, "9080", "Listener 0.0.0.0_9080 names RouteConfiguration 9080, which is absent"),
        (names.CDS, "outbound|5432||db.default.svc.cluster.local", "Listener 10.0.0.3_5432 names Cluster outbound"),
        (names.CDS, "outbound|7070||ratings.prod.svc.cluster.local", "RouteConfiguration 7070 names Cluster outbound"),
        (names.EDS, "outbound|9080||reviews.default.svc.cluster.local", "names ClusterLoadAssignment outbound"),
        (
            names.CDS,
            "outbound|9191||lateen-extauthz.istio-system.svc.cluster.local",
            "Listener virtualInbound names Cluster",
        ),
    ],
)
def test_check_finds_what_is_absent(url: str, name: str, complaint: str) -> None:
    view = _view(_POLICIES)
    whole = snapshot_for(view, _proxy(view, "db-0"))
    whole.check()
    named = {key: blob for key, blob in whole.resources[url].items() if key != name}
    assert len(named) == len(whole.resources[url]) - 1
    with pytest.raises(ValueError, match="absent") as caught:
        dataclasses.replace(whole, resources={**whole.resources, url: named}).check()
    assert complaint in str(caught.value)


def test_every_resource_says_where_it_comes_from() -> None:
    view = _view(_BY_SOURCE)
    snapshot = snapshot_for(view, _proxy(view, "client-0"))
    blob = snapshot.resources[names.CDS]["outbound|9080||reviews.default.svc.cluster.local"]
    assert [str(key) for key in blob.origins] == ["Service/default/reviews"]
    assert b"VirtualService/default/reviews" in snapshot.resources[names.RDS]["9080"].data


def test_policies_and_limits_by_workload() -> None:
    view = _view(_POLICIES)
    (policy,) = workload_policies(view)
    message = workload_pb2.WorkloadPolicy.FromString(policy.data)
    assert (policy.name, message.target, message.trust_domain) == ("default/db-0", "default/db-0", "cluster.local")
    (attached,) = message.authorization_policies
    assert (attached.kind, attached.name, attached.file) == ("AuthorizationPolicy", "client-only", "mesh.yaml")
    assert attached.line == _BASE.count("\n") + 3
    assert attached.annotations["istio.io/dry-run"] == "true"
    assert json.loads(attached.spec_json)["rules"][0]["from"][0]["source"]["principals"]
    (limits,) = workload_limits(view)
    assert workload_pb2.WorkloadLimits.FromString(limits.data).limits[0].name == "all"


def test_an_unknown_workload_still_gets_the_way_out() -> None:
    view = _view()
    stranger = Proxy("", ProxyType.SIDECAR, "stranger", "default", "127.9.0.99", mode=Mode.NONE)
    snapshot = snapshot_for(view, stranger)
    snapshot.check()
    assert next(iter(snapshot.resources[names.LDS])) == "127.9.0.99_15001"
    assert not [name for name in snapshot.resources[names.CDS] if name.startswith("inbound")]


@pytest.mark.parametrize(("pattern", "codes"), [("/(?=a)", ["LTN0301"]), ("/a+", [])])
def test_what_is_left_out_is_a_diagnostic_with_its_place(pattern: str, codes: list[str]) -> None:
    text = f"""
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: v, namespace: default}}
spec:
  hosts: [reviews]
  http:
  - match: [{{uri: {{regex: "{pattern}"}}}}]
    route: [{{destination: {{host: reviews}}}}]
"""
    loaded = load_text(_BASE + text, "mesh.yaml")
    view = MeshView.build(loaded.resources, MeshConfig())
    found = snapshot_for(view, _proxy(view, "client-0")).diagnostics
    assert [d.code for d in found] == codes
    for diagnostic in found:
        assert (diagnostic.resource, diagnostic.path) == ("VirtualService/default/v", "spec.http[0]")
        assert "regex" in diagnostic.source_line
        assert not diagnostic.invalid
