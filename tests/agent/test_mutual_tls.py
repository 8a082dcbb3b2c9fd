"""Mutual TLS between two real Envoys whose only source of identity is the agent."""

import http.client
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.agent.envoys import (
    CLIENT_PORT,
    SERVER_PORT,
    add_client,
    add_server,
    load_bootstrap,
    render,
)
from tests.agent.harness import Agent, Authority, eventually, http_get, loopback_address, running_envoy

pytestmark = pytest.mark.e2e
ORDERS, PAYMENTS = "spiffe://cluster.local/ns/default/sa/orders", "spiffe://cluster.local/ns/default/sa/payments"


def register(authority: Authority, agent: Agent, name: str, address: str) -> Path:
    """Join a proxy; returns its bootstrap once the agent wrote it."""
    path = agent.folder / f"{name}.bootstrap.json"
    agent.register(name, authority.token("default", name), address=address, bootstrap_file=str(path))
    eventually(path.exists, f"the bootstrap of {name}")
    return path


@contextmanager
def mesh(
    authority: Authority,
    agent: Agent,
    *,
    allowed: str = ORDERS,
    expected: str = PAYMENTS,
    edit: Callable[[str], str] = str,
) -> Iterator[tuple[str, str]]:
    """Orders calls payments; yields their addresses. `edit` changes both configurations as text."""
    client, server = loopback_address(), loopback_address()
    server_bootstrap = load_bootstrap(register(authority, agent, "payments", server))
    client_bootstrap = load_bootstrap(register(authority, agent, "orders", client))
    add_server(server_bootstrap, server, allowed)
    add_client(client_bootstrap, client, server, expected)
    with (
        running_envoy(agent.folder, "payments", edit(render(server_bootstrap)), 15000, server),
        running_envoy(agent.folder, "orders", edit(render(client_bootstrap)), 15000, client),
    ):
        yield client, server


def call(address: str) -> tuple[int, str]:
    """One request through the client's Envoy: the status, and whom the server saw."""
    connection = http.client.HTTPConnection(address, CLIENT_PORT, timeout=30)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        return response.status, response.headers.get("x-peer", "")
    finally:
        connection.close()


def test_the_server_sees_the_callers_verified_identity(authority: Authority, agent: Agent) -> None:
    with mesh(authority, agent) as (client, _):
        eventually(lambda: call(client) == (200, ORDERS), "a call")
        assert http_get(client, 15021, "/healthz/ready")[0] == 200
        status, metrics = http_get(client, 15090, "/stats/prometheus")
        assert status == 200
        assert "envoy_cluster_upstream_cx_total" in metrics


def test_delta_secret_discovery_serves_envoy_as_well(authority: Authority, agent: Agent) -> None:
    def delta(config: str) -> str:
        assert '"api_type": "GRPC"' in config
        return config.replace('"api_type": "GRPC"', '"api_type": "DELTA_GRPC"')

    with mesh(authority, agent, edit=delta) as (client, _):
        eventually(lambda: call(client) == (200, ORDERS), "a call")


def test_secrets_in_files_serve_envoy_as_well(authority: Authority, agent: Agent) -> None:
    # The client takes the roots from a file, through the agent; its own certificate stays the agent's.
    folder = agent.folder / "secrets"
    folder.mkdir()
    (folder / "roots.pem").write_bytes(authority.root_file.read_bytes())

    def from_file(config: str) -> str:
        assert '"name": "ROOTCA"' in config
        return config.replace('"name": "ROOTCA"', f'"name": "file-root:{folder}/roots.pem"')

    with mesh(authority, agent, edit=from_file) as (client, _):
        eventually(lambda: call(client) == (200, ORDERS), "a call")


def test_plaintext_is_refused(authority: Authority, agent: Agent) -> None:
    with mesh(authority, agent) as (client, server):
        eventually(lambda: call(client)[0] == 200, "a call")
        with socket.create_connection((server, SERVER_PORT), 5) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            try:
                answer = plain.recv(100)
            except ConnectionResetError:
                answer = b""
        assert answer == b""


def test_a_server_with_another_identity_is_not_called(authority: Authority, agent: Agent) -> None:
    with mesh(authority, agent, expected="spiffe://cluster.local/ns/default/sa/other") as (client, _):
        assert eventually(lambda: call(client), "an answer")[0] == 503
        assert (
            "ssl.fail_verify_san: 1" in http_get(client, 15000, "/stats?filter=cluster.server.ssl.fail_verify_san")[1]
        )


def test_a_client_with_another_identity_is_not_served(authority: Authority, agent: Agent) -> None:
    with mesh(authority, agent, allowed="spiffe://cluster.local/ns/default/sa/other") as (client, server):
        assert eventually(lambda: call(client), "an answer")[0] == 503
        stats = http_get(server, 15000, "/stats?filter=ssl.fail_verify_san")[1]
        assert any(int(line.rpartition(" ")[2]) > 0 for line in stats.splitlines())


@pytest.fixture
def short_lived(folder: Path) -> Iterator[tuple[Authority, Agent]]:
    """Certificates live 12 s: renewed after 6, which leaves a starved machine 6 more to do it in."""
    authority = Authority(folder, ttl="12s")
    authority.start()
    agent = Agent(folder, authority)
    agent.start()
    try:
        yield authority, agent
    finally:
        agent.stop()
        authority.stop()


class Traffic:
    """Calls without pause until told to stop; counts what was not a 200 from the right peer."""

    def __init__(self, address: str) -> None:
        self.address, self.calls, self.failures = address, 0, list[str]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self.calls += 1
            try:
                result = call(self.address)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            else:
                if result != (200, ORDERS):
                    self.failures.append(repr(result))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_rotation_under_traffic_fails_no_request(short_lived: tuple[Authority, Agent]) -> None:
    # Every request opens a connection of its own: each handshake uses what was served last.
    authority, agent = short_lived
    with mesh(authority, agent) as (client, _):
        eventually(lambda: call(client)[0] == 200, "a call")
        with Traffic(client) as traffic:
            began = time.monotonic()
            eventually(lambda: min(agent.issued("orders"), agent.issued("payments")) >= 3, "two rotations")
            # Past the life of the first certificate: whoever still used it would fail.
            eventually(lambda: time.monotonic() - began > 13, "the first certificate's end")
        assert traffic.failures == []
        assert traffic.calls > 100
        assert context_updates(client) >= 2


def test_authority_and_agent_killed_and_restarted_under_traffic(short_lived: tuple[Authority, Agent]) -> None:
    authority, agent = short_lived
    with mesh(authority, agent) as (client, _):
        eventually(lambda: call(client)[0] == 200, "a call")
        with Traffic(client) as traffic:
            authority.stop(signal.SIGKILL)
            failed = agent.failed("orders")
            eventually(lambda: agent.failed("orders") > failed, "a renewal that finds no authority")
            authority.start()
            issued = agent.issued("orders")
            eventually(lambda: agent.issued("orders") > issued, "a renewal by certificate")
            issued = agent.issued("payments")
            eventually(lambda: agent.issued("payments") > issued, "a renewal by certificate")
            agent.stop(signal.SIGKILL)
            for name, address in (("orders", client), ("payments", agent_address(agent, "payments"))):
                agent.register(
                    name,
                    authority.token("default", name),
                    address=address,
                    bootstrap_file=str(agent.folder / f"{name}.bootstrap.json"),
                )
            agent.start()
            eventually(lambda: agent.in_state("serving") == 2, "both joined anew")
            eventually(
                lambda: min(agent.issued("orders"), agent.issued("payments")) >= 2, "a rotation of the new agent"
            )
        assert traffic.failures == []
        assert traffic.calls > 100


def context_updates(address: str) -> int:
    """How often the client's Envoy took over a secret from SDS."""
    stats = http_get(address, 15000, "/stats?filter=cluster.server.*ssl_context_update_by_sds")[1]
    return sum(int(line.rpartition(" ")[2]) for line in stats.splitlines())


def agent_address(agent: Agent, name: str) -> str:
    return load_bootstrap(agent.folder / f"{name}.bootstrap.json").node.id.split("~")[1]
