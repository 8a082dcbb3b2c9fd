"""Mutual TLS: who the server sees, and who is not let in."""

import socket
import ssl
from pathlib import Path

import pytest

from tests.e2e.client import call
from tests.e2e.running import CHARGE, RunningMesh, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]


def test_the_server_sees_the_callers_identity(mesh: RunningMesh) -> None:
    answer = call("GET", CHARGE, mesh.bearer(), proxy=mesh.proxy("orders"))
    peer = answer.json["headers"]["x-forwarded-client-cert"]
    assert "URI=spiffe://cluster.local/ns/orders/sa/orders-svc" in peer
    assert "By=spiffe://cluster.local/ns/payments/sa/payments-api" in peer


def test_a_forged_identity_header_is_replaced(mesh: RunningMesh) -> None:
    forged = {"x-forwarded-client-cert": "By=x;URI=spiffe://cluster.local/ns/orders/sa/admin"}
    answer = call("GET", CHARGE, {**mesh.bearer(), **forged}, proxy=mesh.proxy("ledger"))
    assert "sa/admin" not in answer.json["headers"]["x-forwarded-client-cert"]


@pytest.mark.parametrize("name", ["orders-0", "payments-api-v1-0", "payments-api-v2-1"])
def test_plaintext_is_refused_where_mtls_is_strict(mesh: RunningMesh, name: str) -> None:
    answer = call("GET", f"http://{mesh.replica(name).address}:8080/v1/charge", mesh.bearer())
    assert answer.status == 0
    assert "Reset" in answer.text or "Disconnected" in answer.text


def test_plaintext_is_accepted_where_mtls_is_permissive(mesh: RunningMesh) -> None:
    answer = call("GET", f"http://{mesh.replica('ledger-0').address}:8080/entries")
    assert answer.status == 200
    assert "x-forwarded-client-cert" not in answer.json["headers"]


def test_the_mesh_uses_mtls_where_plaintext_would_do(mesh: RunningMesh) -> None:
    url = "http://ledger.legacy-system.svc.cluster.local:8080/entries"
    answer = call("GET", url, proxy=mesh.proxy("orders"))
    assert answer.status == 200
    assert "sa/orders-svc" in answer.json["headers"]["x-forwarded-client-cert"]


def test_tls_without_a_certificate_of_the_mesh_is_refused(mesh: RunningMesh) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["istio", "http/1.1"])
    address = (mesh.replica("payments-api-v1-0").address, 8080)
    with socket.create_connection(address, timeout=5) as plain:
        assert _bytes_over_tls(context, plain) == b""


def _bytes_over_tls(context: ssl.SSLContext, plain: socket.socket) -> bytes:
    """What a request gets; TLS 1.3 tells a client of its missing certificate only when it reads."""
    try:
        with context.wrap_socket(plain) as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            return secure.recv(100)
    except (ssl.SSLError, ConnectionError):
        return b""


def test_strict_can_be_relaxed_and_tightened_live(mesh: RunningMesh) -> None:
    url = f"http://{mesh.replica('ledger-0').address}:8080/entries"
    with mesh.edited("peer-authentication.yaml", ("mode: PERMISSIVE", "mode: STRICT")):
        until(lambda: call("GET", url).status == 0, what="ledger refuses plaintext")
    until(lambda: call("GET", url).status == 200, what="ledger accepts plaintext again")


def test_each_proxy_is_bound_to_its_own_identity(mesh: RunningMesh) -> None:
    proxies = mesh.proxies()
    for replica in mesh.info.replicas:
        identity = f"spiffe://cluster.local/ns/{replica.namespace}/sa/{replica.service_account}"
        assert proxies[replica.name]["identity"] == identity


def test_no_private_key_of_a_workload_is_on_disk(mesh: RunningMesh) -> None:
    run = Path(mesh.info.logs).parent
    keys = [str(path) for path in run.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert keys == []


def test_https_at_the_gateway_has_the_certificate_made_at_start(mesh: RunningMesh) -> None:
    context = ssl.create_default_context(cafile=mesh.info.gateway_ca)
    host, _, port = mesh.info.gateway_https_url.removeprefix("https://").partition(":")
    token = mesh.token()
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="api.payments.corp.com") as secure,
    ):
        lines = (
            "GET /v1/charge HTTP/1.1",
            "host: api.payments.corp.com",
            f"authorization: Bearer {token}",
            "connection: close",
        )
        secure.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        assert secure.recv(12) == b"HTTP/1.1 200"
