"""WasmPlugin and TrafficExtension in the payments mesh: in place, changed under load, wrong in every way, and back again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from filters.toolchain.build import build
from tests.controlplane.modules import module
from tests.e2e.client import Answer, Client, call
from tests.e2e.running import RunningMesh, replace_file
from tests.fakes.image_registry import Registry, Reply, WebServer, serving

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(900)]
LEDGER = "http://ledger.legacy-system.svc.cluster.local:8080"
PATIENCE = 240.0  # a module is compiled in seconds, and in more of them on a busy machine
UNAVAILABLE = (503, "a filter of this service is not available\n")
STAMPING = """
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: stamp-ledger, namespace: legacy-system}
spec:
  selector: {matchLabels: {app: ledger}}
  match: [{mode: SERVER}]
  url: file://filters/stamp.wasm
  pluginName: stamp
  phase: AUTHN
  pluginConfig:
    stamp: first
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: stamp-gateway, namespace: payments}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: payments-gateway}]
  url: file://filters/gateway.wasm
  pluginName: stamp
  phase: AUTHN
  pluginConfig: {stamp: at the gateway}
"""


def until(condition: Callable[[], object], seconds: float = PATIENCE, what: str = "") -> None:
    """Wait for what takes seconds, without asking all the time: the machine has a module to compile meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.2)


def ledger(mesh: RunningMesh, path: str = "/x") -> Answer:
    return call("GET", LEDGER + path, proxy=mesh.proxy("orders"))


def states(mesh: RunningMesh) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in mesh.api("/v1/plugins")["plugins"]}


def ready(mesh: RunningMesh, *names: str) -> bool:
    found = states(mesh)
    return all(name in found and found[name]["state"] == "READY" for name in names) and mesh.settled()


@contextlib.contextmanager
def plugins(mesh: RunningMesh, text: str, file: str = "plugins.yaml") -> Iterator[Path]:
    """A file more in the mesh's directory, for a while."""
    path = mesh.directory / file
    names = set(re.findall(r"name: ([a-z0-9-]+), namespace", text))
    replace_file(path, text)
    try:
        until(lambda: names <= states(mesh).keys(), what=f"{names} are known")
        yield path
    finally:
        path.unlink()
        until(lambda: names.isdisjoint(states(mesh)) and mesh.settled(), what="the mesh is without plugins again")


@pytest.fixture(scope="module")
def stamp_module() -> bytes:
    return build(Path(__file__).with_name("stamping.py"), seed=1).linked.module


@pytest.fixture(scope="module")
def stamping(mesh: RunningMesh, stamp_module: bytes) -> Iterator[RunningMesh]:
    """One filter of one module, at a sidecar and at the gateway."""
    paths = [mesh.directory / "filters" / name for name in ("stamp.wasm", "gateway.wasm")]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(stamp_module)
    with plugins(mesh, STAMPING):
        until(lambda: ready(mesh, "stamp-ledger", "stamp-gateway"), what="the plugins are ready")
        # Envoy says that it has taken a plugin a moment before its workers have it.
        until(lambda: "x-stamped" in ledger(mesh).headers and call("GET", mesh.gateway + "/stamped").status == 200)
        yield mesh
    for path in paths:
        path.unlink()


def test_a_python_filter_runs_at_a_sidecar_and_at_the_gateway(stamping: RunningMesh) -> None:
    answer = ledger(stamping)
    assert (answer.status, answer.headers["x-stamped"], answer.json["headers"]["x-stamp"]) == (200, "first", "first")
    assert ledger(stamping, "/stamped").text == "first"
    # AUTHN stands before authorization, which would refuse a request without a token.
    assert call("GET", stamping.gateway + "/stamped").text == "at the gateway"
    refused = call("GET", stamping.gateway + "/v1/charge")
    assert (refused.status, refused.headers["x-stamped"]) == (403, "at the gateway")
    found = states(stamping)
    assert {entry["module"] for entry in found.values()} == {path.stem for path in _stored(stamping)}


def _stored(mesh: RunningMesh) -> list[Path]:
    return list((Path(mesh.info.control_plane.removeprefix("unix://")).parent / "modules").glob("*.wasm"))


def test_a_wrong_configuration_is_told_with_its_line_and_the_old_one_stays(stamping: RunningMesh) -> None:
    said = len(stamping.output)
    with stamping.edited("plugins.yaml", ("stamp: first", "stamp: 5")):
        until(lambda: "LTN0403" in stamping.output[said:])
        assert re.search(r"stamp must be a string, got 5\n.*plugins\.yaml:12:\d+", stamping.output[said:])
        assert states(stamping)["stamp-ledger"]["state"] == "FAILED"
        assert ledger(stamping).headers["x-stamped"] == "first"
        (plugin,) = described(stamping, "ledger")["plugins"]
        assert (plugin["state"], plugin["serving"], plugin["filter"], plugin["phase"]) == (
            "FAILED",
            True,
            "stamp",
            "AUTHN",
        )
        assert plugin["reason"] == "stamp must be a string, got 5"
        assert re.search(r"plugins\.yaml:12:\d+$", plugin["reason_position"])
    until(lambda: "the configuration is valid again" in stamping.output[said:])
    (plugin,) = described(stamping, "ledger")["plugins"]
    assert (plugin["state"], plugin["reason"]) == ("READY", "")
    assert plugin["module"] == states(stamping)["stamp-ledger"]["module"]


def described(mesh: RunningMesh, workload: str) -> dict[str, Any]:
    """What `lateen describe` says."""
    line = [sys.executable, "-P", "-m", "lateen.cli.main", "describe", workload, "-o", "json"]
    done = subprocess.run(
        [*line, "--control-plane", mesh.info.control_plane], capture_output=True, text=True, check=True, timeout=120
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_another_sha256_is_refused_and_what_ran_stays(stamping: RunningMesh) -> None:
    said = len(stamping.output)
    with stamping.edited("plugins.yaml", ("  pluginName: stamp\n", f"  pluginName: stamp\n  sha256: {'0' * 64}\n")):
        until(lambda: f"not {'0' * 64}" in stamping.output[said:])
        assert "LTN0401" in stamping.output[said:]
        assert ledger(stamping).headers["x-stamped"] == "first"


def _load(mesh: RunningMesh, seen: Counter[tuple[int, str]], stop: threading.Event) -> None:
    client = Client(mesh.proxy("orders"))
    while not stop.is_set():
        answer = client.call("GET", LEDGER + "/x")
        seen[answer.status, answer.headers.get("x-stamped", answer.text)] += 1
        stop.wait(0.01)


@contextlib.contextmanager
def under_load(mesh: RunningMesh) -> Iterator[Counter[tuple[int, str]]]:
    """Requests all the while; what came back, by status and stamp."""
    seen: Counter[tuple[int, str]] = Counter()
    stop = threading.Event()
    threads = [threading.Thread(target=_load, args=(mesh, seen, stop)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_an_update_under_load_fails_no_request_and_leaves_no_machine_behind(
    stamping: RunningMesh, stamp_module: bytes
) -> None:
    path = stamping.directory / "filters" / "stamp.wasm"
    machines = _machines(stamping)
    listeners = stamping.api("/v1/proxies/ledger-0.legacy-system/config")["resources"]["LDS"]
    with under_load(stamping) as seen:
        until(lambda: seen[200, "first"] > 50)
        with stamping.edited("plugins.yaml", ("stamp: first", "stamp: second")):  # another configuration
            until(lambda: seen[200, "second"] > 50)
            # another module: equal but for a section that nobody reads, so that Envoy compiles it anew
            replace_module(path, stamp_module + b"\0\x04\x03new")
            before = states(stamping)["stamp-ledger"]["module"]
            until(lambda: states(stamping)["stamp-ledger"]["module"] != before)
            until(stamping.settled)
            count = seen[200, "second"]
            until(lambda: seen[200, "second"] > count + 50)
        count = seen[200, "first"]
        until(lambda: seen[200, "first"] > count + 50)
    assert set(seen) == {(200, "first"), (200, "second")}, seen
    assert stamping.api("/v1/proxies/ledger-0.legacy-system/config")["resources"]["LDS"] == listeners
    until(lambda: _machines(stamping) <= machines, what="the machines of what ran before are gone")


def _machines(mesh: RunningMesh) -> int:
    """How many Wasm machines the ledger's Envoy has."""
    url = f"http://{mesh.replica('ledger-0').address}:15000/stats?filter=wasm.envoy.wasm.runtime.v8.active"
    return int(call("GET", url).text.rpartition(": ")[2])


def replace_module(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


@contextlib.contextmanager
def strategy(mesh: RunningMesh, name: str) -> Iterator[None]:
    """The ledger's plugin with another failStrategy, in effect."""
    policy = "" if name == "FAIL_OPEN" else "FAIL_RELOAD"
    with mesh.edited("plugins.yaml", ("  pluginConfig:\n", f"  failStrategy: {name}\n  pluginConfig:\n")):
        until(lambda: _written(mesh, name) and _policy(mesh) == policy and mesh.settled(), what=f"{name} is in effect")
        until(lambda: not _draining(mesh), what="no listener of before has connections left")
        yield


def _draining(mesh: RunningMesh) -> bool:
    """Whether a listener of before still serves; when its time is up, requests that take long are cut off with it."""
    url = f"http://{mesh.replica('ledger-0').address}:15000/stats?filter=listener_manager.total_.*_draining"
    return any(not line.endswith(": 0") for line in call("GET", url).text.splitlines())


def _written(mesh: RunningMesh, name: str) -> bool:
    (item,) = [
        i for i in mesh.api("/v1/resources?kind=WasmPlugin")["items"] if "ledger" in i["resource"]["metadata"]["name"]
    ]
    return bool(item["resource"]["spec"].get("failStrategy") == name)


def _policy(mesh: RunningMesh) -> str:
    found = mesh.api("/v1/proxies/ledger-0.legacy-system/config")["resources"]["ECDS"]
    (config,) = [value for name, value in found.items() if name.endswith(".stamp-ledger")]
    return str(config["typedConfig"]["config"].get("failurePolicy", ""))


@pytest.mark.parametrize("path", ["/crash", "/hog"])
def test_a_machine_that_dies_lets_requests_pass_if_that_is_wanted(stamping: RunningMesh, path: str) -> None:
    envoy = _uptime(stamping)
    with strategy(stamping, "FAIL_OPEN"), under_load(stamping) as seen:
        until(lambda: seen[200, "first"] > 50)
        died = ledger(stamping, path)
        assert (died.status, "x-stamped" in died.headers) == (200, False), died
        assert died.json["path"] == path
        passed = ledger(stamping)
        assert (passed.status, "x-stamp" in passed.json["headers"]) == (200, False), passed
        assert call("GET", stamping.gateway + "/stamped").text == "at the gateway"
        # A new configuration is a new machine.
        with stamping.edited("plugins.yaml", ("stamp: first", "stamp: again")):
            until(lambda: seen[200, "again"] > 50)
    assert {status for status, _ in seen} == {200}, seen
    until(lambda: ledger(stamping).headers.get("x-stamped") == "first")
    assert _uptime(stamping) >= envoy


@pytest.mark.parametrize(("name", "path"), [("FAIL_CLOSE", "/hog"), ("FAIL_RELOAD", "/crash"), ("FAIL_RELOAD", "/hog")])
def test_a_machine_that_dies_is_replaced(stamping: RunningMesh, name: str, path: str) -> None:
    envoy = _uptime(stamping)
    with strategy(stamping, name), under_load(stamping) as seen:
        until(lambda: seen[200, "first"] > 50)
        died = ledger(stamping, path)
        assert died.status == 503, died
        assert call("GET", stamping.gateway + "/stamped").text == "at the gateway"
        count = seen[200, "first"]
        until(lambda: seen[200, "first"] > count + 50)
    # Nothing passes by the filter: what is not stamped is refused, or cut off if its answer had begun when the machine died.
    allowed = {(200, "first"), (503, ""), (0, "IncompleteRead")}
    assert {(status, text.partition(":")[0] if status != 503 else "") for status, text in seen} <= allowed, seen
    assert _uptime(stamping) >= envoy


def _uptime(mesh: RunningMesh) -> int:
    """Seconds since the ledger's Envoy was started."""
    url = f"http://{mesh.replica('ledger-0').address}:15000/stats?filter=^server.uptime$"
    return int(call("GET", url).text.rpartition(": ")[2])


def test_a_restart_of_the_control_plane_goes_on_with_what_was_served(stamping: RunningMesh) -> None:
    with under_load(stamping) as seen:
        until(lambda: seen[200, "first"] > 50)
        pid = stamping.pid("lateen.controlplane")
        os.kill(pid, signal.SIGKILL)
        until(lambda: _control_plane(stamping) not in {0, pid})
        until(lambda: _answers(stamping) and ready(stamping, "stamp-ledger"))
        count = seen[200, "first"]
        until(lambda: seen[200, "first"] > count + 50)
    assert set(seen) == {(200, "first")}, seen


def _control_plane(mesh: RunningMesh) -> int:
    found = [pid for pid, line in mesh.command_lines().items() if "lateen.controlplane" in line]
    return found[0] if len(found) == 1 else 0


def _answers(mesh: RunningMesh) -> bool:
    try:
        return {replica.name for replica in mesh.info.replicas} <= mesh.proxies().keys()
    except (OSError, ValueError, TypeError, KeyError):
        return False


# Modules that cannot be had


def fetched(name: str, url: str, strategy: str) -> str:
    return f"""
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {{name: {name}, namespace: legacy-system}}
spec: {{selector: {{matchLabels: {{app: ledger}}}}, match: [{{mode: SERVER}}], url: "{url}", failStrategy: {strategy}}}
"""


@pytest.mark.parametrize("strategy", ["FAIL_CLOSE", "FAIL_OPEN"])
def test_a_module_that_cannot_be_fetched_and_then_can(mesh: RunningMesh, strategy: str) -> None:
    with serving(WebServer) as server, plugins(mesh, fetched("remote", server.url("/a.wasm"), strategy), "remote.yaml"):
        until(lambda: "404" in states(mesh)["remote"]["reason"] and mesh.settled())
        if strategy == "FAIL_CLOSE":
            until(lambda: (ledger(mesh).status, ledger(mesh).text) == UNAVAILABLE)
        assert (ledger(mesh).status == 200) is (strategy == "FAIL_OPEN")
        server.pages["/a.wasm"] = Reply(module("remote"))
        until(lambda: ready(mesh, "remote") and ledger(mesh).status == 200)


def test_a_module_from_a_registry(mesh: RunningMesh) -> None:
    with serving(Registry) as server:
        assert isinstance(server, Registry)
        digest = server.push("org/filter:v1", [("application/wasm", module("pulled"))])
        text = fetched("pulled", f"oci://{server.host}/org/filter@sha256:{digest}", "FAIL_CLOSE")
        with plugins(mesh, text, "pulled.yaml"):
            until(lambda: ready(mesh, "pulled") and ledger(mesh).status == 200)


# Scripts, and the order of phases


def script(phase: str, name: str, code: str, priority: int = 0) -> str:
    lines = "".join(f"      {line}\n" for line in code.splitlines())
    return f"""
apiVersion: extensions.istio.io/v1alpha1
kind: TrafficExtension
metadata: {{name: {name}, namespace: legacy-system}}
spec:
  selector: {{matchLabels: {{app: ledger}}}}
  match: [{{mode: SERVER}}]
  phase: {phase}
  priority: {priority}
  lua:
    inlineCode: |
{lines}"""


def appending(word: str) -> str:
    return f"""
function envoy_on_request(handle)
  local before = handle:headers():get("x-order") or ""
  handle:headers():replace("x-order", before .. "{word} ")
end
"""


def test_phases_and_priorities(mesh: RunningMesh) -> None:
    words = {"last": "UNSPECIFIED", "stats": "STATS", "authz": "AUTHZ", "authn": "AUTHN"}
    texts = [script(phase, word, appending(word)) for word, phase in words.items()]
    texts.append(script("AUTHN", "zz-first", appending("first"), priority=7))
    with plugins(mesh, "---".join(texts), "scripts.yaml"):
        until(lambda: ready(mesh, *words, "zz-first"))
        order = ["first", "authn", "authz", "stats", "last"]
        until(
            lambda: (
                (answer := ledger(mesh)).status == 200 and answer.json["headers"].get("x-order", "").split() == order
            )
        )


def test_a_plugin_that_comes_and_goes_refuses_nobody(mesh: RunningMesh) -> None:
    """Until it is there proxies go on without it, and listeners that drain keep it."""
    stamp = script("AUTHN", "coming", "function envoy_on_response(h) h:headers():add('x-stamped', 'now') end")
    with under_load(mesh) as seen:
        until(lambda: sum(seen.values()) > 50)
        with plugins(mesh, stamp, "coming.yaml"):
            until(lambda: seen[200, "now"] > 50)
        count = sum(seen.values())
        until(lambda: sum(seen.values()) > count + 50)
        until(lambda: not _draining(mesh))
    assert UNAVAILABLE not in seen, seen


def on_calls_to(port: int) -> str:
    return f"""
apiVersion: extensions.istio.io/v1alpha1
kind: TrafficExtension
metadata: {{name: calls-{port}, namespace: orders}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  match: [{{mode: CLIENT, ports: [{{number: {port}}}]}}]
  lua: {{inlineCode: "function envoy_on_response(handle) handle:headers():add('x-{port}', 'yes') end"}}
"""


def test_a_client_chooses_among_the_ports_it_calls(mesh: RunningMesh) -> None:
    """All its HTTP calls leave through one listener; of two ports one is of a service, the other of a host the mesh does not know."""
    known, unknown = 8080, 15000
    url = f"http://{mesh.replica('ledger-0').address}:{unknown}/ready"
    with plugins(mesh, "---".join(map(on_calls_to, (known, unknown))), "calls.yaml"):
        until(lambda: ready(mesh, f"calls-{known}", f"calls-{unknown}") and f"x-{known}" in ledger(mesh).headers)
        assert f"x-{unknown}" not in ledger(mesh).headers
        until(lambda: f"x-{unknown}" in call("GET", url, proxy=mesh.proxy("orders")).headers)
        answer = call("GET", url, proxy=mesh.proxy("orders"))
        assert (answer.status, f"x-{known}" in answer.headers, f"x-{unknown}" in answer.headers) == (200, False, True)
        with mesh.edited("calls.yaml", (f"number: {known}", "number: 1")):
            until(lambda: f"x-{known}" not in ledger(mesh).headers and mesh.settled())


def test_a_script_that_does_not_compile_is_quarantined_with_its_line(mesh: RunningMesh) -> None:
    said = len(mesh.output)
    good = "function envoy_on_response(handle)\n  handle:headers():add('x-lua', 'yes')\nend"
    with plugins(mesh, script("AUTHN", "script", good), "script.yaml"):
        until(lambda: ready(mesh, "script") and ledger(mesh).headers.get("x-lua") == "yes")
        with mesh.edited("script.yaml", ("handle:headers():add('x-lua', 'yes')", "handle:headers(:add(")):
            until(lambda: "LTN0404" in mesh.output[said:])
            line = mesh.output[said:].partition("script.yaml:")[2].partition(":")[0]
            text = (mesh.directory / "script.yaml").read_text().splitlines()[int(line) - 1]
            assert "handle:headers(:add(" in text
            assert ledger(mesh).headers["x-lua"] == "yes"
