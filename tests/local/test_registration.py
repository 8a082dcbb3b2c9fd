import json
from ipaddress import IPv4Network
from pathlib import Path

import yaml

from lateen.local import registration
from lateen.local.placement import place
from lateen.local.source import read_directory
from lateen.mesh.loader import load_text
from lateen.mesh.workload import WorkloadEntry
from lateen.mesh.workloads import workloads_of

EXAMPLE = Path(__file__).parents[2] / "envoy-configs" / "payments"
ADDRESSES = {number: f"127.1.1.{number}" for number in range(1, 7)}


def _documents() -> list[registration.Document]:
    plan = read_directory(EXAMPLE).plan()
    replicas = place(plan.workloads, IPv4Network("127.1.1.0/24"), {}, own_app_address=True)
    return [
        *registration.own_services("istio-system", ADDRESSES),
        *(registration.workload_entry(replica, serves=True) for replica in replicas),
        *(registration.gateway_service(service, "10.0.0.9") for service in plan.gateway_services),
        registration.tls_secret("payments", "payments-tls", b"cert", b"key"),
    ]


def test_everything_registered_is_valid() -> None:
    documents = _documents()
    loaded = load_text(registration.render(documents), "runner")
    assert loaded.diagnostics == ()
    assert len(loaded.resources) == len(documents)


def test_a_replica_is_selected_by_its_service() -> None:
    (entry,) = [d for d in _documents() if d["metadata"]["name"] == "payments-api-v2-1"]
    assert {"app": "payments-api"}.items() <= entry["spec"]["labels"].items()
    assert entry["spec"]["serviceAccount"] == "payments-api"


def test_only_what_has_changed_is_applied() -> None:
    documents = _documents()
    known = {registration.key_of(d): d for d in documents}
    assert registration.changes(known, documents) == ([], [])
    moved = {**documents[0], "spec": {"selector": {}, "ports": []}}
    assert registration.changes(known, [moved, *documents[2:]]) == ([moved], [registration.key_of(documents[1])])


def test_json_documents_are_yaml() -> None:
    documents = _documents()
    assert list(yaml.safe_load_all(registration.render(documents))) == json.loads(json.dumps(documents))


def test_a_service_gets_its_vip_and_keeps_the_rest() -> None:
    services = {registration.key_of(s): s for s in read_directory(EXAMPLE).services()}
    service = services["Service", "payments", "payments-api"]
    with_vip = registration.with_vip(service, "10.2.3.4")
    assert with_vip["spec"]["clusterIP"] == "10.2.3.4"
    assert with_vip["spec"]["ports"] == service["spec"]["ports"]
    assert "clusterIP" not in service["spec"]


def test_a_replica_that_does_not_serve_is_registered_without_traffic() -> None:
    plan = read_directory(EXAMPLE).plan()
    replicas = place(plan.workloads, IPv4Network("127.1.1.0/24"), {}, own_app_address=True)
    documents = [registration.workload_entry(replica, serves=replica.index == 0) for replica in replicas]
    loaded = load_text(registration.render(documents), "runner")
    assert loaded.diagnostics == ()
    entries = [located.resource for located in loaded.resources]
    workloads = workloads_of([entry for entry in entries if isinstance(entry, WorkloadEntry)], [])
    assert {w.name: w.healthy for w in workloads} == {replica.name: replica.index == 0 for replica in replicas}
