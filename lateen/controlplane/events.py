"""What happens in the control plane, told live to whoever listens (`GET /v1/events`): bounded, so a slow listener loses, not we."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

Event = Mapping[str, object]
_KEPT = 256
_MAX_LISTENERS = 64


class TooManyListeners(Exception):  # noqa: N818 - an answer, not a failure
    """As many listen already as are allowed."""


class Listener:
    """One subscription: the newest events, and how many were lost because they were not fetched in time."""

    def __init__(self) -> None:
        """Begin with nothing to tell."""
        self._queue: deque[Event] = deque()
        self._ready = asyncio.Event()
        self._lost = 0

    def put(self, event: Event) -> None:
        """Add an event; the oldest goes when the listener lags."""
        if len(self._queue) >= _KEPT:
            self._queue.popleft()
            self._lost += 1
        self._queue.append(event)
        self._ready.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate the events for ever."""
        while True:
            while not self._queue:
                self._ready.clear()
                await self._ready.wait()
            if self._lost:
                lost, self._lost = self._lost, 0
                yield {"event": "lost", "count": lost}
            yield self._queue.popleft()


class Events:
    """The place events are published to."""

    def __init__(self) -> None:
        """Begin without listeners."""
        self._listeners: set[Listener] = set()

    def publish(self, event: str, **fields: object) -> None:
        """Tell every listener."""
        if self._listeners:
            told = {"event": event, **fields}
            for listener in self._listeners:
                listener.put(told)

    @contextmanager
    def listen(self) -> Iterator[Listener]:
        """Receive events inside the `with` block."""
        if len(self._listeners) >= _MAX_LISTENERS:
            raise TooManyListeners
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
