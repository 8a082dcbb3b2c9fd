"""Keeps what plugins run: modules fetched in the background, each by itself, checked, and tried before any proxy is told.

Whatever goes wrong, what was served before stays: while a module cannot be fetched, does not fit its configuration or is refused by
Envoy, and over a restart of the control plane. Only a plugin of which nothing was ever good is a stub (plugins.py).
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import structlog

from lateen.clock import Clock, sleep_unless
from lateen.controlplane.plugin_metrics import PluginMetrics
from lateen.controlplane.plugin_requests import NO_USE, Problem, Request, fit, refused, requests_of
from lateen.controlplane.plugin_trial import Trial, TrialUnavailableError
from lateen.controlplane.plugins import Awaited, LuaServing, Serving, WasmServing
from lateen.controlplane.wasm_ahead import AheadOfTime
from lateen.controlplane.wasm_binary import ModuleFacts, read_module
from lateen.controlplane.wasm_fetch import Credentials, Fetcher
from lateen.controlplane.wasm_store import ModuleStore
from lateen.controlplane.wasm_url import DigestError, ModuleError, ModuleUrl
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.view import MeshView

_MAX_TRIED: Final = 4_000
_BATCH: Final = 20
_FETCHES: Final = 4


@dataclass(frozen=True, slots=True)
class KeeperTiming:
    """How patient the keeper is, in seconds. `refresh` is for modules that are always asked for again."""

    refresh: float = 300.0
    retry_first: float = 1.0
    retry_ceiling: float = 300.0
    look: float = 0.5
    """How often files are looked at."""


class PluginStanding(StrEnum):
    """How it stands with a plugin."""

    READY = "READY"
    PENDING = "PENDING"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class PluginState:
    """One plugin. `serving` is what proxies have, which is older than what is wanted unless it is READY."""

    key: ResourceKey
    standing: PluginStanding
    serving: Serving | None
    reason: str = ""
    problem: Problem | None = None

    def to_dict(self) -> dict[str, Any]:
        """As in GET /v1/plugins."""
        module = self.serving.digest if isinstance(self.serving, WasmServing) else ""
        return {
            "resource": str(self.key),
            "kind": self.key.kind,
            "namespace": self.key.namespace,
            "name": self.key.name,
            "state": self.standing.value,
            "serving": self.serving is not None,
            "module": module,
            "filter": self.serving.name if isinstance(self.serving, WasmServing) else "",
            "ahead_of_time": isinstance(self.serving, WasmServing) and self.serving.native is not None,
            "reason": self.reason,
        }


class _Module:
    """One module that is wanted: what is held of it, and the task that gets it."""

    def __init__(self, url: ModuleUrl, credentials: Credentials | None) -> None:
        self.url = url
        self.credentials = credentials
        self.digest = ""
        self.facts: ModuleFacts | None = None
        self.unusable = ""
        self.error = ""
        self.other_digest = False
        """Whether the error is that another sha256 is demanded."""
        self.failures = 0
        self.seen: tuple[int, ...] | None = None
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class PluginKeeper:
    """Follows the plugins of a mesh. `serving` and `states` may be asked from any thread, all else belongs to the event loop."""

    def __init__(
        self,
        store: ModuleStore,
        fetcher: Fetcher,
        trial: Trial,
        clock: Clock,
        changed: Callable[[], None],
        *,
        metrics: PluginMetrics,
        timing: KeeperTiming | None = None,
        ahead: AheadOfTime | None = None,
    ) -> None:
        """`changed` is told when something else is served than before, or for other reasons not. Without `ahead` Envoy compiles modules."""
        self._store = store
        self._fetcher = fetcher
        self._trial = trial
        self._clock = clock
        self._changed = changed
        self._metrics = metrics
        self._timing = timing or KeeperTiming()
        self._ahead = ahead
        self._requests: Mapping[ResourceKey, Request] = {}
        self._modules: dict[ModuleUrl, _Module] = {}
        self._known_urls: dict[str, str] = {}
        self._tried: OrderedDict[Serving, str] = OrderedDict()
        self._good: Mapping[ResourceKey, Serving] = {}
        self._problems: Mapping[ResourceKey, Problem] = {}
        self._fetching = asyncio.Semaphore(_FETCHES)
        self._untried = asyncio.Event()
        self._tester: asyncio.Task[None] | None = None
        self._without_trial = False
        self._log = structlog.get_logger()
        self.states: Mapping[ResourceKey, PluginState] = {}

    # what others ask

    def serving(self, key: ResourceKey) -> Serving | Awaited | None:
        """What proxies get for a plugin now; None for a stub."""
        good, state = self._good.get(key), self.states.get(key)
        # What is not known any more, or not yet, needs no stub either.
        waits = good is None and (state is None or state.standing is PluginStanding.PENDING)
        return Awaited.AWAITED if waits else good

    @property
    def pending(self) -> frozenset[ResourceKey]:
        """The plugins of which something is under way: proxies that have them do not have everything yet."""
        return frozenset(k for k, state in self.states.items() if state.standing is PluginStanding.PENDING)

    # what is wanted

    async def restore(self) -> None:
        """Take over what was served before the last restart."""
        await asyncio.to_thread(self._restore)
        if self._ahead is None:
            return
        modules = {serving.digest for serving in self._good.values() if isinstance(serving, WasmServing)}
        await self._ahead.restore(sorted(modules))
        self._good = {key: self._finished(serving) or serving for key, serving in self._good.items()}

    def _restore(self) -> None:
        state = self._store.load_state()
        urls, good = state.get("urls"), state.get("good")
        self._known_urls = {str(k): str(v) for k, v in urls.items()} if isinstance(urls, dict) else {}
        restored: dict[ResourceKey, Serving] = {}
        for key, value in good.items() if isinstance(good, dict) else ():
            serving = _revived(value, self._store)
            parts = key.split("/")
            if serving is not None and len(parts) == len(ResourceKey._fields):
                restored[ResourceKey(*parts)] = serving
                self._remember(serving, "")
        self._good = restored

    def follow(self, view: MeshView) -> None:
        """Get what the plugins of this view need, and nothing else."""
        self._requests = requests_of(view)
        wanted = {r.url: r.credentials for r in self._requests.values() if r.url is not None}
        for url in [u for u in self._modules if u not in wanted]:
            self._end(self._modules.pop(url))
        for url, credentials in wanted.items():
            module = self._modules.get(url)
            if module is None:
                module = self._modules[url] = _Module(url, credentials)
                module.task = asyncio.get_running_loop().create_task(self._keep(module), name=f"module {url}")
            elif module.credentials != credentials:
                module.credentials = credentials
                module.wake.set()
        if self._requests and self._tester is None:
            self._tester = asyncio.get_running_loop().create_task(self._try_all(), name="plugin trials")
        self._settle()

    async def close(self) -> None:
        """End all fetching and trying."""
        tasks = [self._end(module) for module in self._modules.values()]
        self._modules.clear()
        if self._tester is not None:
            self._tester.cancel()
            tasks.append(self._tester)
        await asyncio.gather(*(t for t in tasks if t is not None), return_exceptions=True)

    @staticmethod
    def _end(module: _Module) -> asyncio.Task[None] | None:
        if module.task is not None:
            module.task.cancel()
        return module.task

    # getting modules

    async def _keep(self, module: _Module) -> None:
        await self._from_store(module)
        while True:
            module.wake.clear()
            if module.url.kind == "file":
                seen = await asyncio.to_thread(_signature, Path(module.url.url))
                if seen != module.seen:
                    module.seen = seen
                    await self._attempt(module)
            elif not module.digest or module.failures or module.url.always:
                await self._attempt(module)
            await self._pause(module)

    async def _from_store(self, module: _Module) -> None:
        """A module that is not always asked for again, and was had before."""
        digest = self._known_urls.get(_url_key(module.url), "")
        if digest and module.url.kind != "file":
            data = await asyncio.to_thread(self._store.get, digest)
            if data is not None:
                await self._take(module, data)

    async def _attempt(self, module: _Module) -> None:
        try:
            async with self._fetching:
                data = await self._fetcher.fetch(module.url, module.credentials)
                await self._take(module, data)
            self._metrics.fetches.labels("ok").inc()
        except ModuleError as error:
            module.other_digest = isinstance(error, DigestError)
            self._failed(module, str(error))
        except OSError as error:
            module.seen = None
            self._failed(module, f"it cannot be stored: {error.strerror}")
        except Exception as error:  # noqa: BLE001 - whatever a server sends, the next attempt must come
            self._log.exception("a module could not be fetched", url=str(module.url))
            self._failed(module, f"{type(error).__name__}: {error}")
        self._settle()

    async def _take(self, module: _Module, data: bytes) -> None:
        digest = await asyncio.to_thread(self._store.put, data)
        new = digest != module.digest
        if new:
            module.facts, module.unusable = None, ""
            try:
                module.facts = await asyncio.to_thread(read_module, data)
            except ModuleError as error:
                module.unusable = str(error)
        module.digest, module.error, module.failures = digest, "", 0
        if new:
            self._log.info("module taken over", url=str(module.url), sha256=digest, bytes=len(data))
            if module.url.kind != "file":
                self._known_urls[_url_key(module.url)] = digest
        self._settle()

    def _failed(self, module: _Module, error: str) -> None:
        module.failures += 1
        self._metrics.fetches.labels("failed").inc()
        if error != module.error:
            module.error = error
            self._log.warning("module cannot be fetched", url=str(module.url), error=error, keeping=bool(module.digest))

    async def _pause(self, module: _Module) -> None:
        timing = self._timing
        delay = timing.look if module.url.kind == "file" else timing.refresh
        if module.failures and module.url.kind != "file":
            delay = min(timing.retry_ceiling, timing.retry_first * 2.0 ** min(module.failures - 1, 20))
            delay *= random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        await sleep_unless(self._clock, delay, module.wake)

    # trying

    async def _try_all(self) -> None:
        while True:
            await self._untried.wait()
            self._untried.clear()
            while True:
                if batch := self._next_batch():
                    await self._try(batch)
                elif self._ahead is not None and (batch := self._next_unfinished()):
                    await self._ahead.prepare([s for s in batch if isinstance(s, WasmServing)])
                else:
                    break
                self._settle()

    def _next_batch(self) -> list[Serving]:
        """Some that share a VM, or some scripts: one process can try them all."""
        waiting = dict.fromkeys(s for r in self._requests.values() if isinstance(s := self._wanted(r), Serving))
        untried = [serving for serving in waiting if serving not in self._tried]
        if not untried:
            return []
        first = _together(untried[0])
        return [serving for serving in untried if _together(serving) == first][:_BATCH]

    def _next_unfinished(self) -> list[Serving]:
        """Those of one module that Envoy takes, but nothing was decided about its machine code."""
        wanted = (self._wanted(request) for request in self._requests.values())
        waiting = [
            s
            for s in wanted
            if isinstance(s, WasmServing) and not self._tried.get(s, "?") and self._finished(s) is None
        ]
        return [serving for serving in dict.fromkeys(waiting) if serving.digest == waiting[0].digest]

    def _finished(self, serving: Serving) -> Serving | None:
        """With its machine code, if there is any to be had; None as long as that is not known."""
        if self._ahead is None or not isinstance(serving, WasmServing):
            return serving
        return (
            replace(serving, native=self._ahead.native(serving.digest)) if self._ahead.decided(serving.digest) else None
        )

    async def refused(self, key: ResourceKey, reason: str) -> None:
        """An Envoy does not take what it was sent for a plugin: it may be the machine code."""
        serving = self._good.get(key)
        if self._ahead is None or not isinstance(serving, WasmServing) or serving.native is None:
            return
        if await self._ahead.refused(serving.digest, reason):
            self._settle()

    async def _try(self, batch: list[Serving]) -> None:
        try:
            reason = await self._trial(batch)
            if reason and len(batch) > 1:
                for serving in batch:
                    self._remember(serving, await self._trial([serving]))
                return
        except TrialUnavailableError as error:
            if not self._without_trial:
                self._log.warning("plugins are not tried before they are pushed", reason=str(error))
            self._without_trial, reason = True, ""
        except Exception as error:  # noqa: BLE001 - the others must be tried
            self._log.exception("a plugin could not be tried")
            reason = f"it could not be tried: {type(error).__name__}: {error}"
        for serving in batch:
            self._remember(serving, reason)

    def _remember(self, serving: Serving, reason: str) -> None:
        self._tried[serving] = reason
        self._metrics.trials.labels("refused" if reason else "ok").inc()
        while len(self._tried) > _MAX_TRIED:
            self._tried.popitem(last=False)

    # judging

    def _wanted(self, request: Request) -> Serving | Problem | None:
        """What is to be served, a problem, or None as long as the module is on its way. Nothing is tried here."""
        if request.problem is not None or request.script is not None:
            return request.problem or request.script
        module = self._modules.get(request.url) if request.url is not None else None
        if module is None or not (module.digest or module.error):
            return None
        if not module.digest:
            return request.blamed(f"{module.url}: {module.error}", digest=module.other_digest)
        if module.facts is None:
            return Problem(NO_USE, (*request.base, "url"), module.unusable)
        return fit(request, module.digest, str(self._store.path(module.digest)), module.facts)

    def _state(self, request: Request) -> PluginState:
        wanted, good = self._wanted(request), self._good.get(request.key)
        if isinstance(wanted, Problem):
            return PluginState(request.key, PluginStanding.FAILED, good, wanted.message, wanted)
        if wanted is None:
            return PluginState(request.key, PluginStanding.PENDING, good, "its module is being fetched")
        reason = self._tried.get(wanted)
        if reason is None:
            return PluginState(request.key, PluginStanding.PENDING, good, "it is being tried")
        if reason:
            problem = refused(request, reason)
            return PluginState(request.key, PluginStanding.FAILED, good, problem.message, problem)
        finished = self._finished(wanted)
        if finished is None:
            return PluginState(request.key, PluginStanding.PENDING, good, "its machine code is being made")
        wanted = finished
        module = self._modules.get(request.url) if request.url is not None else None
        stale = module.error if module is not None else ""
        if stale:
            problem = request.blamed(f"{request.url}: {stale}", digest=module is not None and module.other_digest)
            return PluginState(request.key, PluginStanding.READY, wanted, f"an older module: {stale}", problem)
        return PluginState(request.key, PluginStanding.READY, wanted)

    def _settle(self) -> None:
        """Look how everything stands, and tell whoever wants to know."""
        states = {key: self._state(request) for key, request in self._requests.items()}
        good = {key: state.serving for key, state in states.items() if state.serving is not None}
        problems = {key: state.problem for key, state in states.items() if state.problem is not None}
        before, before_problems = self._good, self._problems
        self.states, self._good, self._problems = states, good, problems
        self._metrics.count(state.standing.value for state in states.values())
        if self.pending:
            self._untried.set()
        for key, problem in problems.items():
            if before_problems.get(key) != problem:
                self._log.error("plugin is not in effect as it is written", resource=str(key), reason=problem.message)
        if good != before:
            self._save()
        if good != before or problems != before_problems:
            self._changed()

    def _save(self) -> None:
        """A few kilobytes, and only when something else is served: written in place."""
        live = {_url_key(url) for url in self._modules}
        self._known_urls = {key: value for key, value in self._known_urls.items() if key in live}
        good = {str(key): asdict(serving) for key, serving in self._good.items()}
        if good or self._store.directory.is_dir():
            self._store.save_state({"urls": self._known_urls, "good": good})
        held = {module.digest for module in self._modules.values()}
        served = {serving.digest for serving in self._good.values() if isinstance(serving, WasmServing)}
        self._metrics.stored.set(self._store.prune(held | served))


def _together(serving: Serving) -> str:
    return serving.digest if isinstance(serving, WasmServing) else ""


def _url_key(url: ModuleUrl) -> str:
    return f"{url.kind} {url.image or url.url} {url.sha256} {'/'.join(url.secret)}"


def _signature(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _revived(value: Any, store: ModuleStore) -> Serving | None:  # noqa: ANN401 - JSON of our own
    """What `asdict` made, if its module is still there."""
    try:
        if set(value) == {"code"}:
            return LuaServing(str(value["code"]))
        digest = str(value["digest"])
        if store.get(digest) is None:
            return None
        pairs: Iterable[tuple[str, str]] = ((str(k), str(v)) for k, v in value["env"])
        return WasmServing(
            digest, str(store.path(digest)), str(value["name"]), str(value["configuration"]), tuple(pairs),
            tuple(map(str, value["host_env"])), bool(value["ours"]), bool(value["network"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        return None
