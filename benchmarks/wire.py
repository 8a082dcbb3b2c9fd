"""A unary gRPC call on lateen.wire and on grpcio's two servers: CPU and time of the transport alone, direct and through a real Envoy."""

import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import LoadError
from benchmarks.plain_envoy import PlainEnvoy, proxy_bootstrap
from benchmarks.processes import read_cpu
from benchmarks.report import Section, Table, number, with_range
from benchmarks.statistics import Load, Spread, spread
from benchmarks.wire_load import MESSAGE, run
from benchmarks.wire_servers import AIO, KINDS, WIRE
from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.envoyapi.envoy.config.core.v3 import protocol_pb2
from lateen.envoyapi.envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from tests.fakes.pki import TestAuthority

CONNECTIONS, IN_FLIGHT = 4, 100
_START_SECONDS = 30.0
_WARM_UP_SECONDS = 0.3
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a server: `calls` at a time over `connections`."""

    name: str
    calls: int
    connections: int
    over: str = "address"  # of `Running`


WAYS = (
    Way("100 calls in flight", IN_FLIGHT, CONNECTIONS),
    Way("1 call in flight", 1, 1),
    Way("100 in flight, unix socket", IN_FLIGHT, CONNECTIONS, "unix"),
    Way("100 in flight, mutual TLS", IN_FLIGHT, CONNECTIONS, "tls"),
    Way("100 in flight, through Envoy", IN_FLIGHT, CONNECTIONS, "envoy"),
    Way("1 in flight, through Envoy", 1, 1, "envoy"),
)


@dataclass(frozen=True, slots=True)
class Running:
    """A server: its addresses, one of which is that of the Envoy before it."""

    pid: int
    address: str
    unix: str
    tls: str
    envoy: str

    def load(self, way: Way, seconds: float, client: ssl.SSLContext) -> Load:
        """Calls on a way."""
        addresses = [getattr(self, way.over)] * way.connections
        return run(addresses, way.calls, seconds, client if way.over == "tls" else None)


@dataclass(frozen=True, slots=True)
class Sample:
    """One load on one server; microseconds of the server's CPU a call."""

    load: Load
    cpu: float


def measure(*, quick: bool) -> Section:
    """All servers side by side, in turns, backwards every second time."""
    rounds, seconds = (1, 0.4) if quick else (5, 0.8)
    samples: dict[tuple[str, str], list[Sample]] = {}
    with ExitStack() as stack:
        authority = TestAuthority()
        client = _client(authority, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        servers = {kind: stack.enter_context(_running(kind, authority)) for kind in KINDS}
        for way in WAYS:
            for server in servers.values():
                server.load(way, _WARM_UP_SECONDS, client)
            for turn in range(rounds):
                for kind in KINDS if turn % 2 == 0 else reversed(KINDS):
                    samples.setdefault((way.name, kind), []).append(_sample(way, servers[kind], seconds, client))
    return _section(samples, rounds, seconds)


def _sample(way: Way, server: Running, seconds: float, client: ssl.SSLContext) -> Sample:
    before = read_cpu(server.pid)
    load = server.load(way, seconds, client)
    return Sample(load, (read_cpu(server.pid) - before) * 1e6 / load.requests)


def _write_pair(authority: TestAuthority, name: str, folder: Path) -> None:
    pair = authority.issue(f"spiffe://cluster.local/ns/bench/sa/{name}", f"{name}.test")
    for file, text in (("cert", pair.certificate), ("key", pair.key), ("roots", authority.root)):
        (folder / f"{file}.pem").write_text(text)


def _client(authority: TestAuthority, folder: Path) -> ssl.SSLContext:
    _write_pair(authority, "client", folder)
    context = ssl.create_default_context(cafile=str(folder / "roots.pem"))
    context.check_hostname = False
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.set_alpn_protocols(["h2"])
    return context


@contextmanager
def _running(kind: str, authority: TestAuthority) -> Iterator[Running]:
    """A server in a process of its own, and an Envoy that sends it everything."""
    port, tls_port, proxy_port = _free_port(), _free_port(), _free_port()
    address, tls, proxy = (f"127.0.0.1:{each}" for each in (port, tls_port, proxy_port))
    with tempfile.TemporaryDirectory() as folder:
        _write_pair(authority, "server", Path(folder))
        command = [sys.executable, "-m", "benchmarks.wire_servers", kind, folder, address, tls]
        with (
            _process(command) as server,
            PlainEnvoy(_bootstrap(proxy_port, port), "wire", concurrency=1),
        ):
            for each in (address, proxy):
                _wait_for(each)
            yield Running(server.pid, address, f"unix:{folder}/socket", tls, proxy)


@contextmanager
def _process(command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    server = subprocess.Popen(command)
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _bootstrap(port: int, upstream: int) -> bootstrap_pb2.Bootstrap:
    """An Envoy that speaks HTTP/2 on both sides and has no filter but the router."""
    made = proxy_bootstrap("127.0.0.1", port, ("127.0.0.1", upstream))
    options = http_protocol_options_pb2.HttpProtocolOptions()
    options.explicit_http_config.http2_protocol_options.CopyFrom(protocol_pb2.Http2ProtocolOptions())
    made.static_resources.clusters[0].typed_extension_protocol_options[_OPTIONS].Pack(options)
    return made


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(address: str) -> None:
    """Until calls are answered there."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            run([address], 1, 0.01)
        except LoadError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _section(samples: Mapping[tuple[str, str], Sequence[Sample]], rounds: int, seconds: float) -> Section:
    tables = [_table(way, {kind: samples[way.name, kind] for kind in KINDS}) for way in WAYS]
    data = {
        way.name: {kind: {name: s.as_dict() for name, s in _spreads(samples[way.name, kind]).items()} for kind in KINDS}
        for way in WAYS
    }
    handled = "the handler returns a constant, the same in each server; plain text over TCP unless it says otherwise"
    notes = (
        f"a message of {len(MESSAGE)} bytes and Envoy's headers, which differ in every call; {handled}",
        f"{rounds} rounds of {seconds} s, median (min..max); ratio: CPU a call to that of {AIO} in the same run",
        "the load generator (Python, one thread) runs on the same machine",
    )
    return Section("wire", "a unary gRPC call, transport alone", tuple(tables), notes, data)


def _table(way: Way, found: Mapping[str, Sequence[Sample]]) -> Table:
    baseline = _spreads(found[AIO])["cpu_us"].median
    rows = []
    for kind in (WIRE, *(kind for kind in KINDS if kind != WIRE)):
        spreads = _spreads(found[kind])
        ratio = number(spreads["cpu_us"].median / baseline)
        rows.append(
            (kind, with_range(spreads["cpu_us"]), ratio, with_range(spreads["rate"]), with_range(spreads["p50_us"]))
        )
    return Table((way.name, "CPU us a call", "ratio", "calls/s", "p50 us"), tuple(rows))


def _spreads(samples: Sequence[Sample]) -> dict[str, Spread]:
    return {
        "cpu_us": spread(sample.cpu for sample in samples),
        "rate": spread(sample.load.rate for sample in samples),
        "p50_us": spread(sample.load.p50 for sample in samples),
    }
