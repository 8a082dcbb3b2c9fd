"""A real ADS server over chosen resources: everything but the translators."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import grpc

from lateen.clock import SystemClock
from lateen.controlplane.blobs import Blob
from lateen.controlplane.events import Events, Listener
from lateen.controlplane.metrics import Metrics
from lateen.controlplane.proxy import Proxy, ProxyType
from lateen.controlplane.push import Debounce, Pusher
from lateen.controlplane.report import Reporter
from lateen.controlplane.server import AdsServer, ServerLimits
from lateen.controlplane.snapshot import Snapshot
from lateen.mesh.diagnostics import Diagnostic
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.loader import Located
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.services import Service
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload
from lateen.mesh.yaml_source import SourceMap
from tests.controlplane.pki import Authority


class FixedView(MeshView):
    """A view that knows workloads and sources, nothing else."""

    def __init__(self, accounts: Mapping[tuple[str, str], Workload], sources: Mapping[ResourceKey, SourceMap]) -> None:
        self._accounts = accounts
        self._sources = sources
        self.services: Mapping[str, Service] = {}

    def workload(self, namespace: str, name: str) -> Workload | None:
        return self._accounts.get((namespace, name))

    def source(self, key: ResourceKey) -> SourceMap | None:
        return self._sources.get(key)

    def get(self, kind_id: str) -> tuple[()]:
        return ()


class ChosenResources:
    """A `Translator` whose snapshots are what the test chose: by proxy name, and for our services under `service`."""

    def __init__(self) -> None:
        self.of: dict[str, Sequence[Blob]] = {}
        self.workloads: dict[tuple[str, str], Workload] = {}
        self.sources: dict[ResourceKey, SourceMap] = {}
        self.fail: set[str] = set()
        self.bad_views = 0
        self.views = 0

    def view(self, resources: Iterable[Located], mesh: MeshConfig) -> MeshView:
        self.views += 1
        if self.bad_views:
            raise RuntimeError("this view cannot be built")
        return FixedView(dict(self.workloads), dict(self.sources))

    def snapshot(self, view: MeshView, proxy: Proxy) -> Snapshot:
        if proxy.name in self.fail:
            raise RuntimeError(f"no snapshot for {proxy.name}")
        name = "service" if proxy.type is ProxyType.SERVICE else proxy.name
        return Snapshot.of(self.of.get(name, ()))

    def analyze(self, view: MeshView) -> tuple[Diagnostic, ...]:
        return ()


class Harness:
    """A running server; `choose` changes what a proxy is to have."""

    def __init__(self, authority: Authority, translator: ChosenResources, limits: ServerLimits | None = None) -> None:
        self.authority = authority
        self.translator = translator
        self.metrics = Metrics("test")
        self.events = Events()
        self.mesh = MeshConfig()
        clock = SystemClock()
        self.pusher = Pusher(
            translator,
            tuple,
            lambda: self.mesh,
            clock=clock,
            metrics=self.metrics,
            events=self.events,
            debounce=Debounce(0.01, 0.1),
        )
        reporter = Reporter(self.metrics, self.events, lambda: self.pusher.view)
        self.server = AdsServer(
            self.pusher, lambda: self.mesh, reporter, clock=clock, metrics=self.metrics, limits=limits
        )
        self.port = 0

    def credentials(self) -> grpc.ServerCredentials:
        pair = self.authority.server()
        return grpc.ssl_server_credentials(
            [(pair.key, pair.certificate)], root_certificates=self.authority.root, require_client_auth=True
        )

    async def start(self, port: int = 0) -> None:
        await self.pusher.flush()
        self.port = await self.server.start(f"127.0.0.1:{port}", self.credentials())

    async def choose(self, name: str, *blobs: Blob) -> None:
        self.translator.of[name] = blobs
        await self.pusher.flush()

    def value(self, metric: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0


@contextlib.asynccontextmanager
async def running(authority: Authority, limits: ServerLimits | None = None, port: int = 0) -> AsyncIterator[Harness]:
    harness = Harness(authority, ChosenResources(), limits)
    await harness.start(port)
    try:
        yield harness
    finally:
        await harness.server.stop(0)
        await harness.pusher.close()


async def event(listener: Listener, wanted: str) -> Mapping[str, object]:
    """The next event of this name."""
    async with asyncio.timeout(60):
        async for told in listener:
            if told["event"] == wanted:
                return told
    raise AssertionError("the listener ended")
