"""Every service of the mesh, killed or frozen, one after the other, with traffic running."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.client import Client, call
from tests.e2e.running import CHARGE, RunningMesh, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]


@contextmanager
def _load(mesh: RunningMesh) -> Iterator[Counter[int]]:
    """Steady calls; the statuses are complete when the block ends."""
    statuses = Counter[int]()
    stop = threading.Event()

    def work() -> None:
        client = Client(mesh.proxy("orders"))
        headers = mesh.bearer()
        while not stop.is_set():
            statuses[client.call("GET", CHARGE, headers).status] += 1
            time.sleep(0.005)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


@pytest.mark.parametrize(
    ("process", "words"),
    [
        pytest.param("controlplane", ("lateen.controlplane",), id="control plane"),
        pytest.param("ca", (" -m ca ",), id="ca"),
        pytest.param("agent", ("lateen.agent",), id="agent"),
    ],
)
def test_no_request_fails_while_a_part_of_the_control_side_restarts(
    mesh: RunningMesh, process: str, words: tuple[str, ...]
) -> None:
    before = mesh.pid(*words)
    with _load(mesh) as statuses:
        until(lambda: statuses[200] > 50)
        os.kill(before, signal.SIGKILL)
        until(lambda: _restarted(mesh, words, before))
        until(lambda: _connected(mesh), what="every proxy is back in sync")
        time.sleep(0.5)
    assert set(statuses) == {200}
    assert sum(statuses.values()) > 100
    assert f"{process} was killed by signal 9, it starts again" in mesh.output


def test_the_agent_and_the_ca_can_go_together(mesh: RunningMesh) -> None:
    agent, authority = mesh.pid("lateen.agent"), mesh.pid(" -m ca ")
    served = mesh.log("agent").count("certificate served")
    with _load(mesh) as statuses:
        os.kill(authority, signal.SIGKILL)
        os.kill(agent, signal.SIGKILL)
        until(lambda: _restarted(mesh, ("lateen.agent",), agent) and _restarted(mesh, (" -m ca ",), authority))
        everyone = len(mesh.info.replicas) + 3
        until(
            lambda: mesh.log("agent").count("certificate served") >= served + everyone, what="new certificates for all"
        )
        until(lambda: _connected(mesh))
    assert set(statuses) == {200}


def _restarted(mesh: RunningMesh, words: tuple[str, ...], before: int) -> bool:
    return any(pid != before and all(word in line for word in words) for pid, line in mesh.command_lines().items())


def _connected(mesh: RunningMesh) -> bool:
    try:
        proxies = mesh.proxies()
    except OSError:
        return False
    return all(r.name in proxies and proxies[r.name]["synced"] for r in mesh.info.replicas)


def test_the_control_plane_still_pushes_after_its_restart(mesh: RunningMesh) -> None:
    with mesh.edited("traffic-canary-payments.yaml", ("weight: 90", "weight: 0"), ("weight: 10\n", "weight: 100\n")):
        until(
            lambda: {call("GET", CHARGE, mesh.bearer(), proxy=mesh.proxy("orders")).version for _ in range(5)} == {"v2"}
        )


def test_nothing_unchecked_gets_through_while_ext_authz_is_down(mesh: RunningMesh) -> None:
    url = f"{mesh.gateway}/v1/charge"
    assert call("GET", url, mesh.bearer()).status == 200
    with mesh.frozen("-m extauthz"):
        assert {call("GET", url, headers).status for headers in (mesh.bearer(), {})} <= {403, 503}
    until(lambda: call("GET", url, mesh.bearer()).status == 200, what="it answers again")
    os.kill(mesh.pid("-m extauthz"), signal.SIGKILL)
    seen = Counter[int]()

    def recovered() -> bool:
        assert call("GET", url).status != 200, "a request without a token got through"
        status = call("GET", url, mesh.bearer()).status
        seen[status] += 1
        return status == 200

    until(recovered, what="ext_authz has restarted")
    assert set(seen) <= {200, 403, 503}


def test_a_killed_application_comes_back(mesh: RunningMesh) -> None:
    address = mesh.replica("ledger-0").app_address
    pids = [pid for pid, line in mesh.command_lines().items() if "demo_app" in line and _listens_at(pid, address)]
    os.kill(pids[0], signal.SIGKILL)
    url = "http://ledger.legacy-system.svc.cluster.local:8080/x"
    until(lambda: call("GET", url, proxy=mesh.proxy("orders")).status == 200)


def _listens_at(pid: int, address: str) -> bool:
    with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
        return f"HOST={address}".encode() in file.read().split(b"\0")


def test_a_killed_envoy_comes_back_with_its_configuration(mesh: RunningMesh) -> None:
    ledger = mesh.replica("ledger-0")
    os.kill(mesh.pid("envoy", "--config-path", f"/{ledger.address.rpartition('.')[2]}.json"), signal.SIGKILL)
    url = "http://ledger.legacy-system.svc.cluster.local:8080/x"
    until(lambda: call("GET", url, proxy=mesh.proxy("orders")).status == 200)
    until(lambda: _connected(mesh))
