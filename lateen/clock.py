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


async def sleep_unless(clock: Clock, seconds: float, woken: asyncio.Event) -> None:
    """Wait until the time is over or the event is set, whichever comes first."""
    sleeper = asyncio.ensure_future(clock.sleep(seconds))
    waker = asyncio.ensure_future(woken.wait())
    try:
        await asyncio.wait({sleeper, waker}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeper.cancel()
        waker.cancel()
