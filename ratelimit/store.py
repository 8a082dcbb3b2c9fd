"""The seam between deciding and counting."""

from collections.abc import Sequence
from typing import Protocol

from ratelimit.window import Window


class StoreError(Exception):
    """The store cannot count now; what that means for a request is its policy's `failureMode`."""


class CounterStore(Protocol):
    """Counts hits in windows. One contract suite runs against each implementation (tests/ratelimit/test_store.py)."""

    async def add(self, hits: Sequence[tuple[str, Window, int]]) -> list[int]:
        """Add to each (key, window) the hits given and return what each counts now, these hits included.

        With 0 hits a counter is only read. Raises StoreError when any of them could not be counted.
        """

    async def ready(self) -> bool:
        """Whether the store answers now."""

    async def close(self) -> None:
        """Let go of connections."""
