"""What an interactive `lateen up` does once the mesh runs: follow the directory, and say what happens."""

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lateen.local.appstate import AppState
from lateen.local.mesh import Mesh, StartError
from lateen.local.netns import NetnsError
from lateen.local.placement import NoRoomError
from lateen.local.plan import Plan, Workload
from lateen.local.readiness import Standing
from lateen.local.source import Source, fingerprint, read_directory
from lateen.local.status import ProxyStatus, rejected
from lateen.local.supervisor import EventKind, ProcessEvent
from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.render import render_diagnostic

POLL_SECONDS = 0.3
SETTLE_SECONDS = 0.25
MAX_SAID = 1000
# What a user has to mend, other than a service that is away for a moment.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class Following:
    """Watches a mesh. Each method looks once and says what is new; `run` looks again and again."""

    def __init__(self, mesh: Mesh, source: Source, say: Callable[[str], None], *, colour: bool) -> None:
        self._mesh = mesh
        self._source = source
        self._say = say
        self._colour = colour
        self._fingerprint: Mapping[str, object] = fingerprint(source.directory)
        self._seen, self._seen_since = self._fingerprint, 0.0
        # `lateen up` has said these before it started anything.
        self._diagnostics: set[Diagnostic] = set(source.diagnostics)
        self._nacks: dict[str, tuple[str, ...]] = {}
        self._hinted: set[tuple[str, str]] = set()
        self._standings: dict[str, Standing] = {}
        self._failures: set[str] = set()

    async def run(self) -> None:
        """Until cancelled, or until the reaper is lost."""
        await self._look_at_diagnostics()
        while True:
            self._mesh.supervisor.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._mesh.supervisor.changed.wait(), POLL_SECONDS)
            if self._look_at_processes():
                return
            await self.follow_directory()
            await self._look_at_apps()
            await self._look_at_diagnostics()
            await self._look_at_proxies()

    def _look_at_processes(self) -> bool:
        events = self._mesh.supervisor.events
        lost = False
        while events:
            event = events.popleft()
            lost = lost or event.kind is EventKind.REAPER_LOST
            text = describe_event(event)
            if text:
                self._say(text)
            if event.kind is EventKind.CRASHING and (tail := self._mesh.tail(event.id)):
                self._say(f"the end of its log:\n{tail}")
        return lost

    async def _look_at_apps(self) -> None:
        await self._mesh.look_at_apps()
        now = self._mesh.standings
        if now != self._standings:
            for line in new_standings(self._standings, now):
                self._say(line)
            self._standings = dict(now)
            self._mesh.publish()

    async def follow_directory(self) -> None:
        """Start and stop replicas when the manifests ask for it. The control plane follows its part by itself."""
        now = await asyncio.to_thread(fingerprint, self._source.directory)
        if now != self._seen:
            self._seen, self._seen_since = now, time.monotonic()
        if now == self._fingerprint or time.monotonic() - self._seen_since < SETTLE_SECONDS:
            return  # nothing new, or somebody is still writing: half a file may be a valid one
        self._fingerprint = now
        source = await asyncio.to_thread(read_directory, self._source.directory)
        if source.invalid:
            return  # the control plane says what is wrong; what runs stays
        plan = source.plan()
        for diagnostic in plan.diagnostics:
            self._say(render_diagnostic(diagnostic, colour=self._colour))
        if any(d.severity is Severity.ERROR for d in plan.diagnostics):
            return
        for workload in self._needs_restart(plan):
            self._say(
                f"{workload.namespace}/{workload.name} has changed in more than its replicas and commands: restart lateen up"
            )
        await self._rescale(keep_running_proxies(self._mesh.plan, plan), source)

    async def _rescale(self, plan: Plan, source: Source) -> None:
        try:
            come, gone, changed = await self._mesh.rescale(plan, source)
        except OSError as error:
            self._fingerprint = {}  # a service restarts: again at the next look
            if error.errno in FULL and str(error) not in self._failures:
                self._failures.add(str(error))
                self._say(f"error: cannot follow the change, it is tried again: {error}")
            return
        except (StartError, NoRoomError, NetnsError) as error:
            self._say(f"error: {error}")
            return
        self._source = source
        self._failures.clear()
        for replica in come:
            self._say(f"started {replica.key} at {replica.address}")
        for replica in gone:
            self._say(f"stopped {replica.key}")
        for replica in changed:
            self._say(f"restarted the application of {replica.key}")
        if come or gone:
            self._mesh.publish()

    def _needs_restart(self, plan: Plan) -> list[Workload]:
        running = {(w.namespace, w.name): w for w in self._mesh.plan.workloads}
        changed = [
            workload
            for workload in plan.workloads
            if (old := running.get((workload.namespace, workload.name))) is not None and not same_proxy(old, workload)
        ]
        return [workload for workload in changed if self._first_time(workload)]

    def _first_time(self, workload: Workload) -> bool:
        key = (f"{workload.namespace}/{workload.name}", repr(workload))
        if key in self._hinted or len(self._hinted) >= MAX_SAID:
            return False
        self._hinted.add(key)
        return True

    async def _look_at_diagnostics(self) -> None:
        try:
            body: Mapping[str, Any] = await self._mesh.api_get("/v1/diagnostics")
            found = [parse_diagnostic(raw) for raw in body.get("diagnostics", ())]
        except (OSError, ValueError, KeyError, TypeError):
            return
        new = [d for d in found if d not in self._diagnostics and d.severity is not Severity.INFO]
        healed = self._diagnostics - set(found)
        self._diagnostics = set(found)
        for diagnostic in new:
            self._say(render_diagnostic(diagnostic, colour=self._colour))
        if any(d.severity is Severity.ERROR for d in healed) and not any(d.severity is Severity.ERROR for d in found):
            self._say("the configuration is valid again")

    async def _look_at_proxies(self) -> None:
        proxies = await self._mesh.proxies()
        if proxies is None:
            return
        for line in new_rejections(self._nacks, proxies):
            self._say(line)
        self._nacks = {key: status.problems for key, status in proxies.items() if status.problems}


def describe_event(event: ProcessEvent) -> str:
    """A line for people; empty for what needs none."""
    match event.kind:
        case EventKind.EXITED:
            return f"{event.id} {event.detail}, it starts again"
        case EventKind.CRASHING:
            return f"error: {event.id} {event.detail}, again and again; it is tried ever more rarely"
        case EventKind.REAPER_LOST:
            return f"error: {event.detail}: everything stops"
        case _:
            return ""


def new_standings(known: Mapping[str, Standing], now: Mapping[str, Standing]) -> list[str]:
    """Lines about applications that have begun to serve or do not listen; that one crashes is an event of its process."""
    lines = []
    for key, standing in now.items():
        old = known.get(key)
        if standing.state is AppState.NOT_LISTENING and (old is None or old.detail != standing.detail):
            lines.append(f"warning: {key}: {standing.detail}. it gets no traffic until it does")
        elif standing.note and (old is None or old.note != standing.note):
            lines.append(f"warning: {key}: {standing.note}")
        elif standing.serves and old is not None and old.hopeless:
            lines.append(f"{key} serves")
    return lines


def same_proxy(one: Workload, other: Workload) -> bool:
    """Whether only the number of replicas or what their processes execute differs: nothing that a proxy or a certificate knows."""
    return _known_to_proxy(one) == _known_to_proxy(other)


def _known_to_proxy(workload: Workload) -> tuple[object, ...]:
    return (dict(workload.labels), workload.service_account, dict(workload.service_ports), workload.listen_ports)


def keep_running_proxies(running: Plan, wanted: Plan) -> Plan:
    """The new plan, but with workloads that run already as their proxies know them, in the new number, and no new one under their names."""
    old = {(w.namespace, w.name): w for w in running.workloads}
    names = {w.log_name for w in running.workloads}
    workloads = []
    for workload in wanted.workloads:
        known = old.get((workload.namespace, workload.name))
        if known is not None and same_proxy(known, workload):
            workloads.append(replace(known, replicas=workload.replicas, containers=workload.containers))
        elif known is not None:
            workloads.append(replace(known, replicas=workload.replicas))
        elif workload.log_name in names:
            workloads.append(replace(workload, log_name=f"{workload.name}.{workload.namespace}"))
        else:
            workloads.append(workload)
    return replace(wanted, workloads=tuple(workloads))


_POLICY = "POLICY: "
_WHAT_HOLDS = {True: "which denies everything to this workload", False: "which keeps the last good configuration"}


def new_rejections(known: Mapping[str, tuple[str, ...]], proxies: Mapping[str, ProxyStatus]) -> list[str]:
    """Lines about configuration that a proxy has refused since the last look."""
    news = (
        replace(status, problems=tuple(p for p in status.problems if p not in known.get(key, ())))
        for key, status in proxies.items()
    )
    return [f"error: {text}, {_WHAT_HOLDS[text.startswith(_POLICY)]}" for text in rejected(news)]


def parse_diagnostic(raw: Mapping[str, Any]) -> Diagnostic:
    """A Diagnostic from its JSON form."""
    names = Diagnostic.__dataclass_fields__
    values = {name: value for name, value in raw.items() if name in names}
    return Diagnostic(**{**values, "severity": Severity(values["severity"])})
