"""What Envoy refuses is found also when nothing is known of the time before, and a restart of the control plane forgets nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import call
from tests.e2e.running import LOCAL, SMALL, RunningMesh, replace_file, start, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]
WEB = "http://web.shop:8080/"
AWAY = """# routes to another host
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: away, namespace: shop}
spec:
  hosts: [away.example.com]
  http: [{headers: {response: {set: {x-away: "VALUE"}}}, route: [{destination: {host: web}}]}]
"""
ROUTES = AWAY.replace("away.example.com", "web").replace("away", "web").replace("VALUE", "VERSION")
REFUSED = "%FILTER_STATE(a:NOPE)%"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """The smallest mesh, in which one VirtualService is such that Envoy refuses it from the start."""
    home = tmp_path_factory.mktemp("refused")
    directory = home / "mesh"
    directory.mkdir()
    (directory / "workload.yaml").write_text(SMALL)
    (directory / "lateen.yaml").write_text(LOCAL)
    (directory / "away.yaml").write_text(AWAY.replace("VALUE", REFUSED))
    (directory / "web.yaml").write_text(ROUTES.replace("VERSION", "one"))
    running = start(directory, home, says=b"not in sync yet")
    yield running
    assert running.stop() == 0


def version(mesh: RunningMesh) -> str | None:
    """What the routes of web say."""
    answer = call("GET", WEB, proxy=mesh.proxy("web"))
    return answer.headers.get("x-web") if answer.status == 200 else None


def blamed(mesh: RunningMesh) -> set[tuple[str, str, int]]:
    """What the sidecar's refused routes are blamed on: resource, file, line."""
    try:
        proxies: dict[str, Any] = mesh.proxies()
    except OSError:  # it starts again
        return set()
    errors = proxies.get("web-0", {}).get("types", {}).get("RDS", {}).get("errors", ())
    return {(e["origin"], Path(e["file"]).name, e["line"]) for e in errors}


BY_AWAY = ("VirtualService/shop/away", "away.yaml", 2)
BY_WEB = ("VirtualService/shop/web", "web.yaml", 2)


def test_others_are_served_and_the_culprit_is_named(small: RunningMesh) -> None:
    until(lambda: blamed(small) == {BY_AWAY})
    until(lambda: version(small) == "one", what="all others are served")
    control_plane = ["--control-plane", small.info.control_plane]
    for command in ("proxy-status", "analyze"):
        line = [sys.executable, "-m", "lateen.cli.main", command, *control_plane]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        assert "VirtualService/shop/away" in done.stdout + done.stderr
        assert "away.yaml:2" in done.stdout + done.stderr
        assert "Invalid filter state serialize type" in done.stdout + done.stderr
    line = [sys.executable, "-m", "lateen.cli.main", "proxy-status", "web-1", *control_plane]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert "did you mean web-0.shop? connected are: " in done.stderr
    until(lambda: "away.yaml:2" in small.output, what="lateen up says so")
    replace_file(small.directory / "web.yaml", ROUTES.replace("VERSION", "two"))
    until(lambda: version(small) == "two", what="and move on")


def test_the_version_before_outlives_a_restart(small: RunningMesh) -> None:
    replace_file(small.directory / "web.yaml", ROUTES.replace("VERSION", "before"))
    until(lambda: version(small) == "before")
    replace_file(small.directory / "web.yaml", ROUTES.replace("VERSION", REFUSED))
    until(lambda: blamed(small) == {BY_AWAY, BY_WEB})
    assert version(small) == "before"
    before = small.pid("lateen.controlplane")
    os.kill(before, signal.SIGKILL)
    until(lambda: blamed(small) == {BY_AWAY, BY_WEB} and small.pid("lateen.controlplane") != before)
    assert version(small) == "before"
    replace_file(small.directory / "away.yaml", AWAY.replace("VALUE", "fine"))
    url = "http://away.example.com:8080/"
    until(lambda: call("GET", url, proxy=small.proxy("web")).headers.get("x-away") == "fine")
    assert blamed(small) == {BY_WEB}
    assert version(small) == "before"
    replace_file(small.directory / "web.yaml", ROUTES.replace("VERSION", "three"))
    until(lambda: version(small) == "three")
    until(small.settled)
