"""netns mode: unmodified applications, transparent capture, a VIP for each Service. Root only."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import call
from tests.e2e.running import CHARGE, PAYMENTS, RunningMesh, copy_of, reaper_of, start, until, wait_for_end

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.xdist_group("e2e")]


@pytest.fixture(scope="module")
def netns_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """The example in namespaces; ended by the last test, or here."""
    home = tmp_path_factory.mktemp("netns")
    running = start(copy_of(PAYMENTS, home), home, "--mode", "netns")
    yield running
    if running.process.poll() is None:
        running.stop()


def _inside(mesh: RunningMesh, replica: str, *command: str) -> "subprocess.CompletedProcess[str]":
    prefix = ("ip", "netns", "exec", mesh.replica(replica).netns)
    return subprocess.run([*prefix, *command], capture_output=True, text=True, check=False, timeout=60)


def _curl(mesh: RunningMesh, replica: str, *arguments: str) -> tuple[str, str]:
    """Status and body, as an unmodified client in the replica's namespace sees them."""
    done = _inside(mesh, replica, "curl", "-s", "-m", "10", "-w", "\n%{http_code}", *arguments)
    body, _, status = done.stdout.rpartition("\n")
    return status, body


def test_an_unmodified_client_is_captured_and_identified(netns_mesh: RunningMesh) -> None:
    status, body = _curl(netns_mesh, "orders-0", "-X", "POST", "-H", "x-tenant: acme", CHARGE)
    assert status == "200"
    assert (
        "URI=spiffe://cluster.local/ns/orders/sa/orders-svc" in json.loads(body)["headers"]["x-forwarded-client-cert"]
    )


def test_the_application_calls_by_name_without_a_proxy_variable(netns_mesh: RunningMesh) -> None:
    environments = [
        Path(f"/proc/{pid}/environ").read_bytes()
        for pid, line in netns_mesh.command_lines().items()
        if "demo_app" in line
    ]
    assert len(environments) == 6
    assert not [text for text in environments if b"http_proxy" in text.lower()]
    answer = call("POST", f"{netns_mesh.gateway}/v1/orders", {"x-tenant": "globex", "x-test-cohort": "canary"})
    assert (answer.status, answer.json["charge"]["body"]["version"]) == (200, "v2")


@pytest.mark.parametrize(
    "host", ["payments-api.payments", "payments-api.payments.svc", "payments-api.payments.svc.cluster.local"]
)
def test_every_form_of_a_service_name_leads_to_its_vip(netns_mesh: RunningMesh, host: str) -> None:
    hosts = _inside(netns_mesh, "orders-0", "cat", "/etc/hosts").stdout
    (vip,) = [line.split()[0] for line in hosts.splitlines() if host in line.split()]
    assert vip.startswith("10.21")
    assert _curl(netns_mesh, "orders-0", "-X", "POST", "-H", "x-tenant: acme", f"http://{host}:8080/v1/charge")[0] in {
        "200",
        "429",
    }


def test_the_short_name_is_for_the_own_namespace_only(netns_mesh: RunningMesh) -> None:
    assert _inside(netns_mesh, "payments-api-v1-0", "getent", "ahostsv4", "payments-api").returncode == 0
    assert _inside(netns_mesh, "orders-0", "getent", "ahostsv4", "payments-api").returncode != 0


def test_policies_hold_for_captured_traffic(netns_mesh: RunningMesh) -> None:
    assert _curl(netns_mesh, "ledger-0", "-X", "POST", "-H", "x-tenant: acme", CHARGE)[0] == "403"
    assert _curl(netns_mesh, "orders-0", "-X", "POST", CHARGE)[0] == "403"
    assert call("GET", f"{netns_mesh.gateway}/v1/charge", netns_mesh.bearer()).status == 200


def test_the_application_cannot_be_reached_past_its_sidecar(netns_mesh: RunningMesh) -> None:
    address = netns_mesh.replica("payments-api-v1-0").address
    assert call("GET", f"http://{address}:8080/v1/charge").status == 0, "plaintext from the host is refused"
    assert _curl(netns_mesh, "ledger-0", f"http://{address}:8080/v1/charge")[0] == "503", (
        "by its address it is no service of the mesh: plaintext, as in Istio, and refused by STRICT"
    )
    assert call("GET", f"http://{netns_mesh.replica('ledger-0').address}:8080/x").status == 200, "PERMISSIVE"


def test_a_service_can_call_itself(netns_mesh: RunningMesh) -> None:
    status, body = _curl(netns_mesh, "ledger-0", "http://ledger:8080/self")
    assert (status, json.loads(body)["replica"]) == ("200", "ledger-0")


def test_envoy_runs_without_privileges(netns_mesh: RunningMesh) -> None:
    envoys = [pid for pid, line in netns_mesh.command_lines().items() if "--config-path" in line]
    assert len(envoys) == 7
    for pid in envoys:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = {line.partition(":")[0]: line.partition(":")[2].split() for line in status.splitlines()}
        assert fields["Uid"] == ["1337"] * 4
        assert int(fields["CapEff"][0], 16) == 0


def test_replicas_can_be_added(netns_mesh: RunningMesh) -> None:
    ledger = "name: ledger\n  namespace: legacy-system\nspec:\n  replicas: 1"

    def replicas() -> set[str]:
        answers = [_curl(netns_mesh, "orders-0", "http://ledger.legacy-system:8080/x") for _ in range(10)]
        return {json.loads(body)["replica"] for status, body in answers if status == "200"}

    with netns_mesh.edited("workloads.yaml", (ledger, ledger.replace("replicas: 1", "replicas: 2"))):
        until(lambda: replicas() == {"ledger-0", "ledger-1"})
    until(lambda: "stopped legacy-system/ledger-1" in netns_mesh.output)
    assert replicas() == {"ledger-0"}


def test_kill_9_leaves_no_process_no_namespace_and_no_link(netns_mesh: RunningMesh) -> None:
    processes = {**netns_mesh.command_lines(), reaper_of(netns_mesh.process.pid): "reaper"}
    mark = netns_mesh.info.id
    assert [name for name in os.listdir("/run/netns") if mark in name]  # noqa: PTH208
    os.kill(netns_mesh.process.pid, signal.SIGKILL)
    netns_mesh.process.wait(60)
    wait_for_end(processes)
    until(lambda: not Path(netns_mesh.info.logs).parent.exists())
    assert not [name for name in os.listdir("/run/netns") if mark in name]  # noqa: PTH208
    assert not [path for path in Path("/etc/netns").glob("*") if mark in path.name]
    links = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"lt{mark}" not in links
