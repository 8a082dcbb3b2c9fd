"""A real Envoy started from snapshots, and small HTTP servers behind it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from lateen.controlplane.proxy import Mode, Proxy, ProxyType
from lateen.controlplane.snapshot import Snapshot, snapshot_for
from lateen.envoy_binary import envoy_path
from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.mesh.loader import load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView
from tests.controlplane.pki import Authority
from tests.controlplane.static_envoy import bootstrap

_nets = itertools.count()


def lease() -> str:
    """The first three bytes of a loopback network that no other test process uses."""
    pid = os.getpid()
    return f"127.{100 + pid % 100}.{(pid // 100 * 7 + next(_nets)) % 250}"


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


# Upstreams


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # headers and body in one packet
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Upstream)
        length = int(self.headers.get("content-length") or 0)
        self.rfile.read(length)
        server.seen.append((self.command, self.path, dict(self.headers.items())))
        delay = float(self.headers.get("x-delay") or 0)
        if delay:
            time.sleep(delay)  # the upstream is slow because the test says so
        status = server.status
        if self.headers.get("x-fail") == server.name:
            status = int(self.headers.get("x-fail-status") or 503)
        headers = {k.lower(): v for k, v in self.headers.items()}
        body = json.dumps({"name": server.name, "path": self.path, "method": self.command, "headers": headers}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-upstream", server.name)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 the names of the base class
    do_PUT = do_GET  # noqa: N815
    do_DELETE = do_GET  # noqa: N815
    do_OPTIONS = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


class Upstream(socketserver.ThreadingTCPServer):
    """Answers with what it received; `x-fail: NAME` makes it fail, `status` always."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, name: str, address: tuple[str, int]) -> None:
        super().__init__(address, _Handler)
        self.name = name
        self.status = 200
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


# Envoy


@dataclass
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 whatever JSON holds
        return json.loads(self.body)


@dataclass
class Running:
    """A started Envoy."""

    admin: int
    log: Path
    process: subprocess.Popen[bytes]

    def get_admin(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=30)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def counter(self, name: str) -> int:
        for line in self.get_admin("/stats").splitlines():
            key, _, value = line.rpartition(": ")
            if key.endswith(name):
                return int(value)
        return 0


@contextlib.contextmanager
def envoy(snapshot: Snapshot, folder: Path, identity: tuple[str, str]) -> Iterator[Running]:
    """Start Envoy with a snapshot and wait until it serves."""
    snapshot.check()
    admin = free_port()
    config = bootstrap(snapshot, admin_port=admin, identity=identity, validate_clusters=False)
    with running_envoy(config, folder, admin) as running:
        yield running


@contextlib.contextmanager
def running_envoy(bootstrapped: bootstrap_pb2.Bootstrap, folder: Path, admin: int) -> Iterator[Running]:
    """Start Envoy with a bootstrap and wait until it serves."""
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "envoy.pb", folder / "envoy.log"
    config.write_bytes(bootstrapped.SerializeToString())  # as JSON it takes seconds where there are many workloads
    command = [str(envoy_path()), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    running = Running(admin, log, process)
    try:
        _wait_ready(running)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(running: Running) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert running.process.poll() is None, running.log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            if running.get_admin("/ready").startswith("LIVE"):
                return
        time.sleep(0.05)  # polling a process that has no other way to say that it is ready
    raise AssertionError("envoy is not ready: " + running.log.read_text()[-3000:])


# Identities

Identity = tuple[str, str]
"""Certificate chain with key, and roots, in PEM."""


def identity(authority: Authority, namespace: str, service_account: str) -> Identity:
    pair = authority.issue(f"spiffe://cluster.local/ns/{namespace}/sa/{service_account}")
    return (pair.certificate + pair.key).decode(), authority.root.decode()


# Meshes


@dataclass
class Mesh:
    """A view of YAML in which NET stands for a leased network."""

    net: str
    view: MeshView = field(init=False)
    text: str = ""

    def __post_init__(self) -> None:
        loaded = load_text(self.text.replace("NET", self.net), "mesh.yaml")
        problems = [f"{d.line}: {d.message}" for d in loaded.diagnostics if d.invalid]
        assert not problems, problems
        self.view = MeshView.build(loaded.resources, loaded.mesh or MeshConfig())

    def snapshot(
        self, name: str, mode: Mode = Mode.NONE, *, app: str = "127.0.0.1", namespace: str = "default"
    ) -> Snapshot:
        workload = self.view.workload(namespace, name)
        assert workload is not None
        kind = ProxyType.ROUTER if "gateway" in name else ProxyType.SIDECAR
        proxy = Proxy(
            id=f"{kind}~{workload.address}~{name}.{namespace}~{namespace}.svc.cluster.local",
            type=kind,
            name=name,
            namespace=namespace,
            address=workload.address,
            app_address=app,
            mode=mode,
            labels=workload.labels,
            service_account=workload.service_account,
            workload_name=workload.workload_name,
        )
        return snapshot_for(self.view, proxy)


def call(
    proxy: tuple[str, int],
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    timeout: float = 30,
) -> Answer:
    """Ask through an HTTP proxy (an absolute URL), or a server directly (a path)."""
    connection = http.client.HTTPConnection(*proxy, timeout=timeout)
    try:
        connection.putrequest(method, url, skip_host=True, skip_accept_encoding=True)
        given = dict(headers)
        if "host" not in {k.lower() for k in given}:
            connection.putheader("Host", url.split("/")[2] if "://" in url else f"{proxy[0]}:{proxy[1]}")
        for key, value in given.items():
            connection.putheader(key, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()
