from pathlib import Path

from lateen.local.report import fill_in, render_started, variables
from lateen.local.rundir import ReplicaInfo, RunInfo
from lateen.local.source import read_directory

EXAMPLE = Path(__file__).parents[2] / "envoy-configs" / "payments"


def _replica(name: str, address: str, kind: str = "sidecar", netns: str = "") -> ReplicaInfo:
    workload = name.rpartition("-")[0]
    proxy = f"http://{address}:15001" if kind == "sidecar" else ""
    return ReplicaInfo(name, "ns", workload, kind, address, address, "sa", proxy, netns)


INFO = RunInfo(
    id="abc",
    pid=1,
    directory="/d",
    mode="loopback",
    control_plane="unix:///run/api.sock",
    logs="/run/logs",
    gateway_url="http://127.0.0.9:8080",
    replicas=(
        _replica("orders-0", "127.0.0.1"),
        _replica("orders-1", "127.0.0.2"),
        _replica("gw-istio-0", "127.0.0.9", "router"),
    ),
)


def test_the_environment_of_exec() -> None:
    found = variables(INFO)
    assert found["LATEEN_GATEWAY_URL"] == "http://127.0.0.9:8080"
    assert found["LATEEN_CONTROL_PLANE"] == "unix:///run/api.sock"
    assert found["LATEEN_PROXY_ORDERS"] == found["LATEEN_PROXY_ORDERS_NS"] == "http://127.0.0.1:15001"
    assert "LATEEN_PROXY_GW_ISTIO" not in found
    assert "LATEEN_GATEWAY_HTTPS_URL" not in found


def test_variables_are_filled_in_longest_name_first() -> None:
    assert fill_in("$A $AB ${X} $(seq 2)", {"A": "1", "AB": "2"}) == "1 2 ${X} $(seq 2)"


def test_the_printed_commands_have_no_variable_left() -> None:
    text = render_started(INFO, {}, read_directory(EXAMPLE).local.try_it, 1.0, alone=True, colour=False)
    commands = [line for line in text.splitlines() if line.startswith(("  curl", "  for"))]
    assert len(commands) == 5
    assert not [line for line in commands if "$LATEEN" in line]
    assert "NOT CONNECTED" in text


def test_beside_another_mesh_the_commands_say_which_one_is_meant() -> None:
    tries = read_directory(EXAMPLE).local.try_it
    assert "LATEEN_CONTROL_PLANE" not in render_started(INFO, {}, tries, 1.0, alone=True, colour=False)
    assert "LATEEN_CONTROL_PLANE=unix:///run/api.sock" in render_started(
        INFO, {}, tries, 1.0, alone=False, colour=False
    )
