"""Counters in this process: for one replica, when no Redis can be had."""

from collections import OrderedDict
from collections.abc import Sequence

from lateen.clock import Clock
from ratelimit.window import Window

MAX_COUNTERS = 100_000


class MemoryStore:
    """A bounded table of counters; when it is full, windows that ended go first, then the oldest."""

    def __init__(self, clock: Clock, max_counters: int = MAX_COUNTERS) -> None:
        self._clock = clock
        self._max = max_counters
        self._counters: OrderedDict[tuple[str, int], tuple[int, int]] = OrderedDict()

    async def add(self, hits: Sequence[tuple[str, Window, int]]) -> list[int]:
        """See CounterStore."""
        totals = []
        for key, window, count in hits:
            slot = (key, window.start)
            total = self._counters.get(slot, (0, 0))[0] + count
            if count:
                if slot not in self._counters:
                    self._make_room()
                self._counters[slot] = (total, window.end)
            totals.append(total)
        return totals

    async def ready(self) -> bool:
        """Always."""
        return True

    async def close(self) -> None:
        """Nothing to let go of."""

    def _make_room(self) -> None:
        if len(self._counters) < self._max:
            return
        now = self._clock.now().timestamp()
        for slot in [slot for slot, (_, end) in self._counters.items() if end <= now]:
            del self._counters[slot]
        while len(self._counters) >= self._max:
            self._counters.popitem(last=False)
