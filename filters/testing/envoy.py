"""The real host: the linked module in a real Envoy. Each host has a VM of its own, in an Envoy that is kept between tests."""

import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path

from filters.sdk.config import ConfigError
from filters.sdk.filter import HttpFilter
from filters.sdk.headers import OwnHeaders
from filters.testing.certificates import Authority
from filters.testing.envoy_config import UPSTREAM, Json, cluster, listener
from filters.testing.envoy_process import EnvoyProcess
from filters.testing.hosts import Cluster
from filters.testing.messages import (
    INVALID,
    Answer,
    BodyArgument,
    HeadersArgument,
    LogLine,
    UpstreamRequest,
    body_chunks,
    header_pairs,
    ok,
)
from filters.testing.shared_probe import Probe, probe_module
from filters.testing.upstreams import UpstreamServer
from filters.toolchain.local_envoy import Placed

TIMEOUT_SECONDS = 60.0
PLAIN, SECURE, PROBE = "plain", "secure", "probe"
MOST_ENVOYS = 4


class EnvoyHost:
    """A filter with one configuration in an Envoy that is this host's until it is closed."""

    def __init__(
        self,
        pool: "EnvoyPool",
        module: Path,
        kind: type[HttpFilter],
        config: Mapping[str, object] | None = None,
        *,
        upstream: Cluster = ok,
        clusters: Mapping[str, Cluster] | None = None,
    ) -> None:
        self.kind = kind
        self._pool = pool
        self._module = module
        self._failures: list[Exception] = []
        self._upstream_requests: list[UpstreamRequest] = []
        self._calls: list[UpstreamRequest] = []
        self._servers = {
            name: UpstreamServer(
                target,
                self._upstream_requests.append if name == UPSTREAM else self._calls.append,
                self._failures.append,
            )
            for name, target in {UPSTREAM: upstream, **(clusters or {})}.items()
        }
        self._placed = Placed(kind.name, dict(config or {}))
        self._vm = pool.next_vm()
        self._listeners = [self._listener(PLAIN)]
        self._envoy = pool.acquire(module)
        self._closed = False
        self._envoy.forget_log()
        if not self._configure():
            problems = [line.text.removeprefix(INVALID) for line in self.log_lines if line.text.startswith(INVALID)]
            logs = self.logs
            self.close()
            raise ConfigError(list(dict.fromkeys(problems)) or logs)
        self._envoy.wait_for_one_vm()

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: HeadersArgument = (),
        body: BodyArgument | None = None,
        trailers: HeadersArgument = (),
        peer_identity: str | None = None,
    ) -> Answer:
        """Send a request through the filter and wait for its end."""
        self._upstream_requests.clear()
        context = None
        if peer_identity is not None:
            self._add(SECURE)
            context = self._pool.authority.client_context(peer_identity)
        connection = _connection(self._envoy.port(self._name(SECURE if context else PLAIN)), context)
        try:
            chunks = None if body is None else body_chunks(body)
            response = _send(connection, method, path, header_pairs(headers), chunks, trailers=header_pairs(trailers))
            content = response.read()
        finally:
            connection.close()
        self._envoy.wait_idle()
        if self._failures:
            raise self._failures.pop()
        pairs = [(name, _utf8(value).strip(" \t")) for name, value in response.getheaders()]
        seen = self._upstream_requests[-1] if self._upstream_requests else None
        return Answer(response.status, OwnHeaders(pairs), content, seen, OwnHeaders(response.trailers))

    def tick(self) -> None:
        """Wait until `on_tick` has run, with the calls it makes."""
        if not self.kind.tick_seconds:
            raise ValueError(f"{self.kind.__name__} has no tick_seconds")
        self._envoy.wait_for_tick()
        if self._failures:
            raise self._failures.pop()

    def close(self) -> None:
        """Give the Envoy back."""
        if self._closed:
            return
        self._closed = True
        for server in self._servers.values():
            server.close()
        self._pool.release(self._module, self._envoy)

    @property
    def calls(self) -> list[UpstreamRequest]:
        """What the filter has sent to clusters."""
        return list(self._calls)

    @property
    def log_lines(self) -> list[LogLine]:
        """What the filter has printed and logged, with levels."""
        return self._envoy.log_lines()

    @property
    def logs(self) -> list[str]:
        """What the filter has printed and logged."""
        return [line.text for line in self.log_lines]

    @property
    def metrics(self) -> Mapping[str, int]:
        """The filter's counters and gauges."""
        return self._envoy.metrics()

    @property
    def shared(self) -> Probe:
        """The shared data, through a listener of its own."""
        self._add(PROBE)
        return Probe(self._envoy.port(self._name(PROBE)))

    def _name(self, purpose: str) -> str:
        return f"{purpose}-{self._vm}"

    def _listener(self, purpose: str) -> Json:
        if purpose == PROBE:
            code = self._envoy.directory / "probe.wasm"
            code.write_bytes(probe_module())
            return listener(self._name(purpose), code, Placed("probe", {}), self._vm)
        certificates = self._pool.authority.listener if purpose == SECURE else None
        return listener(self._name(purpose), self._module, self._placed, self._vm, certificates=certificates)

    def _add(self, purpose: str) -> None:
        if not any(item["name"] == self._name(purpose) for item in self._listeners):
            self._listeners.append(self._listener(purpose))
            self._configure()

    def _configure(self) -> bool:
        clusters = [cluster(name, server.port) for name, server in self._servers.items()]
        return self._envoy.configure(clusters, self._listeners)


class EnvoyPool:
    """Envoys by module: one is enough while hosts are used one after another."""

    def __init__(self) -> None:
        self._free: dict[Path, list[EnvoyProcess]] = {}
        self._all: list[EnvoyProcess] = []
        self._vms = 0
        self._authority: Authority | None = None

    @property
    def authority(self) -> Authority:
        """Signs certificates of peers."""
        if self._authority is None:
            self._authority = Authority()
        return self._authority

    def next_vm(self) -> str:
        """A name no VM has had."""
        self._vms += 1
        return f"vm-{self._vms}"

    def acquire(self, module: Path) -> EnvoyProcess:
        """An Envoy that nobody uses."""
        free = self._free.setdefault(module, [])
        if free:
            return free.pop()
        if len(self._all) >= MOST_ENVOYS:
            idle = next((path for path, envoys in self._free.items() if envoys), None)
            if idle is None:
                raise RuntimeError(f"{MOST_ENVOYS} hosts are open at once: close one")
            old = self._free[idle].pop()
            self._all.remove(old)
            old.stop()
        started = EnvoyProcess()
        self._all.append(started)
        return started

    def release(self, module: Path, envoy: EnvoyProcess) -> None:
        """Give it back."""
        self._free.setdefault(module, []).append(envoy)

    def close(self) -> None:
        """Stop all."""
        for envoy in self._all:
            envoy.stop()


def _connection(port: int, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if context is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    return http.client.HTTPSConnection("localhost", port, timeout=TIMEOUT_SECONDS, context=context)


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    pairs: list[tuple[str, str]],
    chunks: list[bytes] | None,
    *,
    trailers: list[tuple[str, str]],
) -> "_Response":
    connection.response_class = _Response
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    if "host" not in {name for name, _ in pairs}:
        connection.putheader("host", "localhost")
    chunks = [] if chunks is None and trailers else chunks
    chunked = chunks is not None and (len(chunks) > 1 or bool(trailers))
    if chunks is not None:
        connection.putheader(
            *(("transfer-encoding", "chunked") if chunked else ("content-length", str(len(chunks[0]))))
        )
    for name, value in pairs:
        connection.putheader(name, value.encode("utf-8", "surrogateescape"))
    try:
        connection.endheaders()
        for chunk in chunks or ():
            connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
        if chunked:
            lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            connection.send(b"0\r\n" + lines.encode("utf-8", "surrogateescape") + b"\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # answered before all was sent: the answer is there
    response = connection.getresponse()
    if not isinstance(response, _Response):
        raise TypeError("the connection has another class of responses")
    return response


class _Response(http.client.HTTPResponse):
    """Keeps the trailers, which the base class reads and forgets."""

    @property
    def trailers(self) -> list[tuple[str, str]]:
        """What came after the body."""
        return list(getattr(self, "_trailers", ()))

    def _read_and_discard_trailer(self) -> None:
        self._trailers = []
        while (line := self.fp.readline(65537)) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("utf-8", "surrogateescape").partition(":")
            self._trailers.append((name.strip(), value.strip(" \t\r\n")))


def _utf8(value: str) -> str:
    return value.encode("iso-8859-1").decode("utf-8", "surrogateescape")
