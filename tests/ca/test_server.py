"""The authority as a process: `python -m ca`, spoken to as Istio's agents do."""

import json
import signal
import socket
import ssl
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from lateen.envoyapi.istio.v1.auth import ca_pb2, ca_pb2_grpc
from tests.agent.harness import Authority, Process, eventually
from tests.ca.builders import PrivateKey, csr_for, leaf_of, new_key

pytestmark = pytest.mark.e2e
NAME = "lateen-ca.istio-system.svc"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ltn-") as path:
        yield Path(path)


@pytest.fixture
def authority(folder: Path) -> Iterator[Authority]:
    started = Authority(folder)
    started.start()
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def shared_authority() -> Iterator[Authority]:
    with tempfile.TemporaryDirectory(prefix="ltn-") as path:
        started = Authority(Path(path))
        started.start()
        try:
            yield started
        finally:
            started.stop()


def ask(
    authority: Authority,
    csr: bytes,
    *,
    token: str | None = None,
    pair: tuple[bytes, bytes] | None = None,
    seconds: int = 0,
    name: str = NAME,
) -> list[str]:
    """One CreateCertificate; grpc.RpcError when it is refused."""
    key, chain = pair or (None, None)
    credentials = grpc.ssl_channel_credentials(authority.root_file.read_bytes(), key, chain)
    options = [
        ("grpc.ssl_target_name_override", name),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
    with grpc.secure_channel(authority.address, credentials, options) as channel:
        request = ca_pb2.IstioCertificateRequest(csr=csr.decode("latin-1"), validity_duration=seconds)
        answer = ca_pb2_grpc.IstioCertificateServiceStub(channel).CreateCertificate(
            request, metadata=metadata, timeout=60
        )
    return list(answer.cert_chain)


def refusal(authority: Authority, csr: bytes, **credentials: object) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as refused:
        ask(authority, csr, **credentials)  # type: ignore[arg-type]  # passed on as given
    code = refused.value.code()
    assert isinstance(code, grpc.StatusCode)
    return code


def pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def join(authority: Authority, **fields: object) -> tuple[bytes, bytes]:
    """A certificate and its key, by token."""
    key = new_key()
    chain = ask(authority, csr_for(key), token=authority.token("orders", "orders-svc", **fields))  # type: ignore[arg-type]  # as given
    return pem(key), "".join(chain).encode()


def test_join_then_renew_by_certificate_on_the_same_port(shared_authority: Authority) -> None:
    pair = join(shared_authority, dns_names=("orders.orders.svc",))
    key = new_key()
    chain = ask(shared_authority, csr_for(key, "spiffe://cluster.local/ns/evil/sa/evil"), pair=pair, seconds=60)
    leaf = leaf_of(chain)
    assert leaf.public_key() == key.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://cluster.local/ns/orders/sa/orders-svc"
    ]
    assert names.get_values_for_type(x509.DNSName) == ["orders.orders.svc"]
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() == 60 + 120
    assert chain[-1].encode() == shared_authority.root_file.read_bytes()


def test_tokens_that_are_wrong_reused_or_expired_are_refused(authority: Authority) -> None:
    used = authority.token("orders", "orders-svc")
    ask(authority, csr_for(new_key()), token=used)
    expired = authority.token("orders", "orders-svc", ttl=0.001)
    for token in (used, expired, "wrong", "", None):
        assert refusal(authority, csr_for(new_key()), token=token) is grpc.StatusCode.UNAUTHENTICATED
    lines = authority.request("GET", "/metrics")[1].decode().splitlines()
    assert "citadel_server_authentication_failure_count 5" in lines


def test_bad_requests_are_refused_and_leave_the_token_good(shared_authority: Authority) -> None:
    token = shared_authority.token("orders", "orders-svc")
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(shared_authority, b"nonsense", token=token) is invalid
    assert refusal(shared_authority, csr_for(new_key()) + b"\n" * 20_000, token=token) is invalid
    assert refusal(shared_authority, b"x" * 100_000, token=token) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ask(shared_authority, csr_for(new_key()), token=token)


def test_a_certificate_of_another_root_is_refused_by_tls(shared_authority: Authority) -> None:
    with tempfile.TemporaryDirectory(prefix="ltn-") as other_folder:
        other = Authority(Path(other_folder))
        other.start()
        try:
            foreign = join(other)
        finally:
            other.stop()
    token = shared_authority.token("orders", "orders-svc")
    assert refusal(shared_authority, csr_for(new_key()), pair=foreign, token=token) is grpc.StatusCode.UNAVAILABLE
    assert ask(shared_authority, csr_for(new_key()), token=token)


def test_clients_verify_the_authoritys_name(shared_authority: Authority) -> None:
    token = shared_authority.token("orders", "orders-svc")
    assert refusal(shared_authority, csr_for(new_key()), token=token, name="evil.local") is grpc.StatusCode.UNAVAILABLE


@pytest.mark.filterwarnings("ignore:ssl:DeprecationWarning")
def test_plaintext_and_old_tls_are_refused(shared_authority: Authority) -> None:
    with socket.create_connection((shared_authority.host, shared_authority.port), 5) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert not plain.recv(100).startswith(b"\x00")
    context = ssl.create_default_context(cadata=shared_authority.root_file.read_text())
    context.options |= ssl.OP_NO_TLSv1_2 | ssl.OP_NO_TLSv1_3
    context.check_hostname = False
    with (
        socket.create_connection((shared_authority.host, shared_authority.port), 5) as raw,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(raw)


def test_the_inner_server_serves_only_what_came_through_tls(shared_authority: Authority) -> None:
    # Whoever reaches the socket behind the TLS front (only this user can) has no identity there, and none to take.
    inner = shared_authority.socket.with_name("ca.sock.tls")
    assert stat.S_IMODE(inner.stat().st_mode) == 0o600
    metadata = (("authorization", f"Bearer {shared_authority.token('orders', 'orders-svc')}"),)
    with grpc.insecure_channel(f"unix:{inner}") as channel, pytest.raises(grpc.RpcError, match="TLS port"):
        ca_pb2_grpc.IstioCertificateServiceStub(channel).CreateCertificate(
            ca_pb2.IstioCertificateRequest(csr=csr_for(new_key()).decode()), metadata=metadata, timeout=60
        )


def test_after_kill_the_root_and_certificates_stay_good_and_no_token_revives(authority: Authority) -> None:
    pair = join(authority)
    used, unused = authority.token("orders", "orders-svc"), authority.token("orders", "orders-svc")
    ask(authority, csr_for(new_key()), token=used)
    root = authority.root_file.read_bytes()
    authority.stop(signal.SIGKILL)
    authority.start()
    assert authority.root_file.read_bytes() == root
    for token in (used, unused):
        assert refusal(authority, csr_for(new_key()), token=token) is grpc.StatusCode.UNAUTHENTICATED
    assert ask(authority, csr_for(new_key()), pair=pair)


def test_the_log_holds_neither_tokens_nor_keys(authority: Authority) -> None:
    token = authority.token("orders", "orders-svc")
    ask(authority, csr_for(new_key()), token=token)
    refusal(authority, csr_for(new_key()), token=token)
    lines = [json.loads(line) for line in authority.log.splitlines()]
    assert {"root created", "join token minted", "certificate issued", "certificate refused"} <= {
        line["event"] for line in lines
    }
    assert token.partition(".")[2] not in authority.log
    assert "PRIVATE KEY" not in authority.log


def test_a_flood_of_failures_is_counted_not_logged(authority: Authority) -> None:
    for _ in range(60):
        refusal(authority, csr_for(new_key()), token="wrong")
    assert "citadel_server_authentication_failure_count 60" in authority.request("GET", "/metrics")[1].decode()
    assert authority.log.count("certificate refused") <= 40


def test_the_admin_socket_is_private_and_goes_with_the_process(authority: Authority) -> None:
    assert stat.S_IMODE(authority.socket.stat().st_mode) == 0o600
    assert authority.process is not None
    assert authority.process.stop() == 0
    assert not list(authority.folder.glob("*.sock*"))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"service_account": "a"}, "namespace is missing"),
        ({"namespace": "a", "service_account": "../b"}, "not a DNS name"),
        ({"namespace": "a", "service_account": "b", "dns_names": "x"}, "not a list"),
        ({"namespace": "a", "service_account": "b", "dns_names": ["spiffe://x"]}, "not a DNS name"),
        ({"namespace": "a", "service_account": "b", "ttl_seconds": 0}, "ttl_seconds"),
        ({"namespace": "a", "service_account": "b", "ttl_seconds": 1e9}, "ttl_seconds"),
        ({"namespace": "a", "service_account": "b", "admin": True}, "unknown field 'admin'"),
        ([1], "not a JSON object"),
    ],
)
def test_impossible_registrations_are_refused(shared_authority: Authority, body: object, problem: str) -> None:
    status, answer = shared_authority.request("POST", "/v1/tokens", body)
    assert status == 422
    assert problem in json.loads(answer)["error"]


def test_health_and_metrics_are_served(shared_authority: Authority) -> None:
    for path in ("/healthz", "/healthz/live", "/healthz/ready", "/metrics", "/v1/root"):
        assert shared_authority.request("GET", path)[0] == 200


def test_admin_bodies_are_bounded(shared_authority: Authority) -> None:
    assert shared_authority.request("POST", "/v1/tokens", {"namespace": "x" * 20_000})[0] == 413


def test_a_root_that_others_can_read_stops_the_start(authority: Authority) -> None:
    authority.stop()
    (authority.state / "root.pem").chmod(0o644)
    process = authority.launch()
    assert process.child.wait(60) == 3
    assert "mode 0644 lets others read the authority's key" in authority.log
    (authority.state / "root.pem").chmod(0o600)
    authority.start()


def test_two_first_starts_at_once_share_one_root(folder: Path) -> None:
    first, second = Authority(folder), Authority(folder)
    second.socket = folder / "second.sock"
    processes: list[Process] = []
    try:
        processes += [first.launch(), second.launch()]
        roots = [eventually(lambda each=each: each.request("GET", "/v1/root")[1], "a root") for each in (first, second)]  # type: ignore[misc]  # a default is how a loop binds
        assert roots[0] == roots[1]
        assert authority_log_events(folder).count("root created") == 1
    finally:
        for process in processes:
            process.stop()


def test_a_second_authority_on_the_same_port_leaves_the_first_alone(authority: Authority) -> None:
    first = authority.process
    assert first is not None
    second = authority.launch()
    assert second.child.wait(60) == 3
    assert "certificate authority cannot start" in authority.log
    authority.process = first
    assert ask(authority, csr_for(new_key()), token=authority.token("orders", "orders-svc"))


def authority_log_events(folder: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (folder / "ca.log").read_text().splitlines()]
