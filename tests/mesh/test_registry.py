import pytest

from lateen.mesh.services import Endpoint, Protocol, Resolution, Service
from lateen.mesh.view import MeshView
from tests.mesh.views import doc, replica, service, view_of, workload

A = "a.n.svc.cluster.local"


def _endpoints(view: MeshView, host: str, number: int = 80, **labels: str) -> tuple[Endpoint, ...]:
    found = view.services[host]
    port = found.port(number)
    assert port is not None
    return view.endpoints(found, port, labels)


def _addresses(view: MeshView, host: str, number: int = 80, **labels: str) -> list[tuple[str, int]]:
    return [(endpoint.address, endpoint.port) for endpoint in _endpoints(view, host, number, **labels)]


def _entry(body: str, key: str = "n/se", **kwargs: str) -> str:
    return doc(f"ServiceEntry/{key}", f"spec: {{{body}}}", **kwargs)


def test_a_kubernetes_service_selects_workloads_of_its_namespace() -> None:
    view = view_of(
        service("n/a"),
        workload("n/w1", "{app: a, v: '1'}", "10.0.0.1"),
        workload("n/w2", "{app: a, v: '2'}", "10.0.0.2"),
        workload("n/other", "{app: b}", "10.0.0.3"),
        workload("m/w1", "{app: a}", "10.0.0.4"),
    )
    assert _addresses(view, A) == [("10.0.0.1", 8080), ("10.0.0.2", 8080)]
    assert _addresses(view, A, v="2") == [("10.0.0.2", 8080)]
    assert _addresses(view, A, v="3") == []
    assert _endpoints(view, A)[0].service_account_identity == "spiffe://cluster.local/ns/n/sa/sa"
    assert _endpoints(view, A)[0].tls_mode == "istio"
    found = view.services[A]
    assert view.services_of(replica(view, "n/w1")) == ((found, found.ports[0], 8080),)
    assert view.services_of(replica(view, "n/other")) == ()


@pytest.mark.parametrize(
    ("port", "workload_ports", "expected"),
    [
        ("{port: 80, name: http, targetPort: 8080}", "{http: 9000}", 8080),
        ("{port: 80, name: http, targetPort: web}", "{web: 9000}", 9000),
        ("{port: 80, name: http, targetPort: web}", "{http: 9000}", None),
        ("{port: 80, name: http}", "{http: 9000}", 9000),
        ("{port: 80, name: http}", "{web: 9000}", 80),
    ],
)
def test_target_ports(port: str, workload_ports: str, expected: int | None) -> None:
    view = view_of(service("n/a", ports=f"[{port}]"), workload("n/w", extra=f"ports: {workload_ports}"))
    assert [e.port for e in _endpoints(view, A)] == ([] if expected is None else [expected])
    assert [target for _, _, target in view.services_of(replica(view, "n/w"))] == (
        [] if expected is None else [expected]
    )


def test_a_service_without_selector_has_no_endpoints() -> None:
    view = view_of(doc("Service/n/a", "spec: {ports: [{port: 80}]}"), workload("n/w"))
    assert _addresses(view, A) == []


def test_attributes_of_a_kubernetes_service() -> None:
    spec = "spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], ports: [{port: 80, appProtocol: grpc}]}"
    view = view_of(
        doc("Service/n/a", spec, annotations="{networking.istio.io/exportTo: 'm, .'}"),
        doc("Service/n/headless", "spec: {clusterIP: None, selector: {app: a}, ports: [{port: 80}]}"),
    )
    found = view.services[A]
    assert found.addresses == ("10.96.0.1", "fd00::1")
    assert found.export_to == {"m", "."}
    assert found.ports[0].protocol is Protocol.GRPC
    assert (found.resolution, found.external, found.headless) == (Resolution.CLIENT_SIDE, False, False)
    headless = view.services["headless.n.svc.cluster.local"]
    assert headless.headless
    assert not headless.addresses
    assert headless.export_to == {"*"}


def test_external_name_is_an_alias_of_a_service_or_a_dns_name() -> None:
    def alias(name: str, target: str) -> str:
        return doc(f"Service/n/{name}", f"spec: {{type: ExternalName, externalName: {target}, ports: [{{port: 80}}]}}")

    view = view_of(
        service("n/a"),
        workload("n/w"),
        alias("inside", A),
        alias("outside", "www.example.com"),
        alias("chain", "inside.n.svc.cluster.local"),
    )
    assert _addresses(view, "inside.n.svc.cluster.local") == [("10.0.0.1", 8080)]
    assert _addresses(view, "outside.n.svc.cluster.local") == [("www.example.com", 80)]
    assert _addresses(view, "chain.n.svc.cluster.local") == []
    assert _endpoints(view, "outside.n.svc.cluster.local")[0].tls_mode == "disabled"


def test_a_static_service_entry() -> None:
    view = view_of(
        _entry(
            "hosts: [A.Corp], location: MESH_INTERNAL, resolution: STATIC, addresses: [240.0.0.1],"
            " ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS, targetPort: 8443}],"
            " endpoints: [{address: 1.1.1.1, ports: {http: 8080}, labels: {v: '1'}, serviceAccount: sa, locality: r/z, weight: 2},"
            " {address: 2.2.2.2}], subjectAltNames: [san]"
        )
    )
    found = view.services["a.corp"]
    assert (found.addresses, found.external, found.subject_alt_names) == (("240.0.0.1",), False, ("san",))
    assert found.resolution is Resolution.CLIENT_SIDE
    assert _addresses(view, "a.corp") == [("1.1.1.1", 8080), ("2.2.2.2", 80)]
    assert _addresses(view, "a.corp", 443) == [("1.1.1.1", 8443), ("2.2.2.2", 8443)]
    assert _addresses(view, "a.corp", v="1") == [("1.1.1.1", 8080)]
    first, second = _endpoints(view, "a.corp")
    assert (first.tls_mode, first.service_account_identity, first.locality, first.weight) == (
        "istio",
        "spiffe://cluster.local/ns/n/sa/sa",
        "r/z",
        2,
    )
    assert (second.tls_mode, second.service_account_identity) == ("disabled", "")


def test_an_external_service_never_gets_automatic_mutual_tls() -> None:
    view = view_of(
        _entry(
            "hosts: [a.corp], resolution: STATIC, ports: [{number: 80, name: http}],"
            " endpoints: [{address: 1.1.1.1, serviceAccount: sa}]"
        )
    )
    assert view.services["a.corp"].external
    assert _endpoints(view, "a.corp")[0].tls_mode == "disabled"


@pytest.mark.parametrize(
    ("resolution", "expected", "addresses"),
    [
        ("NONE", Resolution.PASSTHROUGH, []),
        ("STATIC", Resolution.CLIENT_SIDE, []),
        ("DNS", Resolution.DNS, [("a.corp", 8080)]),
        ("DNS_ROUND_ROBIN", Resolution.DNS_ROUND_ROBIN, [("a.corp", 8080)]),
        ("DYNAMIC_DNS", Resolution.DYNAMIC_DNS, []),
    ],
)
def test_resolutions_without_endpoints(resolution: str, expected: Resolution, addresses: list[tuple[str, int]]) -> None:
    view = view_of(
        _entry(f"hosts: [a.corp], resolution: {resolution}, ports: [{{number: 80, name: http, targetPort: 8080}}]")
    )
    assert view.services["a.corp"].resolution is expected
    assert _addresses(view, "a.corp") == addresses


def test_dns_endpoints_are_names() -> None:
    view = view_of(
        _entry("hosts: [a.corp], resolution: DNS, ports: [{number: 80, name: http}], endpoints: [{address: x.corp}]")
    )
    assert _addresses(view, "a.corp") == [("x.corp", 80)]


def test_a_service_entry_selects_workload_entries_and_pods() -> None:
    pod = doc(
        "Pod/n/p",
        "spec: {containers: [{name: c, ports: [{name: http, containerPort: 7}]}]}\nstatus: {podIP: 10.0.0.9}",
        labels="{app: a}",
    )
    view = view_of(
        _entry(
            "hosts: [a.corp], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http, targetPort: 8080}], workloadSelector: {labels: {app: a}}"
        ),
        workload("n/w", extra="ports: {http: 9000}, serviceAccount: sa"),
        workload("m/w", address="10.0.0.2"),
        pod,
    )
    assert _addresses(view, "a.corp") == [("10.0.0.9", 8080), ("10.0.0.1", 9000)]
    assert [s.hostname for s, _, _ in view.services_of(replica(view, "n/w"))] == ["a.corp"]


def test_entries_for_one_host_are_one_service_and_the_older_has_a_port() -> None:
    def one(name: str, created: str, ports: str, address: str) -> str:
        body = f"hosts: [a.corp], resolution: STATIC, ports: [{ports}], endpoints: [{{address: {address}}}]"
        return _entry(body, f"n/{name}", created=created)

    view = view_of(
        one("young", "2026-02-01T00:00:00Z", "{number: 80, name: http}, {number: 81, name: x}", "2.2.2.2"),
        one("old", "2026-01-01T00:00:00Z", "{number: 80, name: http}, {number: 443, name: tls}", "1.1.1.1"),
    )
    assert [port.number for port in view.services["a.corp"].ports] == [80, 443, 81]
    assert _addresses(view, "a.corp", 80) == [("1.1.1.1", 80)]
    assert _addresses(view, "a.corp", 81) == [("2.2.2.2", 81)]


def test_an_entry_only_decorates_a_kubernetes_service_of_its_namespace() -> None:
    body = f"hosts: [{A}], resolution: STATIC, ports: [{{number: 90, name: http}}], endpoints: [{{address: 6.6.6.6}}], subjectAltNames: [san]"
    view = view_of(service("n/a"), workload("n/w"), _entry(body), _entry(body, "m/se"))
    own, other = view.services_named(A)
    assert (own.namespace, own.subject_alt_names, [p.number for p in own.ports]) == ("n", ("san",), [80])
    assert other.namespace == "m"
    assert view.services[A] is own, "no other namespace can take the name of a Kubernetes Service"
    seen = {namespace: _namespace(view.service_for(namespace, A)) for namespace in ("n", "x", "m")}
    assert seen == {"n": "n", "x": "n", "m": "m"}


def _namespace(found: Service | None) -> str:
    assert found is not None
    return found.namespace


def test_of_equal_hosts_the_oldest_exported_one_counts() -> None:
    def one(key: str, created: str, export: str) -> str:
        return _entry(f"hosts: [a.corp], ports: [{{number: 80, name: http}}], exportTo: {export}", key, created=created)

    view = view_of(
        one("x/private", "2026-01-01T00:00:00Z", "['.']"),
        one("y/old", "2026-01-02T00:00:00Z", "['*']"),
        one("z/young", "2026-01-03T00:00:00Z", "['*']"),
    )
    assert {ns: _namespace(view.service_for(ns, "a.corp")) for ns in "xyzn"} == {"x": "x", "y": "y", "z": "z", "n": "y"}


def test_a_peer_authentication_that_disables_mutual_tls_is_obeyed_by_clients() -> None:
    view = view_of(
        service("n/a", ports="[{port: 80, name: http, targetPort: 8080}, {port: 81, name: http-x, targetPort: 8081}]"),
        workload("n/w"),
        doc(
            "PeerAuthentication/n/pa",
            "spec: {selector: {matchLabels: {app: a}}, portLevelMtls: {8081: {mode: DISABLE}}}",
        ),
    )
    assert [e.tls_mode for number in (80, 81) for e in _endpoints(view, A, number)] == ["istio", "disabled"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("{}", 2),
        ("{conditions: [{type: Healthy, status: 'True'}]}", 2),
        ("{conditions: [{type: Other, status: 'False'}]}", 2),
        ("{conditions: odd}", 2),
        ("{conditions: [{type: Healthy, status: 'False'}]}", 1),
    ],
)
def test_an_unhealthy_replica_gets_no_traffic(status: str, expected: int) -> None:
    view = view_of(service("n/a"), workload("n/w1"), workload("n/w2", address="10.0.0.2") + f"status: {status}\n")
    assert len(_addresses(view, A)) == expected
    assert len(view.services_of(replica(view, "n/w2"))) == 1, "its own proxy serves it all the same"
