from tests.mesh.views import doc, replica, view_of, workload


def test_a_workload_entry_is_a_workload() -> None:
    view = view_of(
        doc(
            "WorkloadEntry/n/a-1",
            """
            spec:
              address: 10.0.0.1
              labels: {app: a, version: from-spec}
              ports: {http: 8080}
              serviceAccount: sa
              locality: eu/west/1
              network: net
              weight: 3
            """,
            labels="{version: from-metadata, service.istio.io/workload-name: a}",
        )
    )
    found = replica(view, "n/a-1")
    assert found.address == "10.0.0.1"
    assert found.labels == {"app": "a", "version": "from-metadata", "service.istio.io/workload-name": "a"}
    assert (found.service_account, found.ports, found.locality, found.network, found.weight) == (
        "sa",
        {"http": 8080},
        "eu/west/1",
        "net",
        3,
    )
    assert (found.workload_name, found.key, found.tls_mode) == ("a", "n/a", "istio")


def test_defaults() -> None:
    found = replica(view_of(workload("n/a-1", extra="weight: 0")), "n/a-1")
    assert (found.service_account, found.weight, found.workload_name, found.key) == ("default", 1, "a-1", "n/a-1")
    assert found.tls_mode == "disabled", "no service account, no certificate, as in Istio"


def test_the_tls_mode_label_decides() -> None:
    view = view_of(
        workload("n/a", "{security.istio.io/tlsMode: istio}", extra="weight: 1"),
        workload("n/b", "{security.istio.io/tlsMode: disabled}"),
    )
    assert [w.tls_mode for w in view.workloads] == ["istio", "disabled"]


def test_replicas_share_a_key_while_they_are_alike() -> None:
    name = "service.istio.io/workload-name: web"
    view = view_of(
        workload("n/web-1", f"{{{name}, v: '1'}}"),
        workload("n/web-2", f"{{{name}, v: '1'}}"),
        workload("n/web-3", f"{{{name}, v: '2'}}"),
        workload("n/web-4", f"{{{name}, v: '1'}}", extra="serviceAccount: other"),
        workload("m/web-1", f"{{{name}, v: '9'}}"),
    )
    assert {f"{w.namespace}/{w.name}": w.key for w in view.workloads} == {
        "n/web-1": "n/web",
        "n/web-2": "n/web",
        "n/web-3": "n/web-3",
        "n/web-4": "n/web-4",
        "m/web-1": "m/web",
    }
    assert [w.name for w in view.workloads_of_key("n/web")] == ["web-1", "web-2"]


def test_a_replica_never_gets_the_key_of_another_workload() -> None:
    name = "service.istio.io/workload-name"
    view = view_of(
        workload("n/a-1", f"{{{name}: a}}"),
        workload("n/b", f"{{{name}: a, odd: one}}"),
        workload("n/c", f"{{{name}: b}}"),
    )
    keys = [w.key for w in view.workloads]
    assert keys[0] == "n/a"
    assert keys[2] == "n/b", "the group's own key"
    assert keys[1] not in {"n/a", "n/b"}


def test_pods_count_when_they_have_an_address() -> None:
    body = """
    spec:
      serviceAccountName: sa
      containers: [{name: c, ports: [{name: web, containerPort: 8080}, {containerPort: 9090}]}]
    """
    view = view_of(
        doc("Pod/n/p", body + "status: {podIP: 10.0.0.7}", labels="{app: p}"),
        doc("Pod/n/pending", body, labels="{app: p}"),
    )
    assert [w.name for w in view.workloads] == ["p"]
    found = replica(view, "n/p")
    assert (found.address, found.ports, found.service_account, found.tls_mode) == (
        "10.0.0.7",
        {"web": 8080},
        "sa",
        "disabled",
    )


def test_locality_label() -> None:
    found = replica(view_of(workload("n/a", "{istio-locality: eu.west.1}")), "n/a")
    assert found.locality == "eu/west/1"
