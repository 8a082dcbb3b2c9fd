"""Builds the control plane from its settings and runs it until SIGTERM."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Iterable

import structlog

import lateen
from lateen.adsclient.tls import SdsIdentity
from lateen.clock import Clock, SystemClock
from lateen.controlplane.api import Api, monitoring_app
from lateen.controlplane.configuration import Configuration
from lateen.controlplane.events import Events
from lateen.controlplane.files import FileSource, watch
from lateen.controlplane.inventory import Inventory
from lateen.controlplane.keys import Keys
from lateen.controlplane.metrics import Metrics
from lateen.controlplane.native_modules import NativeModules
from lateen.controlplane.plugin_findings import plugin_findings
from lateen.controlplane.plugin_keeper import PluginKeeper
from lateen.controlplane.plugin_memory import RememberedTrial
from lateen.controlplane.plugin_trial import EnvoyTrial
from lateen.controlplane.push import Debounce, Pusher
from lateen.controlplane.quarantine_memory import QuarantineMemory
from lateen.controlplane.report import Reporter
from lateen.controlplane.server import AdsServer, ServerLimits
from lateen.controlplane.settings import Settings, parse_settings
from lateen.controlplane.translator import MeshTranslator, Translator
from lateen.controlplane.wasm_ahead import AheadOfTime
from lateen.controlplane.wasm_fetch import Fetcher
from lateen.controlplane.wasm_store import ModuleStore
from lateen.fetching import http_client
from lateen.mesh.diagnostics import Diagnostic
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.view import MeshView
from lateen.process import configure_logs
from lateen.web import private_socket, tcp_socket, web_server

_DRAIN_SECONDS = 0.5
_EXIT_UNUSABLE = 3


def main() -> int:
    """Entry point; 0 after SIGTERM or Ctrl-C, 3 when an address cannot be used."""
    settings = parse_settings(sys.argv[1:])
    if settings.print_config:
        sys.stdout.write(settings.render() + "\n")
        return 0
    configure_logs(settings.log_level, settings.log_format)
    try:
        asyncio.run(serve(settings, SystemClock()))
    except KeyboardInterrupt:
        return 0
    except (OSError, RuntimeError) as error:
        structlog.get_logger().error("control plane cannot go on", reason=str(error))
        return _EXIT_UNUSABLE
    return 0


class ControlPlane:
    """The parts of one control plane, joined; `serve` gives them sockets."""

    def __init__(self, settings: Settings, clock: Clock, translator: Translator | None = None) -> None:
        """Join them; nothing runs yet."""
        self.keys = Keys(
            dict(settings.jwks_override), settings.jwks_ca_file, clock, lambda: self.pusher.changed("keys")
        )
        self.clock = clock
        self.failure: BaseException | None = None
        self.metrics = Metrics(lateen.__version__)
        self.events = Events()
        self.files = FileSource(settings.config_dir, settings.mesh_config)
        inventory = Inventory()
        self.modules_client = http_client(settings.modules_ca_file)
        self.plugins = PluginKeeper(
            ModuleStore(settings.modules_dir),
            Fetcher(self.modules_client),
            RememberedTrial(EnvoyTrial(), settings.trials_file),
            clock,
            lambda: self.pusher.changed("plugins"),
            metrics=self.metrics.plugins,
            ahead=self._ahead_of_time(settings),
        )
        self.pusher = Pusher(
            translator or MeshTranslator(self.keys.of, self.plugins.serving, self._plugin_findings),
            inventory.located,
            lambda: self.configuration.mesh,
            clock=clock,
            metrics=self.metrics,
            events=self.events,
            debounce=Debounce(settings.debounce_quiet, settings.debounce_longest),
            viewed=self._viewed,
            memory=QuarantineMemory(settings.state_file.with_name("quarantine.json")),
        )
        self.configuration = Configuration(
            inventory,
            self.pusher.changed,
            metrics=self.metrics,
            events=self.events,
            state_file=settings.state_file,
        )
        self._refusals: set[asyncio.Task[None]] = set()
        reporter = Reporter(self.metrics, self.events, lambda: self.pusher.view, self._plugin_refused)
        self.ads = AdsServer(
            self.pusher,
            lambda: self.configuration.mesh,
            reporter,
            clock=clock,
            metrics=self.metrics,
            limits=ServerLimits(streams=settings.max_streams),
        )
        self.api = Api(self.configuration, self.pusher, self.events, clock, keys=self.keys.page, plugins=self.plugins)

    def _ahead_of_time(self, settings: Settings) -> AheadOfTime | None:
        if settings.ahead_of_time_dir is None:
            return None
        kept = NativeModules(settings.ahead_of_time_dir)
        return AheadOfTime(kept, settings.modules_dir, self.clock, self.metrics.plugins)

    def _plugin_refused(self, key: ResourceKey, reason: str) -> None:
        task = asyncio.get_running_loop().create_task(self.plugins.refused(key, reason))
        self._refusals.add(task)
        task.add_done_callback(self._refusals.discard)

    async def _viewed(self, view: MeshView) -> None:
        self.plugins.follow(view)
        await self.keys.follow(view)

    def _plugin_findings(self, view: MeshView) -> Iterable[Diagnostic]:
        return plugin_findings(view, self.plugins.states.values())

    async def prepare(self) -> None:
        """Read everything that is configured and build the first view."""
        self.configuration.restore()
        await self.plugins.restore()
        first = await asyncio.to_thread(self.files.poll)
        if first is not None:
            self.configuration.take_files(first)
        await self.pusher.flush()

    async def follow_files(self) -> None:
        """Take over what changes on disk, for ever."""
        async for change in watch(self.files, self.clock):
            self.configuration.take_files(change)


async def serve(settings: Settings, clock: Clock) -> None:
    """Run until SIGTERM or SIGINT, then drain."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running(settings, clock) as plane:
        await stopped.wait()
        if plane.failure is not None:
            raise RuntimeError(f"a part of it has failed: {plane.failure}") from plane.failure
        structlog.get_logger().info("control plane stops")


@contextlib.asynccontextmanager
async def running(settings: Settings, clock: Clock) -> AsyncIterator[ControlPlane]:
    """A control plane that serves its API inside the `async with` block, and ADS as soon as the agent has certified it."""
    log = structlog.get_logger()
    plane = ControlPlane(settings, clock)
    monitoring = tcp_socket(*settings.http_listen)
    listener = private_socket(settings.api_socket)
    serving = asyncio.Event()
    identity = SdsIdentity(settings.sds_socket)
    webs = [web_server(plane.api.app()), web_server(monitoring_app(plane.metrics, plane.pusher, serving.is_set))]
    tasks: list[asyncio.Task[None]] = []

    def fatal(task: asyncio.Task[None]) -> None:
        """A part that must run for ever has failed: so must the process, for whoever supervises it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("a part of the control plane has failed, stopping", exc_info=error)
            plane.failure = error
            signal.raise_signal(signal.SIGTERM)

    async def serve_ads() -> None:
        await identity.wait_ready()
        port = await plane.ads.start(settings.ads_address, identity.server_credentials())
        log.info("control plane serves ads", address=settings.ads_address, port=port)
        serving.set()

    try:
        await plane.prepare()
        tasks += [
            asyncio.create_task(webs[0].serve(sockets=[listener])),
            asyncio.create_task(webs[1].serve(sockets=[monitoring])),
            asyncio.create_task(plane.pusher.run()),
            asyncio.create_task(plane.follow_files()),
            asyncio.create_task(serve_ads()),
        ]
        for task in tasks:
            task.add_done_callback(fatal)
        log.info("control plane listens", api=str(settings.api_socket), http=settings.http_address)
        yield plane
    finally:
        for web in webs:
            web.should_exit = True
        for task in tasks:
            task.remove_done_callback(fatal)
        await plane.ads.stop(_DRAIN_SECONDS)
        for task in tasks[2:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await plane.pusher.close()
        await plane.keys.close()
        await plane.plugins.close()
        await plane.modules_client.aclose()
        await identity.close()
        listener.close()
        monitoring.close()
        with contextlib.suppress(FileNotFoundError):
            settings.api_socket.unlink()
