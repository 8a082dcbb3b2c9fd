"""The mesh follows the directory; what is wrong stays out and is explained."""

import re
import subprocess
import sys

import pytest

from tests.e2e.client import call
from tests.e2e.running import CHARGE, RunningMesh, replace_file, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]
ROUTES = "traffic-canary-payments.yaml"


def _works(mesh: RunningMesh) -> None:
    headers = {**mesh.bearer(), "x-test-cohort": "canary"}
    answer = call("GET", CHARGE, headers, proxy=mesh.proxy("orders"))
    assert (answer.status, answer.version) == (200, "v2")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        pytest.param(
            "perTryTimeout",
            "perTryTimout",
            r'unknown field "perTryTimout".*\n.*:{line}:\d+(.|\n)*perTryTimeout',
            id="misspelt field",
        ),
        pytest.param("weight: 90", "weight: ninety", r":{line}:\d+(.|\n)*weight: ninety", id="wrong type"),
        pytest.param(
            "timeout: 10s", "timeout: 10", r"duration(.|\n)*:{line}:\d+(.|\n)*add a unit: 10s", id="not a duration"
        ),
        pytest.param("  http:\n    # The", "  http: {\n    # The", r"error(.|\n)*{file}:\d+:\d+", id="not YAML"),
    ],
)
def test_broken_yaml_keeps_the_good_state_and_is_explained(mesh: RunningMesh, old: str, new: str, error: str) -> None:
    path = mesh.directory / ROUTES
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if old.splitlines()[0] in text)
    said = len(mesh.output)
    with mesh.edited(ROUTES, (old, new)):
        pattern = error.replace("{line}", str(line)).replace("{file}", re.escape(ROUTES))
        until(lambda: re.search(pattern, mesh.output[said:]), what=f"an error that says {pattern}")
        assert ROUTES in mesh.output[said:]
        _works(mesh)
    until(lambda: "the configuration is valid again" in mesh.output[said:])
    _works(mesh)


def test_a_dangling_reference_is_a_warning_or_error_and_traffic_goes_on(mesh: RunningMesh) -> None:
    said = len(mesh.output)
    with mesh.edited(ROUTES, ("subset: v2\n    # Everybody", "subset: v3\n    # Everybody")):
        until(lambda: "IST0101" in mesh.output[said:] and "v3" in mesh.output[said:])
        assert call("GET", CHARGE, mesh.bearer(), proxy=mesh.proxy("orders")).status == 200


def test_a_new_file_is_picked_up_and_forgotten_with_its_removal(mesh: RunningMesh) -> None:
    text = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ledger, namespace: legacy-system}
spec:
  hosts: [ledger.legacy-system.svc.cluster.local]
  http: [{directResponse: {status: 418}}]
"""
    url = "http://ledger.legacy-system.svc.cluster.local:8080/x"
    path = mesh.directory / "teapot.yaml"
    replace_file(path, text)
    try:
        until(lambda: call("GET", url, proxy=mesh.proxy("orders")).status == 418)
    finally:
        path.unlink()
    until(lambda: call("GET", url, proxy=mesh.proxy("orders")).status == 200)


HEADER = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ledger, namespace: legacy-system}
spec:
  hosts: [ledger.legacy-system.svc.cluster.local]
  http:
    - headers: {request: {set: {x-who: "VALUE"}}}
      route: [{destination: {host: ledger}}]
"""


def test_what_envoy_would_refuse_is_left_out_and_the_rest_goes_on(mesh: RunningMesh) -> None:
    said = len(mesh.output)
    path = mesh.directory / "refused.yaml"
    replace_file(path, HEADER.replace("VALUE", "%NOPE()%"))
    try:
        until(lambda: "%NOPE%" in mesh.output[said:])
        assert re.search(r"refused\.yaml:8:\d+ \(VirtualService/legacy-system/ledger", mesh.output[said:])
        changed = ("weight: 90", "weight: 0"), ("weight: 10\n", "weight: 100\n")
        with mesh.edited(ROUTES, *changed):
            proxy = mesh.proxy("orders")
            until(lambda: {call("GET", CHARGE, mesh.bearer(), proxy=proxy).version for _ in range(9)} == {"v2"})
    finally:
        path.unlink()


def test_what_envoy_refuses_keeps_the_old_state_and_names_the_yaml(mesh: RunningMesh) -> None:
    said = len(mesh.output)
    path = mesh.directory / "refused.yaml"
    routes = mesh.directory / ROUTES
    weights = routes.read_text(encoding="utf-8")

    def versions() -> set[str]:
        return {call("GET", CHARGE, mesh.bearer(), proxy=mesh.proxy("orders")).version for _ in range(9)}

    replace_file(path, HEADER.replace("VALUE", "%FILTER_STATE(a:NOPE)%"))
    try:
        until(lambda: "Invalid filter state serialize type" in mesh.output[said:])
        until(lambda: "VirtualService/legacy-system/ledger" in mesh.output[said:])
        assert "refused.yaml:2" in mesh.output[said:]
        until(lambda: mesh.proxies()["orders-0"]["types"]["RDS"]["status"] == "NACK")
        _works(mesh)
        replace_file(routes, weights.replace("weight: 90", "weight: 0").replace("weight: 10\n", "weight: 100\n"))
        until(lambda: versions() == {"v2"}, what="others of the same route configuration move on")
        until(lambda: mesh.proxies()["orders-0"]["types"]["RDS"]["status"] == "NACK", what="and it is not forgotten")
    finally:
        replace_file(routes, weights)
        path.unlink()
    until(lambda: {entry["status"] for entry in mesh.proxies()["orders-0"]["types"].values()} == {"SYNCED"})


def test_of_two_changes_in_one_push_only_the_one_to_blame_stays_behind(mesh: RunningMesh) -> None:
    said = len(mesh.output)
    path = mesh.directory / "refused.yaml"
    proxy = mesh.proxy("orders")
    with mesh.edited(ROUTES, ("weight: 90", "weight: 0"), ("weight: 10\n", "weight: 100\n")):
        replace_file(path, HEADER.replace("VALUE", "%FILTER_STATE(a:NOPE)%"))
        try:
            until(lambda: "Invalid filter state serialize type" in mesh.output[said:], 60)
            until(lambda: {call("GET", CHARGE, mesh.bearer(), proxy=proxy).version for _ in range(9)} == {"v2"}, 60)
            until(lambda: mesh.proxies()["orders-0"]["types"]["RDS"]["status"] == "NACK", 60, "and it is not forgotten")
        finally:
            path.unlink()
    until(lambda: {entry["status"] for entry in mesh.proxies()["orders-0"]["types"].values()} == {"SYNCED"}, 60)


def test_replicas_can_be_added_and_removed(mesh: RunningMesh) -> None:
    url = "http://ledger.legacy-system.svc.cluster.local:8080/x"

    def replicas() -> set[str]:
        answers = [call("GET", url, proxy=mesh.proxy("orders")) for _ in range(12)]
        assert {a.status for a in answers} == {200}
        return {str(a.json["replica"]) for a in answers}

    ledger = "name: ledger\n  namespace: legacy-system\nspec:\n  replicas: 1"
    with mesh.edited("workloads.yaml", (ledger, ledger.replace("replicas: 1", "replicas: 2"))):
        until(lambda: replicas() == {"ledger-0", "ledger-1"})
        until(lambda: "started legacy-system/ledger-1" in mesh.output)
    until(lambda: "stopped legacy-system/ledger-1" in mesh.output)
    assert replicas() == {"ledger-0"}


def test_a_change_that_needs_a_restart_says_so(mesh: RunningMesh) -> None:
    said = len(mesh.output)
    with mesh.edited(
        "workloads.yaml",
        (
            "image: payments/demo-app:1.0\n          ports:\n            - name: http\n              containerPort: 8080\n          env:",
            "image: payments/demo-app:1.0\n          ports:\n            - name: http\n              containerPort: 9090\n          env:",
        ),
    ):
        until(
            lambda: (
                "orders/orders has changed in more than its replicas and commands: restart lateen up"
                in mesh.output[said:]
            )
        )
        _works(mesh)


@pytest.mark.parametrize("text", ["", "# nothing\n---\n"])
def test_applying_nothing_is_said(mesh: RunningMesh, text: str) -> None:
    line = [sys.executable, "-m", "lateen.cli.main", "apply", "-f", "-", "--control-plane", mesh.info.control_plane]
    done = subprocess.run(line, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing to apply: there is no resource in stdin" in done.stderr
