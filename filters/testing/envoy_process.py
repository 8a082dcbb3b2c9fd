"""An Envoy process that is given one filter after another, without being started anew."""

import http.client
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from filters.testing.envoy_config import WORKER_STATS, Json, bootstrap, discovery
from filters.testing.messages import LogLine
from lateen.envoy_binary import envoy_path

START_SECONDS = 120.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.005
LONGEST_LOG = 32 * 1024 * 1024
REJECTED = "listener_manager.lds.update_rejected"
PLUGIN_LOG = "wasm log"
COPIES = 3
"""A VM exists as what is cloned, on the main thread and on the worker."""


class EnvoyError(RuntimeError):
    """Envoy does not do what the kit needs; its log is part of the message."""


class EnvoyProcess:
    """Started when made; `stop` ends it."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="lateen-filter-test-")
        self.directory = Path(self._temporary.name)
        self._version = 0
        self._listeners: list[Json] = []
        for kind in ("cds", "lds"):
            (self.directory / kind).mkdir()
        self._log_at = 0
        self._read = 0
        self._write([], [])
        (self.directory / "envoy.json").write_text(bootstrap(self.directory))
        command = [str(envoy_path()), "-c", str(self.directory / "envoy.json"), "--concurrency", "1"]
        command += ["--disable-hot-restart", "--admin-address-path", str(self.directory / "admin"), "-l", "warning"]
        command += [
            "--component-log-level",
            "wasm:debug",
            "--log-format",
            "%l\t%n\t%j",
            "--drain-time-s",
            "0",
            "--drain-strategy",
            "immediate",
        ]
        self._log_path = self.directory / "envoy.log"
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._admin_connection: http.client.HTTPConnection | None = None
        self._until(lambda: (self.directory / "admin").exists() and self._live(), "it does not start")

    def configure(self, clusters: Sequence[Json], listeners: Sequence[Json]) -> bool:
        """Replace all clusters and listeners; whether Envoy has taken them. If not, it keeps the listeners it has."""
        names = {item["name"] for item in listeners}
        # The old ones stay until the new ones are there: while a module has a VM, another VM takes no compiling.
        old = [item for item in self._listeners if item["name"] not in names]
        accepted = self._apply(clusters, [*old, *listeners])
        if accepted:
            self._listeners = list(listeners)
        if old:
            self._apply(clusters, self._listeners)
        return accepted

    def _apply(self, clusters: Sequence[Json], listeners: Sequence[Json]) -> bool:
        rejected = self._stats(REJECTED)
        self._version += 1
        self._write(clusters, listeners)
        version = str(self._version)
        texts: dict[str, int | str] = {}

        def decided() -> bool:
            nonlocal texts
            texts = self._stats("(cluster_manager.cds|listener_manager.lds).version_text")
            return all(text == version for text in texts.values()) or self._stats(REJECTED) != rejected

        self._until(decided, "it does not take the configuration")
        return all(text == version for text in texts.values())

    def port(self, listener: str) -> int:
        """Where a listener listens."""
        statuses = json.loads(self.admin("GET", "/listeners?format=json"))["listener_statuses"]
        found = next(item for item in statuses if item["name"] == listener)
        return int(found["local_address"]["socket_address"]["port_value"])

    def wait_idle(self) -> None:
        """Until no request is under way: on_log and on_delete have run."""
        name = f"http.{WORKER_STATS}.downstream_rq_active"
        self._until(lambda: not any(self._stats(name).values()), "a request does not end")

    def wait_for_one_vm(self) -> None:
        """Until the VM of an earlier configuration is gone, its metrics with it."""
        name = "wasm.envoy.wasm.runtime.v8.active"
        self._until(lambda: all(int(value) <= COPIES for value in self._stats(name).values()), "a VM does not end")

    def wait_for_tick(self) -> None:
        """Until a tick has begun after now and the calls it makes have been answered; Envoy's trace of callbacks tells."""
        start = len(self.raw_log())
        self.admin("POST", "/logging?wasm=trace")
        try:
            self._until(lambda: _ticked(self.raw_log()[start:]), "there is no tick")
        finally:
            self.admin("POST", "/logging?wasm=debug")

    def metrics(self) -> Mapping[str, int]:
        """Counters and gauges of Wasm modules."""
        return {
            name.removeprefix("wasmcustom."): value
            for name, value in self._stats("^wasmcustom\\.").items()
            if isinstance(value, int)
        }

    def log_lines(self) -> list[LogLine]:
        """What modules have logged since the last `forget_log`."""
        return [found for line in self.raw_log()[self._log_at :].splitlines() if (found := plugin_line(line))]

    def new_lines(self) -> list[str]:
        """What Envoy has logged since the last call; the log is cut off now and then, for an Envoy that runs long."""
        with self._log_path.open("r+b") as log:
            log.seek(self._read)
            text = log.read()
            complete = text.rfind(b"\n") + 1
            self._read += complete
            if self._read > LONGEST_LOG:
                log.truncate(0)
                self._read = 0
        return text[:complete].decode("utf-8", "replace").splitlines()

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def raw_log(self) -> str:
        """All of Envoy's log."""
        return self._log_path.read_text(errors="replace")

    def forget_log(self) -> None:
        """`log_lines` starts anew."""
        self._log_at = len(self.raw_log())

    def admin(self, method: str, path: str) -> bytes:
        """Ask the admin endpoint."""
        connection = self._admin_connection
        if connection is None:
            host, _, port = (self.directory / "admin").read_text().rpartition(":")
            connection = self._admin_connection = http.client.HTTPConnection(host, int(port), timeout=START_SECONDS)
        connection.request(method, path)
        return connection.getresponse().read()

    def stop(self) -> None:
        if self._admin_connection is not None:
            self._admin_connection.close()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._temporary.cleanup()

    def _write(self, clusters: Sequence[Json], listeners: Sequence[Json]) -> None:
        for kind, resources in (("cds", clusters), ("lds", listeners)):
            temporary = self.directory / f"{kind}.part"
            temporary.write_text(discovery(kind, self._version, resources))
            os.replace(temporary, self.directory / kind / "resources.json")  # noqa: PTH105  (Envoy looks out for moves)

    def _live(self) -> bool:
        try:
            return self.admin("GET", "/ready").strip() == b"LIVE"
        except (OSError, http.client.HTTPException, ValueError):
            self._admin_connection = None
            return False

    def _stats(self, pattern: str) -> dict[str, int | str]:
        found = json.loads(self.admin("GET", f"/stats?format=json&filter={pattern}"))
        return {item["name"]: item["value"] for item in found["stats"] if "name" in item}

    def _until(self, happened: Callable[[], bool], problem: str) -> None:
        end = time.monotonic() + START_SECONDS
        while not happened():
            if self._process.poll() is not None:
                raise EnvoyError(f"envoy has ended with status {self._process.returncode}\n{self.raw_log()[-4000:]}")
            if time.monotonic() > end:
                raise EnvoyError(f"envoy: {problem}\n{self.raw_log()[-4000:]}")
            time.sleep(POLL_SECONDS)


def plugin_line(line: str) -> LogLine | None:
    """A line of Envoy's log, if a module has written it."""
    level, _, rest = line.partition("\t")
    logger, _, message = rest.partition("\t")
    if logger != "wasm" or not message.startswith(PLUGIN_LOG):
        return None
    _, _, text = message.partition(": ")
    return LogLine(level, json.loads(f'"{text}"'))


def _ticked(log: str) -> bool:
    """Whether a whole tick is in the log, and every call made since has its answer."""
    _, begun, rest = log.partition("[host->vm] proxy_on_tick(")
    if not begun or "[host<-vm] proxy_on_tick return" not in rest:
        return False
    calls = rest.count("[vm<-host] env.proxy_http_call return: 0\n")
    return rest.count("[host<-vm] proxy_on_http_call_response return") >= calls
