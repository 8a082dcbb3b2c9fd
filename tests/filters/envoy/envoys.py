"""A real Envoy with a module of filters."""

import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import httpx

from filters.toolchain.local_envoy import Chain, bootstrap
from lateen.envoy_binary import envoy_path

START_SECONDS = 90.0
STOP_SECONDS = 20.0


class FilterEnvoy:
    """Envoy with one listener for each chain; requests that pass the filters are answered with method and path."""

    def __init__(
        self,
        module: Path,
        chains: Sequence[Chain],
        *,
        upstream: tuple[str, int] | None = None,
        wait: bool = True,
        concurrency: int = 1,
    ) -> None:
        # Unix sockets need short paths.
        self._directory = tempfile.TemporaryDirectory(prefix="lt-")
        directory = Path(self._directory.name)
        self.log_path = directory / "envoy.log"
        admin = directory / "admin"
        config = directory / "envoy.json"
        config.write_text(bootstrap(module, chains, upstream=upstream, echo_path=str(directory / "echo")))
        command = [str(envoy_path()), "-c", str(config), "--concurrency", str(concurrency), "--disable-hot-restart"]
        command += ["-l", "warning", "--component-log-level", "wasm:info"]
        command += ["--admin-address-path", str(admin)]
        with self.log_path.open("wb") as log:  # stderr: a log file is written with seconds of delay
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.ports: dict[str, int] = {}
        if wait:
            self._wait(admin)

    def _wait(self, admin: Path) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"envoy has ended\n{self.log()}")
            try:
                self.admin = admin.read_text()
                answer = httpx.get(f"http://{self.admin}/listeners?format=json", timeout=5).json()
                ready = httpx.get(f"http://{self.admin}/ready", timeout=5).text.strip() == "LIVE"
            except (OSError, httpx.HTTPError):
                ready = False
            if ready:
                for listener in answer["listener_statuses"]:
                    address = listener["local_address"].get("socket_address")
                    if address:
                        self.ports[listener["name"]] = address["port_value"]
                return
            time.sleep(0.05)
        raise AssertionError(f"envoy is not ready after {START_SECONDS} s\n{self.log()}")

    def request(
        self,
        path: str,
        method: str = "GET",
        *,
        listener: str = "closed",
        headers: Sequence[tuple[str, str]] = (),
        content: bytes | Iterable[bytes] | None = None,
    ) -> httpx.Response:
        """One request on a connection of its own."""
        url = f"http://127.0.0.1:{self.ports[listener]}{path}"
        return httpx.request(
            method,
            url,
            headers=[(name.encode(), value.encode()) for name, value in headers],
            content=content,
            timeout=30,
        )

    def until_ok(self, path: str) -> httpx.Response:
        """Ask until it is answered with 200: a new VM may take a second to come."""
        end = time.monotonic() + 30
        while (answer := self.request(path)).status_code != 200 and time.monotonic() < end:
            time.sleep(0.1)
        return answer

    def log(self) -> str:
        """The log without its prefixes."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return re.sub(r"^\[[^\n]*?\] (\[[^\n]*?\] )?", "", text, flags=re.MULTILINE)

    def wait_log(self, text: str, since: int = 0) -> str:
        """The log from `since` on, when `text` is in it: Envoy may write it a moment later."""
        end = time.monotonic() + 15
        while text not in (log := self.log()[since:]) and time.monotonic() < end:
            time.sleep(0.05)
        return log

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._directory.cleanup()
