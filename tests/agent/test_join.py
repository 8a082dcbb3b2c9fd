"""Joining, end to end: the real authority, the real agent, and our own SDS client in place of Envoy."""

import asyncio
import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from lateen.adsclient.tls import SdsIdentity
from tests.agent.harness import Agent, Authority, eventually

pytestmark = pytest.mark.e2e


async def held_by(socket: Path) -> SdsIdentity:
    """What the socket serves, once."""
    async with asyncio.timeout(15), SdsIdentity(socket) as identity:
        return identity


async def test_a_token_becomes_a_certificate_on_the_proxys_socket(authority: Authority, agent: Agent) -> None:
    token = authority.token("default", "orders", dns_names=("orders.default.svc",))
    socket = agent.register("orders", token)
    eventually(lambda: agent.issued("orders") == 1, "a certificate")
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    held = (await held_by(socket)).current
    leaf = x509.load_pem_x509_certificate(held.cert_chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://cluster.local/ns/default/sa/orders"
    ]
    assert names.value.get_values_for_type(x509.DNSName) == ["orders.default.svc"]
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert held.roots_pem == authority.root_file.read_bytes()


async def test_the_key_is_written_nowhere(authority: Authority, agent: Agent) -> None:
    bootstrap = agent.folder / "orders.json"
    token = authority.token("default", "orders")
    socket = agent.register("orders", token, bootstrap_file=str(bootstrap))
    eventually(bootstrap.exists, "the bootstrap")
    key = (await held_by(socket)).current.key_pem
    secret = key.splitlines()[1]
    files = [path for path in agent.folder.rglob("*") if path.is_file()]
    assert {"agent.log", "ca.log", "root.pem", "orders.json", "agent.json"} <= {path.name for path in files}
    assert not [path for path in files if secret in path.read_bytes()]
    assert [path for path in files if b"PRIVATE KEY" in path.read_bytes()] == [authority.state / "root.pem"]
    assert stat.S_IMODE(bootstrap.stat().st_mode) == 0o600
    assert token.partition(".")[2] not in agent.log + authority.log + bootstrap.read_text()


async def test_each_socket_serves_its_own_identity_only(authority: Authority, agent: Agent) -> None:
    for name in ("orders", "payments"):
        agent.register(name, authority.token("default", name))
    eventually(lambda: agent.in_state("serving") == 2, "two identities")
    for name in ("orders", "payments"):
        held = (await held_by(agent.folder / f"{name}.sock")).current
        leaf = x509.load_pem_x509_certificate(held.cert_chain_pem)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
            f"spiffe://cluster.local/ns/default/sa/{name}"
        ]


@pytest.mark.parametrize("kind", ["wrong", "reused", "expired", "other"])
def test_a_bad_token_joins_nobody_until_a_good_one_comes(authority: Authority, agent: Agent, kind: str) -> None:
    if kind == "wrong":
        token = "0123456789abcdef.wrong"
    elif kind == "other":
        token = authority.token("default", "admin")
    else:
        token = authority.token("default", "orders", ttl=60 if kind == "reused" else 0.001)
    if kind == "reused":
        agent.register("first", token, service_account="orders")
        eventually(lambda: agent.issued("first") == 1, "the first use")
    bootstrap = agent.folder / "orders.json"
    agent.register("orders", token, bootstrap_file=str(bootstrap))
    eventually(lambda: agent.failed("orders") == 1, "a refusal")
    assert agent.get("/healthz/ready")[0] == 503
    assert not bootstrap.exists()
    agent.register("orders", authority.token("default", "orders"), bootstrap_file=str(bootstrap))
    eventually(lambda: agent.issued("orders") == 1, "a certificate")
    assert agent.failed("orders") == 1
    eventually(bootstrap.exists, "the bootstrap")
    assert agent.get("/healthz/ready") == (200, "ok\n")


def test_a_proxy_goes_with_its_file(authority: Authority, agent: Agent) -> None:
    bootstrap = agent.folder / "orders.json"
    socket = agent.register("orders", authority.token("default", "orders"), bootstrap_file=str(bootstrap))
    agent.register("payments", authority.token("default", "payments"))
    eventually(lambda: agent.in_state("serving") == 2, "two identities")
    (agent.proxies / "orders.json").unlink()
    eventually(lambda: agent.in_state("serving") == 1, "one identity")
    eventually(lambda: not socket.exists() and not bootstrap.exists(), "its files go with it")


async def test_a_broken_file_changes_nothing(authority: Authority, agent: Agent) -> None:
    socket = agent.register("orders", authority.token("default", "orders"))
    eventually(lambda: agent.in_state("serving") == 1, "an identity")
    (agent.proxies / "orders.json").write_text('{"name": "orders", "oops": 1}')
    (agent.proxies / "new.json").write_text("{")
    agent.register("thief", authority.token("default", "thief"), sds_socket=str(socket))
    eventually(lambda: agent.log.count("proxy file cannot be used") == 3, "three complaints")
    assert "unknown key 'oops'" in agent.log
    assert "belongs to another proxy" in agent.log
    held = (await held_by(socket)).current
    assert b"BEGIN CERTIFICATE" in held.cert_chain_pem
    assert agent.in_state("serving") == 1


@pytest.fixture
def late_authority(folder: Path) -> Iterator[tuple[Authority, Agent]]:
    """An agent that starts before its authority was ever there."""
    authority = Authority(folder)
    agent = Agent(folder, authority)
    agent.start()
    try:
        yield authority, agent
    finally:
        agent.stop()
        authority.stop()


def test_an_agent_that_starts_before_its_authority_joins_when_it_comes(late_authority: tuple[Authority, Agent]) -> None:
    authority, agent = late_authority
    agent.register("orders", "not.yet")
    eventually(lambda: agent.failed("orders") >= 2, "attempts without an authority")
    authority.start()
    agent.register("orders", authority.token("default", "orders"))
    eventually(lambda: agent.issued("orders") == 1, "a certificate")


def test_joins_survive_an_authority_killed_meanwhile(authority: Authority, agent: Agent) -> None:
    authority.stop(signal.SIGKILL)
    agent.register("orders", "lost.token")
    eventually(lambda: agent.failed("orders") >= 2, "attempts without an authority")
    authority.start()
    # A token from before is worth nothing to the new process, and so is asked with once at most.
    agent.register("orders", authority.token("default", "orders"))
    eventually(lambda: agent.issued("orders") == 1, "a certificate")


def test_an_impostor_gets_no_token(authority: Authority, agent: Agent, folder: Path) -> None:
    """Another authority on the same port, with a root of its own: the agent hangs up before it sends anything."""
    authority.stop()
    elsewhere = folder / "other"
    elsewhere.mkdir()
    impostor = Authority(elsewhere)
    impostor.host = authority.host
    impostor.start()
    try:
        agent.register("orders", impostor.token("default", "orders"))
        eventually(lambda: agent.failed("orders") >= 2, "refused handshakes")
        metrics = impostor.request("GET", "/metrics")[1].decode().splitlines()
        assert "citadel_server_csr_count 0" in metrics
        assert agent.issued("orders") == 0
        events = [json.loads(line)["event"] for line in agent.log.splitlines()]
        assert "certificate authority unavailable" in events
    finally:
        impostor.stop()


def test_a_hundred_proxies_join_in_one_small_process(authority: Authority, agent: Agent) -> None:
    for number in range(100):
        agent.register(f"p{number}", authority.token("default", f"p{number}"))
    eventually(lambda: agent.in_state("serving") == 100, "a hundred identities", 60)
    assert agent.process is not None
    status = Path(f"/proc/{agent.process.child.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident < 150_000, "kB: about 60 MB for Python, gRPC and cryptography, 50 kB a proxy"
    assert agent.process.stop() == 0  # with a hundred servers to stop


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_proxy_of_another_user_owns_its_socket_and_bootstrap_also_after_a_restart(
    authority: Authority, agent: Agent
) -> None:
    bootstrap = agent.folder / "orders.json"
    for _ in range(2):
        token = authority.token("default", "orders")
        socket = agent.register("orders", token, owner=1337, bootstrap_file=str(bootstrap))
        eventually(lambda: agent.issued("orders") == 1, "a certificate")
        for path in (socket, bootstrap):
            assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (1337, 0o600)
        agent.stop(signal.SIGKILL)
        agent.start()


def test_the_agent_stops_in_time_and_takes_its_sockets_along(authority: Authority, agent: Agent) -> None:
    socket = agent.register("orders", authority.token("default", "orders"))
    eventually(lambda: agent.issued("orders") == 1, "a certificate")
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        grpc.channel_ready_future(channel).result(5)
        assert agent.process is not None
        assert agent.process.stop() == 0
    assert not socket.exists()
