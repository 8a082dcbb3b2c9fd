"""Two sidecars, real certificates: who may connect to whom, and what the application learns about its peer."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.controlplane.pki import Authority
from tests.controlplane.traffic import Answer, Mesh, Running, Upstream, call, envoy, identity, lease

pytestmark = pytest.mark.timeout(120)

_MESH = """
apiVersion: v1
kind: Service
metadata: {name: server, namespace: default}
spec: {selector: {app: server}, ports: [{name: http, port: 8080}, {name: http-open, port: 8081}, {name: tcp, port: 8082}, {port: 8083, name: any}, {name: http-off, port: 8084}]}
---
apiVersion: v1
kind: Service
metadata: {name: impostor, namespace: default}
spec: {selector: {app: impostor}, ports: [{name: http, port: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: client, namespace: default}
spec: {address: NET.10, labels: {app: client}, serviceAccount: client-sa}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: server-0, namespace: default}
spec: {address: NET.11, labels: {app: server}, serviceAccount: server-sa}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: impostor-0, namespace: default}
spec: {address: NET.11, labels: {app: impostor}, serviceAccount: impostor-sa}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: server, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  mtls: {mode: STRICT}
  portLevelMtls: {"8081": {mode: PERMISSIVE}, "8084": {mode: DISABLE}, "8083": {mode: PERMISSIVE}}
"""


@dataclass
class World:
    """The client's proxy, the server's address, and certificates to try by hand."""

    client: tuple[str, int]
    server: str
    authority: Authority
    folder: Path
    envoy: Running
    serving: Running

    def get(self, port: int, path: str = "/", **headers: str) -> Answer:
        names = {k.replace("_", "-"): v for k, v in headers.items()}
        return call(self.client, f"http://server.default:{port}{path}", headers=names)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    net, folder, authority = lease(), tmp_path_factory.mktemp("mtls"), Authority()
    mesh = Mesh(net, text=_MESH)
    with contextlib.ExitStack() as stack:
        for port in (8080, 8081, 8082, 8083, 8084):
            stack.callback(Upstream(f"app-{port}", (f"{net}.12", port)).close)
        server = mesh.snapshot("server-0", app=f"{net}.12")
        client = mesh.snapshot("client", app=f"{net}.13")
        assert not server.diagnostics
        assert not client.diagnostics
        serving = stack.enter_context(envoy(server, folder / "server", identity(authority, "default", "server-sa")))
        running = stack.enter_context(envoy(client, folder / "client", identity(authority, "default", "client-sa")))
        yield World((f"{net}.10", 15001), f"{net}.11", authority, folder, running, serving)


def _plaintext(world: World, port: int) -> int:
    return call((world.server, port), "/").status


def test_the_server_learns_the_identity_of_the_client(world: World) -> None:
    answer = world.get(8080)
    assert answer.status == 200
    certificate = answer.json["headers"]["x-forwarded-client-cert"]
    assert certificate.startswith("By=spiffe://cluster.local/ns/default/sa/server-sa;Hash=")
    assert certificate.endswith("URI=spiffe://cluster.local/ns/default/sa/client-sa")


def test_the_application_cannot_claim_an_identity(world: World) -> None:
    answer = world.get(8080, x_forwarded_client_cert="URI=spiffe://cluster.local/ns/x/sa/forged")
    assert "forged" not in answer.json["headers"]["x-forwarded-client-cert"]


def test_strict_refuses_plaintext(world: World) -> None:
    with pytest.raises((ConnectionError, http.client.BadStatusLine)):
        _plaintext(world, 8080)


def test_strict_refuses_tls_without_a_certificate(world: World) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["istio-http/1.1", "istio", "http/1.1"])
    with pytest.raises(OSError, match=r"(?i)certificate|reset|alert|EOF"):
        _over_tls(world, 8080, context)


def test_strict_refuses_a_foreign_trust_domain(world: World) -> None:
    context = _client_context(world, world.authority.issue("spiffe://elsewhere/ns/default/sa/client-sa"))
    with pytest.raises(OSError, match=r"(?i)certificate|reset|alert|EOF"):
        _over_tls(world, 8080, context)


def test_a_workload_certificate_is_accepted(world: World) -> None:
    context = _client_context(world, world.authority.workload("default", "other"))
    assert b"200 OK" in _over_tls(world, 8080, context)


def _client_context(world: World, pair: object) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["istio-http/1.1", "istio", "http/1.1"])
    files = world.authority.write(world.folder, pair)  # type: ignore[arg-type]  # a Pair
    context.load_cert_chain(files["cert"], files["key"])
    return context


def _over_tls(world: World, port: int, context: ssl.SSLContext) -> bytes:
    with socket.create_connection((world.server, port), timeout=30) as raw, context.wrap_socket(raw) as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = b""
        while chunk := tls.recv(65536):
            received += chunk
        if not received:
            raise ConnectionResetError("EOF without an answer")
        return received


def test_permissive_accepts_both(world: World) -> None:
    assert _plaintext(world, 8081) == 200
    mutual = world.get(8081)
    assert mutual.status == 200
    assert "client-sa" in mutual.json["headers"]["x-forwarded-client-cert"]


def test_plaintext_has_no_forwarded_certificate(world: World) -> None:
    answer = call((world.server, 8081), "/", headers={"x-forwarded-client-cert": "URI=spiffe://forged"})
    assert "x-forwarded-client-cert" not in answer.json["headers"]


def test_permissive_hands_other_tls_to_the_application(world: World) -> None:
    """The application speaks no TLS, so what it answers is HTTP: the proxy did not end the connection itself."""
    with socket.create_connection((world.server, 8081), timeout=30) as raw, pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(raw, server_hostname="a.example")


def test_disabled_port_is_plaintext_both_ways(world: World) -> None:
    assert _plaintext(world, 8084) == 200
    assert world.get(8084).status == 200


def test_sniffed_port(world: World) -> None:
    assert _plaintext(world, 8083) == 200
    answer = world.get(8083)
    assert answer.status == 200
    assert "client-sa" in answer.json["headers"]["x-forwarded-client-cert"]


def test_tcp_port_by_its_mapped_listener(world: World, tmp_path: Path) -> None:
    from lateen.controlplane.listeners import mapped_ports  # noqa: PLC0415 only here

    view = Mesh(world.server.rpartition(".")[0], text=_MESH).view
    port = mapped_ports(view.services.values())["server.default.svc.cluster.local", 8082]
    answer = call((world.client[0], port), "/direct")
    assert answer.json["name"] == "app-8082"


def test_a_server_with_another_identity_is_refused(world: World) -> None:
    """`impostor` resolves to the server's address, whose certificate does not name impostor-sa."""
    assert call(world.client, "http://impostor.default:8080/").status == 503
    assert world.envoy.counter("outbound|8080||impostor.default.svc.cluster.local.ssl.fail_verify_san") > 0


def test_istio_metrics_of_both_sides(world: World) -> None:
    """Without the bootstrap's Wasm singleton the names carry a prefix; the labels are what is looked at."""
    before = _requests(world.envoy, world.serving)
    assert world.get(8080, "/counted").status == 200
    client, server = (after - seen for after, seen in zip(_requests(world.envoy, world.serving), before, strict=True))
    assert (client, server) == (1, 1)


def _requests(client: Running, server: Running) -> tuple[int, int]:
    return (
        _counted(client, reporter="source", source_workload="client", destination_service_name="server"),
        _counted(
            server,
            reporter="destination",
            source_principal="spiffe://cluster.local/ns/default/sa/client-sa",
            destination_workload="server-0",
            connection_security_policy="mutual_tls",
        ),
    )


def _counted(running: Running, **labels: str) -> int:
    total = 0
    for line in running.get_admin("/stats/prometheus").splitlines():
        text, _, value = line.rpartition(" ")
        if "istio_requests_total{" in text and 'response_code="200"' in text:
            total += int(value) if all(f'{key}="{wanted}"' in text for key, wanted in labels.items()) else 0
    return total
