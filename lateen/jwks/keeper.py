"""Keeps the keys of many issuers fresh, each by itself: one slow or broken issuer never holds up another.

Keys are fetched in the background and never on a request's path, with two bounded exceptions that a request may wait for: the very
first fetch, and one refetch when a token names a key that is not held. A refresh that fails leaves the keys held in use.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import httpx
import structlog

from lateen.clock import Clock, SystemClock, sleep_unless
from lateen.jwks.fetch import discover, fetch
from lateen.jwks.keys import JwksError, KeySet, parse_jwks


class KeyUri(NamedTuple):
    """What to fetch: a key set at `url`, or the one that the issuer's discovery document names."""

    url: str = ""
    issuer: str = ""

    def __str__(self) -> str:
        """As shown in status and logs."""
        return self.url or f"discovery of {self.issuer}"


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient the keeper is, in seconds."""

    refresh: float = 20 * 60.0
    retry_first: float = 0.5
    retry_ceiling: float = 5 * 60.0
    timeout: float = 5.0
    unknown_kid_interval: float = 10.0
    """At most one refetch for unknown keys in this time, however many tokens ask."""
    wait: float = 1.0
    """How long one request may wait for a fetch."""
    max_waiting: int = 200
    """How many may wait at a time: further ones go on with what is held, so that bad tokens cannot use up the server."""


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """How it stands with the keys of one issuer."""

    uri: str
    keys: int
    age: float | None
    """Seconds since the keys in use were fetched; None when there are none."""
    failures: int
    error: str


_DEFAULT_TIMING: Final = Timing()


class _Entry:
    """One URI: its keys, its state, and the task that keeps both."""

    def __init__(self, uri: KeyUri) -> None:
        self.uri = uri
        self.keys: KeySet | None = None
        self.fetched_at: float | None = None
        self.attempted_at: float | None = None
        self.failures = 0
        self.error = ""
        self.wake = asyncio.Event()
        self.attempted = asyncio.Event()
        self.timeout = 0.0
        self.waiting = 0
        self.task: asyncio.Task[None] | None = None


class KeyKeeper:
    """The keys of every URI that is wanted. All methods are for one event loop; `close` ends the background tasks."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        overrides: Mapping[str, str] | None = None,
        timing: Timing = _DEFAULT_TIMING,
        clock: Clock | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`overrides` maps the URLs that policies name to the ones to ask instead; `on_change` is told when keys were taken over."""
        self._client = client
        self._overrides = dict(overrides or {})
        self._timing = timing
        self._clock = clock or SystemClock()
        self._on_change = on_change
        self._entries: dict[KeyUri, _Entry] = {}
        self._log = structlog.get_logger()

    def want(self, uris: Iterable[tuple[KeyUri, float]]) -> None:
        """Follow exactly these URIs (each with the timeout of one fetch) from now on; keys of those kept stay as they are."""
        wanted: dict[KeyUri, float] = {}
        for uri, timeout in uris:
            wanted[uri] = max(timeout, wanted.get(uri, 0.0))
        for uri in [u for u in self._entries if u not in wanted]:
            _cancel(self._entries.pop(uri))
        for uri, timeout in wanted.items():
            entry = self._entries.get(uri)
            if entry is None:
                entry = self._entries[uri] = _Entry(uri)
                entry.timeout = timeout
                entry.task = asyncio.get_running_loop().create_task(self._keep(entry), name=f"jwks {uri}")
            entry.timeout = timeout

    def keys(self, uri: KeyUri) -> KeySet | None:
        """The keys held now, however old; None when none were ever fetched."""
        entry = self._entries.get(uri)
        return entry.keys if entry is not None else None

    def error(self, uri: KeyUri) -> str:
        """Why the last fetch failed; nothing when it did not, or is still under way."""
        entry = self._entries.get(uri)
        return entry.error if entry is not None else "not a key source of any policy"

    async def newer(self, uri: KeyUri, held: KeySet | None) -> KeySet | None:
        """Wait, within bounds, for other keys than `held`: the first fetch, or a refetch for an unknown key."""
        entry = self._entries.get(uri)
        if entry is None or entry.keys is not held:
            return entry.keys if entry is not None else None
        now = self._clock.monotonic()
        recent = entry.attempted_at is not None and now - entry.attempted_at < self._timing.unknown_kid_interval
        if recent and entry.attempted.is_set():
            return entry.keys
        if entry.waiting >= self._timing.max_waiting:
            return entry.keys
        if entry.attempted.is_set():
            entry.attempted.clear()
            entry.wake.set()
        entry.waiting += 1
        try:
            async with asyncio.timeout(self._timing.wait):
                await entry.attempted.wait()
        except TimeoutError:
            self._log.warning("a request did not get the keys in time", uri=str(uri))
        finally:
            entry.waiting -= 1
        return entry.keys

    async def asked(self, seconds: float) -> None:
        """Return when every source has been asked once, whatever it answered, and after `seconds` at the latest."""
        waiting = [
            asyncio.create_task(entry.attempted.wait()) for entry in self._entries.values() if entry.fetched_at is None
        ]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=seconds)
            for task in late:
                task.cancel()

    def status(self) -> tuple[KeyStatus, ...]:
        """How it stands with every URI."""
        return tuple(status for _, status in self.sources())

    def sources(self) -> tuple[tuple[KeyUri, KeyStatus], ...]:
        """Every URI with how it stands."""
        now = self._clock.monotonic()
        return tuple((entry.uri, _status(entry, now)) for entry in self._entries.values())

    async def close(self) -> None:
        """End all fetching."""
        tasks = [_cancel(entry) for entry in self._entries.values()]
        self._entries.clear()
        await asyncio.gather(*(t for t in tasks if t is not None), return_exceptions=True)

    async def _keep(self, entry: _Entry) -> None:
        while True:
            entry.wake.clear()
            entry.attempted_at = self._clock.monotonic()
            await self._attempt(entry)
            entry.attempted.set()
            await self._pause(entry)

    async def _attempt(self, entry: _Entry) -> None:
        try:
            body = await self._fetch(entry)
            keys = parse_jwks(body)
        except JwksError as error:
            entry.failures += 1
            entry.error = str(error)
            self._log.warning(
                "keys could not be fetched", uri=str(entry.uri), error=entry.error, keeping=entry.keys is not None
            )
            return
        except Exception as error:  # noqa: BLE001 - whatever an issuer sends, the next attempt must come
            entry.failures += 1
            entry.error = f"{type(error).__name__}: {error}"
            self._log.exception("keys could not be fetched", uri=str(entry.uri))
            return
        entry.failures = 0
        entry.error = ""
        entry.fetched_at = self._clock.monotonic()
        if entry.keys is None or not _same(entry.keys, keys):
            entry.keys = keys
            self._log.info("keys taken over", uri=str(entry.uri), keys=len(keys.keys), skipped=keys.skipped)
            self._on_change()

    async def _fetch(self, entry: _Entry) -> bytes:
        timeout = entry.timeout or self._timing.timeout
        url = entry.uri.url or await discover(self._client, entry.uri.issuer, timeout, self._overrides)
        return await fetch(self._client, self._overrides.get(url, url), timeout)

    async def _pause(self, entry: _Entry) -> None:
        delay = self._timing.refresh
        if entry.failures:
            delay = min(self._timing.retry_ceiling, self._timing.retry_first * 2.0 ** min(entry.failures - 1, 20))
        delay *= random.uniform(0.8, 1.0)  # noqa: S311 - jitter, not a secret
        await sleep_unless(self._clock, delay, entry.wake)


def _status(entry: _Entry, now: float) -> KeyStatus:
    return KeyStatus(
        uri=str(entry.uri),
        keys=len(entry.keys.keys) if entry.keys is not None else 0,
        age=None if entry.fetched_at is None else now - entry.fetched_at,
        failures=entry.failures,
        error=entry.error,
    )


def _cancel(entry: _Entry) -> asyncio.Task[None] | None:
    if entry.task is not None:
        entry.task.cancel()
    return entry.task


def _same(one: KeySet, other: KeySet) -> bool:
    """Whether a refresh brought nothing new, so that tokens verified with the keys held stay in the cache."""
    if [(k.kid, k.algorithms) for k in one.keys] != [(k.kid, k.algorithms) for k in other.keys]:
        return False
    return all(a.key == b.key for a, b in zip(one.keys, other.keys, strict=True))
