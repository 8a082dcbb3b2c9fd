"""Keeps what plugins run: modules fetched in the background, each by itself, checked, and tried before any proxy is told.

Whatever goes wrong, what was served before stays: while a module cannot be fetched, does not fit its configuration or is refused by
Envoy, and over a restart of the control plane. Only a plugin of which nothing was ever good is a stub (plugins.py).
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import structlog

from lateen.clock import Clock, sleep_unless
from lateen.controlplane.envoy_trial import TrialUnavailableError
from lateen.controlplane.plugin_metrics import PluginMetrics
from lateen.controlplane.plugin_modules import Module, judged, revived, signature, together, url_key
from lateen.controlplane.plugin_requests import NO_USE, Problem, Request, fit, refused, requests_of
from lateen.controlplane.plugin_trial import Trial, Verdict
from lateen.controlplane.plugins import Awaited, Serving, WasmServing
from lateen.controlplane.wasm_ahead import AheadOfTime
from lateen.controlplane.wasm_binary import ModuleFacts
from lateen.controlplane.wasm_fetch import Fetcher
from lateen.controlplane.wasm_store import ModuleStore
from lateen.controlplane.wasm_url import DigestError, ModuleError, ModuleUrl
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.view import MeshView

_MAX_TRIED: Final = 4_000
_BATCH: Final = 20
_LONGEST_DOUBT: Final = 3600.0
_FETCHES: Final = 4
"""At once, of each kind: files, what is asked of others, and what they have failed to give before."""


@dataclass(frozen=True, slots=True)
class KeeperTiming:
    """How patient the keeper is, in seconds. `refresh` is for modules that are always asked for again."""

    refresh: float = 300.0
    retry_first: float = 1.0
    retry_ceiling: float = 300.0
    look: float = 0.5
    """How often files are looked at."""
    doubt: float = 60.0
    """After which a trial that came to nothing is made again, doubled each time, at most an hour."""


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
        self._modules: dict[ModuleUrl, Module] = {}
        self._known_urls: dict[str, str] = {}
        self._tried: OrderedDict[Serving, str] = OrderedDict()
        self._good: Mapping[ResourceKey, Serving] = {}
        self._problems: Mapping[ResourceKey, Problem] = {}
        self._fitted: dict[ResourceKey, tuple[Request, ModuleFacts, WasmServing | Problem]] = {}
        self._doubts: dict[Serving, tuple[int, float]] = {}
        self._reading, self._fetching, self._retrying = (asyncio.Semaphore(_FETCHES) for _ in range(3))
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
            serving = revived(value, self._store)
            parts = key.split("/")
            if serving is not None and len(parts) == len(ResourceKey._fields):
                restored[ResourceKey(*parts)] = serving
        self._good = restored

    def follow(self, view: MeshView) -> None:
        """Get what the plugins of this view need, and nothing else."""
        self._requests = requests_of(view)
        self._fitted.clear()
        wanted = {r.url: r.credentials for r in self._requests.values() if r.url is not None}
        for url in [u for u in self._modules if u not in wanted]:
            self._end(self._modules.pop(url))
        for url, credentials in wanted.items():
            module = self._modules.get(url)
            if module is None:
                module = self._modules[url] = Module(url, credentials)
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
    def _end(module: Module) -> asyncio.Task[None] | None:
        if module.task is not None:
            module.task.cancel()
        return module.task

    # getting modules

    async def _keep(self, module: Module) -> None:
        await self._from_store(module)
        while True:
            module.wake.clear()
            seen, lost = await asyncio.to_thread(self._look, module)
            new = not module.digest or module.failures or module.url.always
            if lost or (seen != module.seen if module.url.kind == "file" else new):
                module.seen = seen
                await self._attempt(module)
            await self._pause(module)

    def _look(self, module: Module) -> tuple[tuple[int, ...], bool]:
        """What its file looks like from outside, and whether what we keep of it is not there any more."""
        lost = module.facts is not None and not self._store.path(module.digest).exists()
        return signature(Path(module.url.url)) if module.url.kind == "file" else (), lost

    async def _from_store(self, module: Module) -> None:
        """A module that is not always asked for again, and was had before."""
        digest = self._known_urls.get(url_key(module.url), "")
        if not digest or module.url.kind == "file":
            return
        try:
            data = await asyncio.to_thread(self._store.get, digest)
            if data is not None:
                await self._take(module, data)
        except OSError as error:
            self._log.error("a stored module cannot be used, it is fetched again", sha256=digest, error=str(error))

    async def _attempt(self, module: Module) -> None:
        lane = self._reading if module.url.kind == "file" else self._retrying if module.failures else self._fetching
        try:
            async with lane:
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

    async def _take(self, module: Module, data: bytes) -> None:
        digest, facts, unusable = await asyncio.to_thread(judged, data)
        if facts is not None:  # nothing else is written where proxies may read
            await asyncio.to_thread(self._store.put, data)
        new = digest != module.digest
        if new:
            module.facts, module.unusable = facts, unusable
        module.digest, module.error, module.failures = digest, "", 0
        if new:
            self._log.info("module taken over", url=str(module.url), sha256=digest, bytes=len(data))
            if module.url.kind != "file" and facts is not None:
                self._known_urls[url_key(module.url)] = digest
            await self._prune()
        self._settle()

    def _failed(self, module: Module, error: str) -> None:
        module.failures += 1
        self._metrics.fetches.labels("failed").inc()
        if error != module.error:
            module.error = error
            self._log.warning("module cannot be fetched", url=str(module.url), error=error, keeping=bool(module.digest))

    async def _pause(self, module: Module) -> None:
        timing = self._timing
        delay = timing.look if module.url.kind == "file" else timing.refresh
        if module.failures and module.url.kind != "file":
            delay = min(timing.retry_ceiling, timing.retry_first * 2.0 ** min(module.failures - 1, 20))
            delay *= random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        await sleep_unless(self._clock, delay, module.wake)

    # trying

    async def _try_all(self) -> None:
        while True:
            await self._until_untried()
            while True:
                if batch := self._next_batch():
                    await self._try(batch)
                elif self._ahead is not None and (batch := self._next_unfinished()):
                    await self._ahead.prepare([s for s in batch if isinstance(s, WasmServing)])
                else:
                    break
                self._settle()

    async def _until_untried(self) -> None:
        """Wait for something new, or for the next of those that are to be tried again."""
        while not self._untried.is_set():
            if not self._doubts:
                await self._untried.wait()
                break
            left = min(at for _, at in self._doubts.values()) - self._clock.monotonic()
            await sleep_unless(self._clock, max(left, 0.0), self._untried)
            self._try_again()
        self._untried.clear()

    def _try_again(self) -> None:
        now = self._clock.monotonic()
        wanted = {self._wanted(request) for request in self._requests.values()}
        for serving, (_, at) in list(self._doubts.items()):
            if serving not in wanted:
                del self._doubts[serving]
            elif at <= now and self._tried.pop(serving, None) is not None:
                self._untried.set()

    def _next_batch(self) -> list[Serving]:
        """Some scripts, else some that share a VM: one process can try them all."""
        waiting = dict.fromkeys(s for r in self._requests.values() if isinstance(s := self._wanted(r), Serving))
        untried = [serving for serving in waiting if serving not in self._tried]
        if not untried:
            return []
        first = min(map(together, untried), key=bool)  # scripts take no time
        return [serving for serving in untried if together(serving) == first][:_BATCH]

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
            verdict = await self._trial(batch)
        except TrialUnavailableError as error:
            if not self._without_trial:
                self._log.warning("plugins are not tried before they are pushed", reason=str(error))
            self._without_trial, verdict = True, Verdict("", 0)
        except Exception as error:  # noqa: BLE001 - the others must be tried, and this one again
            if len(batch) == 1:
                self._log.error("a plugin could not be tried", reason=str(error))
                self._doubt(batch[0], f"it could not be tried: {error}")
                return
            verdict = Verdict(f"too much at once: {error}", 0)
        if verdict.reason and len(batch) > 1:
            half = len(batch) // 2
            await self._try(batch[:half])
            await self._try(batch[half:])
            return
        self._metrics.trials.labels("refused" if verdict.reason else "ok").inc(verdict.tried)
        for serving in batch:
            self._doubts.pop(serving, None)
            self._remember(serving, verdict.reason)

    def _doubt(self, serving: Serving, reason: str) -> None:
        """Nothing is known of it: for now it counts as refused."""
        self._metrics.trials.labels("failed").inc()
        times, _ = self._doubts.get(serving, (0, 0.0))
        later = min(self._timing.doubt * 2.0 ** min(times, 20), _LONGEST_DOUBT)
        self._doubts[serving] = times + 1, self._clock.monotonic() + later
        self._remember(serving, reason)

    def _remember(self, serving: Serving, reason: str) -> None:
        self._tried[serving] = reason
        while len(self._tried) > _MAX_TRIED:
            self._doubts.pop(self._tried.popitem(last=False)[0], None)

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
        known = self._fitted.get(request.key)
        if known is not None and known[0] is request and known[1] is module.facts:
            return known[2]
        found = fit(request, module.digest, str(self._store.path(module.digest)), module.facts)
        self._fitted[request.key] = request, module.facts, found
        return found

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
        good = {str(key): asdict(serving) for key, serving in self._good.items()}
        if good or self._store.directory.is_dir():
            self._store.save_state({"urls": self._known_urls, "good": good})

    async def _prune(self) -> None:
        """Forget what nobody has asked for in a long time, and all that is known of other addresses."""
        live = {url_key(url) for url in self._modules}
        self._known_urls = {key: value for key, value in self._known_urls.items() if key in live}
        held = {module.digest for module in self._modules.values()}
        served = {serving.digest for serving in self._good.values() if isinstance(serving, WasmServing)}
        self._metrics.stored.set(await asyncio.to_thread(self._store.prune, held | served))
