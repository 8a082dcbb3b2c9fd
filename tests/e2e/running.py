"""A mesh under test: `lateen up` as a process of its own, on a copy of a directory that the test may edit."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from lateen.local import reaper, unixhttp
from lateen.local.issuer import MintRequest, mint_token
from lateen.local.rundir import ReplicaInfo, RunInfo, live_runs
from tests.e2e.client import Answer, call

ROOT = Path(__file__).parents[2]
PAYMENTS = ROOT / "envoy-configs" / "payments"
ISSUER = "https://auth.corp.com"
CHARGE = "http://payments-api.payments.svc.cluster.local:8080/v1/charge"
READER = {"scope": "payments:read"}
PATIENCE_SECONDS = 60.0  # what is waited for takes a second or two, and ten times that on a starved machine
SYNC_SECONDS = 150  # after these the runner itself gives up, and says why
START_SECONDS = 170.0
T = TypeVar("T")
# The smallest mesh: one application, and the command that stands for its image.
SMALL = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: demo, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 8080}]}
"""
LOCAL = """
apiVersion: lateen.dev/v1alpha1
kind: Local
spec: {images: {demo: {command: [python3, -m, lateen.local.demo_app]}}}
"""


def until(condition: Callable[[], T], seconds: float = PATIENCE_SECONDS, what: str = "") -> T:
    """Wait until `condition` is true (and return its value), or fail."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.02)
    return value


class RunningMesh:
    """A `lateen up` that is in sync."""

    def __init__(self, process: "subprocess.Popen[bytes]", directory: Path, output: Path, info: RunInfo) -> None:
        self.process = process
        self.directory = directory
        self.info = info
        self._output = output

    # What it says and where things are

    @property
    def output(self) -> str:
        """Everything that `lateen up` has printed."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def replica(self, name: str) -> ReplicaInfo:
        """The replica called NAME, `orders-0` say."""
        (found,) = [replica for replica in self.info.replicas if replica.name == name]
        return found

    def proxy(self, workload: str) -> str:
        """The outbound HTTP listener of a workload's first replica."""
        return self.replica(f"{workload}-0").proxy_url

    @property
    def gateway(self) -> str:
        return self.info.gateway_url

    def log(self, name: str) -> str:
        """The log `payments-api-v1-0.envoy`, say."""
        return (Path(self.info.logs) / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def api(self, target: str) -> Any:  # noqa: ANN401  (JSON)
        """GET from the control plane."""
        return unixhttp.call(Path(self.info.control_plane.removeprefix("unix://")), "GET", target).body

    def proxies(self) -> dict[str, Any]:
        """Each connected proxy's status by name."""
        return {f"{entry['name']}": entry for entry in self.api("/v1/proxies")["proxies"]}

    # Calls

    def token(
        self,
        claims: Mapping[str, Any] | None = None,
        *,
        audience: str = "payments-api",
        ttl: timedelta = timedelta(hours=1),
        issuer: str = ISSUER,
    ) -> str:
        """A token of the local issuer."""
        request = MintRequest(issuer, "alice", audience, READER if claims is None else claims, ttl)
        return mint_token(Path(self.info.issuer_keys), request, datetime.now(UTC))

    def bearer(self, token: str | None = None) -> dict[str, str]:
        """The header that carries a token, by default one that may read."""
        return {"authorization": f"Bearer {self.token() if token is None else token}"}

    def charge(self, tenant: str = "acme", *, caller: str = "orders", **headers: str) -> Answer:
        """POST /v1/charge as an application beside CALLER's sidecar would."""
        given = {"x-tenant": tenant, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return call("POST", CHARGE, given, proxy=self.proxy(caller))

    # Processes

    def pid(self, *words: str) -> int:
        """The process of this run whose command line contains all of WORDS."""
        found = [pid for pid, line in self.command_lines().items() if all(word in line for word in words)]
        assert len(found) == 1, (words, self.command_lines())
        return found[0]

    def command_lines(self) -> dict[int, str]:
        """Every process of the run but `lateen up` itself and its reaper."""
        return command_lines(self.info.pid, self.info.id)

    @contextlib.contextmanager
    def frozen(self, *words: str) -> Iterator[None]:
        """A process that does not answer for a while."""
        pid = self.pid(*words)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    # The directory

    @contextlib.contextmanager
    def edited(self, file: str, *changes: tuple[str, str]) -> Iterator[None]:
        """The YAML with OLD replaced by NEW, put back at the end."""
        path = self.directory / file
        before = path.read_text(encoding="utf-8")
        text = before
        for old, new in changes:
            assert old in text, f"{old!r} is not in {file}"
            text = text.replace(old, new)
        replace_file(path, text)
        try:
            yield
        finally:
            replace_file(path, before)
            until(self.settled, what="back to the first state")

    def settled(self) -> bool:
        """Whether every proxy has acknowledged all it was sent."""
        return all(entry["synced"] for entry in self.proxies().values())

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


def replace_file(path: Path, text: str) -> None:
    """As editors do: a new file under the old name."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def command_lines(runner: int, run_id: str) -> dict[int, str]:
    """The processes of a run with their command lines: those below the runner's reaper, and those that carry the run's mark."""
    table = reaper.process_table()
    pids = (reaper.descendants(runner, table) | reaper.marked(run_id, table)) - {runner}
    lines = {pid: line for pid in pids if (line := command_line(pid))}
    return {pid: line for pid, line in lines.items() if "reaper.py" not in line}


def command_line(pid: int) -> str:
    """Empty for a process that has gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def reaper_of(runner: int) -> int:
    """The process that guards a run; 0 before it has started."""
    children = [pid for pid, parent in reaper.process_table().items() if parent == runner]
    return next((pid for pid in children if "reaper.py" in command_line(pid)), 0)


def start(directory: Path, home: Path, *arguments: str, says: bytes = b"ready in") -> RunningMesh:
    """Start `lateen up` interactively and wait until it says that it is ready (or something else)."""
    output = home / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command(directory, *arguments), env=environment(home), stdout=file, stderr=file, start_new_session=True
        )
    try:
        until(
            lambda: says in output.read_bytes() or process.poll() is not None,
            START_SECONDS,
            "lateen up is ready",
        )
        (info,) = [run for run in live_runs() if run.pid == process.pid]
    except (AssertionError, ValueError):
        process.terminate()
        process.wait(PATIENCE_SECONDS)
        raise AssertionError(output.read_text(errors="replace")) from None
    return RunningMesh(process, directory, output, info)


def command(directory: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "lateen.local", str(directory), "--timeout", str(SYNC_SECONDS), *arguments]


def environment(home: Path) -> dict[str, str]:
    """State of its own for each test session; the run directories are shared, as for a user with two terminals."""
    return {**os.environ, "XDG_STATE_HOME": str(home / "state")}


def copy_of(source: Path, home: Path) -> Path:
    """A copy that a test may edit."""
    return Path(shutil.copytree(source, home / source.name))


def wait_for_end(pids: Mapping[int, str]) -> None:
    """Fail unless all of these processes go away."""

    def left() -> dict[int, str]:
        alive = reaper.process_table()
        return {pid: line for pid, line in pids.items() if pid in alive}

    try:
        until(lambda: not left())
    except AssertionError:
        raise AssertionError(f"still alive: {json.dumps(left(), indent=1)}") from None
