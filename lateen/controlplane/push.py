"""From changes to pushes: debounce, one view for all, one snapshot a proxy, computed off the event loop.

Nothing that fails here reaches the proxies: a view that cannot be built is built without the change that breaks it, and a proxy
whose snapshot cannot be built keeps its last one; both are logged, counted and shown.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import structlog

from lateen.clock import Clock
from lateen.controlplane.authentication import Denied, check_registered
from lateen.controlplane.blame import Blame
from lateen.controlplane.blobs import Blob
from lateen.controlplane.connection import Connection
from lateen.controlplane.culprit import suspects
from lateen.controlplane.events import Events
from lateen.controlplane.gate import GATE_SECONDS, HELD, all_taken, needed_policies
from lateen.controlplane.metrics import Metrics
from lateen.controlplane.proxy import Proxy
from lateen.controlplane.quarantine import Quarantine
from lateen.controlplane.quarantine_memory import QuarantineMemory
from lateen.controlplane.report import OriginPlace
from lateen.controlplane.route_trial import Guilty, RouteTrial, try_routes
from lateen.controlplane.session import Refused
from lateen.controlplane.snapshot import Snapshot
from lateen.controlplane.translator import Translator
from lateen.mesh.diagnostics import Diagnostic
from lateen.mesh.loader import Located
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.metadata import ResourceKey
from lateen.mesh.view import MeshView

P = ParamSpec("P")
T = TypeVar("T")

_CHUNK_SECONDS = 0.02
_MAX_SUSPECTS = 50
_MAX_LATE = 1_000
_UNDECIDED_SECONDS = 3.0
"""How long those of which one is refused stay set aside when not every proxy answers."""


@dataclass(frozen=True, slots=True)
class Debounce:
    """A push waits until changes have paused for `quiet` seconds, but never longer than `longest`."""

    quiet: float = 0.1
    longest: float = 1.0


@dataclass(frozen=True, slots=True)
class _Computed:
    connection: Connection
    snapshot: Snapshot | None
    error: str
    denied: str
    seconds: float


class Pusher:
    """Keeps every connection at the newest snapshot. Its methods belong to one event loop."""

    def __init__(
        self,
        translator: Translator,
        resources: Callable[[], tuple[Located, ...]],
        mesh: Callable[[], MeshConfig],
        *,
        clock: Clock,
        metrics: Metrics,
        events: Events,
        debounce: Debounce | None = None,
        viewed: Callable[[MeshView], Awaitable[None]] | None = None,
        trial: RouteTrial = try_routes,
        memory: QuarantineMemory | None = None,
    ) -> None:
        """Prepare; `resources` and `mesh` give the newest state whenever a view is built; what `viewed` does comes before its push.

        `memory` keeps over restarts what is set aside, `trial` finds out what must be when nothing is known of a proxy.
        """
        self._viewed = viewed
        self._translator = translator
        self._resources = resources
        self._mesh = mesh
        self._clock = clock
        self._metrics = metrics
        self._events = events
        self._debounce = debounce or Debounce()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="translate")
        self._log = structlog.get_logger()
        self._changed = asyncio.Event()
        self._first_change: float | None = None
        self._last_change = 0.0
        self._flushing = 0
        self._good: Mapping[ResourceKey, Located] = {}
        self._services: Snapshot | None = None
        self._timers: set[asyncio.Task[None]] = set()
        self._analysis: tuple[MeshView, tuple[Diagnostic, ...]] | None = None
        self._lagging: set[int] = set()
        self._policy_services: dict[int, Connection] = {}
        self._was_synced = False
        self._deciding = False
        self._late: deque[tuple[Blob, Callable[[], None]]] = deque(maxlen=_MAX_LATE)
        self.quarantine = Quarantine()
        self._memory = memory
        if memory is not None:
            memory.restore(self.quarantine)
        self._blame = Blame(trial, self.quarantine, self._wanted, self._tried)
        self.view: MeshView | None = None
        self.view_errors: dict[str, str] = {}
        self.connections: dict[int, Connection] = {}

    # changes

    def changed(self, trigger: str) -> None:
        """Something the proxies depend on is new: push soon. `trigger` is for the metrics."""
        now = self._clock.monotonic()
        if self._first_change is None:
            self._first_change = now
        self._last_change = now
        self._metrics.triggers.labels(trigger).inc()
        self._changed.set()

    async def run(self) -> None:
        """Build and push after each change, for ever."""
        while True:
            await self._changed.wait()
            await self._pause()
            await self.flush()

    @property
    def behind(self) -> bool:
        """Whether something has changed that no snapshot has yet."""
        return self._first_change is not None or self.computing

    @property
    def computing(self) -> bool:
        """Whether snapshots are being made now: what is refused meanwhile is judged afterwards."""
        return self._flushing > 0

    async def flush(self) -> None:
        """Build and push now."""
        self._flushing += 1
        try:
            await self._flush()
        finally:
            self._flushing -= 1
        self._judge_late()
        self._judge()

    async def _flush(self) -> None:
        self._changed.clear()
        since, self._first_change = self._first_change, None
        since = self._clock.monotonic() if since is None else since
        resources, mesh = self.quarantine.admit(self._resources()), self._mesh()
        view = await self._in_worker(self._build_view, resources, mesh)
        self._remember()
        if view is None:
            return
        self.view = view
        if self._viewed is not None:
            await self._viewed(view)
        self._metrics.debounce_time.observe(self._clock.monotonic() - since)
        self._metrics.services.set(len(view.services))
        self._metrics.virtual_services.set(len(view.get("VirtualService")))
        services_first = sorted(self.connections.values(), key=lambda c: (not c.is_service, c.number))
        await self._update(view, services_first, since)

    async def analysis(self) -> tuple[Diagnostic, ...]:
        """Findings about how the resources of the newest view fit together, computed once a view."""
        view = self.view
        if view is None:
            return ()
        if self._analysis is None or self._analysis[0] is not view:
            self._analysis = (view, await self._in_worker(self._translator.analyze, view))
        return self._analysis[1]

    async def close(self) -> None:
        """Stop computing."""
        self._blame.close()
        for timer in self._timers:
            timer.cancel()
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _pause(self) -> None:
        while self._first_change is not None:
            until = min(self._last_change + self._debounce.quiet, self._first_change + self._debounce.longest)
            left = until - self._clock.monotonic()
            if left <= 0:
                return
            await self._clock.sleep(left)

    # connections

    async def attach(self, connection: Connection) -> None:
        """A stream has opened: give it its snapshot as soon as there is one."""
        self.connections[connection.number] = connection
        self._lagging.add(connection.number)
        self._was_synced = False
        if connection.is_service:
            self._policy_services[connection.number] = connection
        self._events.publish("connected", proxy=connection.proxy.id, identity=str(connection.peer))
        if self.view is not None:
            await self._update(self.view, [connection], self._clock.monotonic())

    def detach(self, connection: Connection) -> None:
        """The stream is gone."""
        if self.connections.pop(connection.number, None) is not None:
            self._lagging.discard(connection.number)
            self._policy_services.pop(connection.number, None)
            self._events.publish("disconnected", proxy=connection.proxy.id)
            self._open_gates()
            self._tell_synced()

    def acknowledged(self, connection: Connection) -> None:
        """The stream has answered something: others may have waited for it."""
        if connection.is_service:
            self._open_gates()
        if connection.number in self._lagging and connection.session.synced:
            self._lagging.discard(connection.number)
            if connection.changed_at is not None:
                self._metrics.convergence.observe(self._clock.monotonic() - connection.changed_at)
                connection.changed_at = None
            self._tell_synced()
            self._judge()

    def refused(self, event: Refused) -> None:
        """Envoy refused something: go on with the versions before of the resources of the mesh behind it.

        They are known by what is new to the proxy, or must be looked for when it is not known what it had.
        """
        if self.computing:  # the present versions may be newer than what was refused: perhaps it is mended
            self._late.append((event.blob, partial(self.refused, event)))
        elif keys := suspects(event.blob, event.accepted):
            self._set_aside(keys, event, event.message)
        else:
            self._blame.look_for(event)

    def _tried(self, event: Refused, parts: Sequence[Guilty]) -> None:
        if self.computing:
            self._late.append((event.blob, partial(self._tried, event, parts)))
        elif self._wanted(event.blob):
            for keys, words in parts:
                self._set_aside(keys, event, words, tried=True)

    def _judge_late(self) -> None:
        late = list(self._late)
        self._late.clear()
        for blob, again in late:
            if self._wanted(blob):
                again()

    def _wanted(self, blob: Blob) -> bool:
        snapshots = (connection.snapshot for connection in self.connections.values())
        return any(s is not None and s.resources.get(blob.type_url, {}).get(blob.name) is blob for s in snapshots)

    def _set_aside(self, keys: Iterable[ResourceKey], event: Refused, words: str, *, tried: bool = False) -> None:
        aside = self.quarantine.hold(sorted(keys), event.blob, event.accepted, words, tried=tried)
        if not aside:
            return
        for held in self.quarantine.refusals[-len(aside) :]:
            place = OriginPlace.of(held.located)
            known = self.quarantine.before(held.located.resource.key) is not None
            self._log.warning(
                "set aside until it changes, " + ("its version before stays" if known else "it is left out"),
                **place.to_dict(),
                message=words,
            )
        self._remember()
        self.changed("quarantine")
        if not self._deciding and self.quarantine.undecided:
            self._deciding = True
            self._start_timer(self._decide())

    def _remember(self) -> None:
        """At once, so that no moment of a crash forgets what is in effect; nothing happens when nothing has changed."""
        if self._memory is not None:
            self._memory.save(self.quarantine)

    async def _decide(self) -> None:
        """Find the one to blame of several even if some proxy never answers."""
        try:
            while self.quarantine.undecided:
                await self._clock.sleep(_UNDECIDED_SECONDS)
                self._judge(anyway=True)
        finally:
            self._deciding = False

    def _judge(self, *, anyway: bool = False) -> None:
        """When every proxy has taken what it could of the last push: what all took is proven, and some of the undecided are tried."""
        if self.behind or (self._lagging and not anyway):
            return
        proxies = [connection for connection in self.connections.values() if not connection.is_service]
        if proxies and not self._lagging and not any(connection.session.refusals for connection in proxies):
            self.quarantine.proven()
        if self.quarantine.let_out():
            self.changed("quarantine")

    # inside: computing

    async def _update(self, view: MeshView, connections: Sequence[Connection], since: float) -> None:
        left = list(connections)
        while left and view is self.view:
            done = await self._in_worker(self._snapshots, view, left)
            del left[: len(done)]
            for computed in done:
                if view is self.view and computed.connection.number in self.connections:
                    self._take(view, computed, since)
        self._tell_synced()

    async def _in_worker(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, partial(work, *args, **kwargs))

    def _build_view(self, resources: Sequence[Located], mesh: MeshConfig) -> MeshView | None:
        """In the worker: the view of all resources, or of as many as it takes to leave out the one that breaks it."""
        started = time.monotonic()
        now = {located.resource.key: located for located in resources}
        errors: dict[str, str] = {}
        view = self._try_view(now, mesh, errors, "the mesh")
        if view is None:
            suspects = [key for key, located in now.items() if self._good.get(key) is not located]
            for key in suspects[:_MAX_SUSPECTS]:
                without = {k: v for k, v in now.items() if k != key}
                if key in self._good:
                    without[key] = self._good[key]
                view = self._try_view(without, mesh, {}, str(key))
                if view is not None:
                    errors = {str(key): errors["the mesh"]}
                    now = without
                    break
        if view is not None:
            self._good = now
        self.view_errors = errors
        self._metrics.view_time.observe(time.monotonic() - started)
        return view

    def _try_view(
        self, resources: Mapping[ResourceKey, Located], mesh: MeshConfig, errors: dict[str, str], name: str
    ) -> MeshView | None:
        try:
            return self._translator.view(resources.values(), mesh)
        except Exception as error:  # noqa: BLE001 - whatever it is, the mesh must go on
            errors[name] = f"{type(error).__name__}: {error}"
            self._metrics.internal_errors.inc()
            self._log.exception("the view of the mesh cannot be built, the last good state stays", suspect=name)
            return None

    def _snapshots(self, view: MeshView, connections: Sequence[Connection]) -> list[_Computed]:
        """In the worker: snapshots of the first few connections, as many as fit in a slice of time."""
        started = time.monotonic()
        done: list[_Computed] = []
        for connection in connections:
            begun = time.monotonic()
            if done and begun - started > _CHUNK_SECONDS:
                break
            snapshot, error, denial = None, "", ""
            try:
                check_registered(connection.peer, _registered_account(view, connection.proxy))
                snapshot = self._translator.snapshot(view, connection.proxy)
            except Denied as denied:
                denial = str(denied)
            except Exception as problem:  # noqa: BLE001 - whatever it is, the others must get theirs
                error = f"{type(problem).__name__}: {problem}"
                self._metrics.internal_errors.inc()
                self._log.exception("no snapshot, the proxy keeps its last state", proxy=connection.proxy.id)
            done.append(_Computed(connection, snapshot, error, denial, time.monotonic() - begun))
        return done

    # inside: offering

    def _take(self, view: MeshView, computed: _Computed, since: float) -> None:
        connection = computed.connection
        self._metrics.push_time.observe(computed.seconds)
        connection.error = computed.error
        snapshot = computed.snapshot
        if computed.denied:
            connection.close(computed.denied)
        elif computed.error:
            self._events.publish("error", proxy=connection.proxy.id, message=computed.error)
        if snapshot is None:
            return
        if connection.is_service:
            self._services = snapshot
        if connection.snapshot is not None and connection.snapshot.version == snapshot.version:
            connection.snapshot = snapshot
            return
        now = self._clock.monotonic()
        self._metrics.queue_time.observe(now - since)
        connection.snapshot = snapshot
        connection.changed_at = since
        self._lagging.add(connection.number)
        if not connection.is_service:
            self._gate(view, connection)
        connection.session.offer(snapshot.resources, snapshot.version, now)
        connection.wake.set()
        self.acknowledged(connection)

    def _gate(self, view: MeshView, connection: Connection) -> None:
        needed = needed_policies(_workload_key(view, connection.proxy), self._services)
        if all_taken(needed, self._policy_services.values()):
            needed = {}
        connection.gate = dict(needed)
        connection.session.held_back = HELD if needed else frozenset()
        if needed:
            self._start_timer(self._open_late(connection, connection.gate))

    def _start_timer(self, work: Coroutine[None, None, None]) -> None:
        timer = asyncio.get_running_loop().create_task(work)
        self._timers.add(timer)
        timer.add_done_callback(self._timers.discard)

    async def _open_late(self, connection: Connection, gate: Mapping[str, str]) -> None:
        await self._clock.sleep(GATE_SECONDS)
        if connection.gate is gate and gate:
            self._metrics.gated.labels("timeout").inc()
            self._log.warning("ext_authz has not taken a policy, pushing its listeners anyway", policies=sorted(gate))
            self._open(connection)

    def _open_gates(self) -> None:
        for connection in self.connections.values():
            if connection.gate and all_taken(connection.gate, self._policy_services.values()):
                self._metrics.gated.labels("taken").inc()
                self._open(connection)

    @staticmethod
    def _open(connection: Connection) -> None:
        connection.gate = {}
        connection.session.held_back = frozenset()
        connection.wake.set()

    def _tell_synced(self) -> None:
        synced = bool(self.connections) and not self._lagging
        if synced and not self._was_synced:
            refused = sum(len(connection.session.refusals) for connection in self.connections.values())
            refused += len(self.quarantine.refusals)
            self._events.publish("synced", proxies=len(self.connections), refused=refused)
        self._was_synced = synced


def _registered_account(view: MeshView, proxy: Proxy) -> str | None:
    workload = view.workload(proxy.namespace, proxy.name)
    return workload.service_account if workload is not None else None


def _workload_key(view: MeshView, proxy: Proxy) -> str:
    workload = view.workload(proxy.namespace, proxy.name)
    return workload.key if workload is not None else proxy.workload_key
