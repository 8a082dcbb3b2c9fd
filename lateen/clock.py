"""Time as an argument: loops take a `Clock`, so that tests never sleep. Pure functions take `now: datetime` instead."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What our loops may know of time."""

    def now(self) -> datetime:
        """Wall clock, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go backwards: for durations and deadlines."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; zero or less only gives way to other tasks."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
