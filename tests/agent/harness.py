"""The real authority and the real agent as processes, and real Envoys beside them."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lateen.agent.proxies import write_file
from lateen.envoy_binary import envoy_path

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def loopback_address() -> str:
    """An address of this test's own in 127/8, where every port is free, whatever runs beside it."""
    return f"127.{random.randint(100, 250)}.{random.randint(1, 250)}.{random.randint(2, 250)}"


def eventually(probe: Callable[[], T | None], what: str, seconds: float = 60.0) -> T:
    """Poll until `probe` gives something that is neither None nor False; the last exception is shown if it never does."""
    deadline = time.monotonic() + seconds
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if (result := probe()) not in {None, False}:
                return result
        except (OSError, http.client.HTTPException, AssertionError) as error:
            last = error
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s ({last!r})")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def unix_request(path: Path, method: str, url: str, body: object = None) -> tuple[int, bytes]:
    connection = UnixConnection(path)
    try:
        connection.request(method, url, body=None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def http_get(host: str, port: int, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


class Process:
    """A child that is killed at the end of the test whatever happens."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self.child = subprocess.Popen(arguments, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)

    def alive(self) -> bool:
        return self.child.poll() is None

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.alive():
            os.kill(self.child.pid, number)
        try:
            return self.child.wait(60)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait(5)
            raise

    def text(self) -> str:
        return self.log.read_text()


class Authority:
    """`python -m ca` on a state directory."""

    def __init__(self, folder: Path, ttl: str = "24h") -> None:
        self.state, self.socket, self.host, self.port = folder / "ca", folder / "ca.sock", loopback_address(), 15013
        self.folder, self.ttl = folder, ttl
        self.process: Process | None = None

    @property
    def log(self) -> str:
        return (self.folder / "ca.log").read_text()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def root_file(self) -> Path:
        return self.folder / "root.pem"

    def launch(self) -> Process:
        flags = {
            "--state-dir": self.state,
            "--address": self.address,
            "--admin-socket": self.socket,
            "--ttl": self.ttl,
        }
        arguments = [sys.executable, "-m", "ca", *[str(part) for pair in flags.items() for part in pair]]
        self.process = Process(arguments, self.folder / "ca.log")
        return self.process

    def start(self) -> None:
        process = self.launch()
        eventually(
            lambda: (process.alive() or self._died()) and self.request("GET", "/healthz")[0] == 200, "the authority"
        )
        self.root_file.write_bytes(self.request("GET", "/v1/root")[1])

    def _died(self) -> bool:
        raise RuntimeError(self.log)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.stop(number)

    def request(self, method: str, url: str, body: object = None) -> tuple[int, bytes]:
        return unix_request(self.socket, method, url, body)

    def token(self, namespace: str, service_account: str, *, ttl: float = 60, dns_names: tuple[str, ...] = ()) -> str:
        fields = {
            "namespace": namespace,
            "service_account": service_account,
            "ttl_seconds": ttl,
            "dns_names": dns_names,
        }
        status, body = self.request("POST", "/v1/tokens", fields)
        assert status == 200, body
        return str(json.loads(body)["token"])


class Agent:
    """`python -m lateen.agent` with a directory of proxies."""

    def __init__(self, folder: Path, authority: Authority, ads_address: str = "127.0.0.1:1") -> None:
        self.folder, self.proxies, self.host = folder, folder / "proxies.d", loopback_address()
        self.proxies.mkdir()
        self.config = folder / "agent.json"
        settings = {
            "ca_address": authority.address,
            "root_cert_file": str(authority.root_file),
            "proxies_dir": str(self.proxies),
            "ads_address": ads_address,
            "http_address": f"{self.host}:15020",
            "poll_seconds": 0.05,
            "secret_dirs": [str(folder / "secrets")],
        }
        self.config.write_text(json.dumps(settings))
        self.process: Process | None = None

    @property
    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def start(self) -> None:
        self.process = Process(
            [sys.executable, "-m", "lateen.agent", "--config", str(self.config)], self.folder / "agent.log"
        )
        eventually(lambda: self.get("/healthz/live")[0] == 200, "the agent")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.stop(number)

    def get(self, path: str) -> tuple[int, str]:
        return http_get(self.host, 15020, path)

    def register(self, name: str, token: str, **fields: object) -> Path:
        """Write the proxy's file; returns its SDS socket."""
        socket_path = self.folder / f"{name}.sock"
        proxy = {
            "name": name,
            "namespace": "default",
            "service_account": name,
            "address": "127.0.0.1",
            "sds_socket": str(socket_path),
            "token": token,
            "bootstrap_file": None,
        } | fields
        write_file(self.proxies / f"{name}.json", json.dumps(proxy))
        return socket_path

    def issued(self, name: str) -> int:
        """How many certificates the proxy has had."""
        return self._number(f'lateen_agent_certificates_total{{proxy="default/{name}"}}')

    def failed(self, name: str) -> int:
        return self._number(f'lateen_agent_certificate_failures_total{{proxy="default/{name}"}}')

    def in_state(self, state: str) -> int:
        return self._number(f'lateen_agent_proxies{{state="{state}"}}')

    def _number(self, series: str) -> int:
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(f"{series} "):
                return int(line.rpartition(" ")[2])
        return 0


def envoy_arguments(config: Path) -> list[str]:
    """How an Envoy is started; no hot restart, whose shared memory would let two Envoys on one host meet."""
    flags = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
    return [str(envoy_path()), "--config-path", str(config), *flags]


@contextmanager
def running_envoy(
    folder: Path, name: str, config: str, admin_port: int, address: str = "127.0.0.1"
) -> Iterator[Process]:
    """A real Envoy on a configuration; ready when it is entered."""
    path = folder / f"{name}.json"
    path.write_text(config)
    process = Process(envoy_arguments(path), folder / f"{name}.log")

    def ready() -> bool:
        if not process.alive():
            raise RuntimeError(process.text())
        return http_get(address, admin_port, "/ready")[0] == 200

    try:
        eventually(ready, f"envoy {name}")
        yield process
    finally:
        process.stop(signal.SIGKILL)
