"""`lateen.clock` and the fake that stands in for it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from lateen.clock import Clock, SystemClock
from tests.fakes.clock import FakeClock


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()], ids=["system", "fake"])
def test_now_is_aware_and_in_utc(clock: Clock) -> None:
    assert clock.now().utcoffset() == timedelta(0)


async def test_system_clock_sleeps() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - before >= 0.01


async def test_fake_clock_runs_a_loop_as_often_as_time_would() -> None:
    clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
    seen: list[float] = []

    async def every_ten_seconds() -> None:
        while True:
            await clock.sleep(10)
            seen.append(clock.monotonic())

    async with asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(every_ten_seconds())
        await clock.advance(35)
        assert seen == [10, 20, 30]
        assert clock.sleepers == 1
        loop.cancel()
    assert clock.now() == datetime(2026, 3, 1, 0, 0, 35, tzinfo=UTC)
    assert clock.sleepers == 0


async def test_fake_clock_wakes_in_order_of_deadline() -> None:
    clock = FakeClock()
    woken: list[str] = []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    async with asyncio.TaskGroup() as tasks:
        for name, seconds in (("late", 3.0), ("early", 1.0), ("never waits", 0.0)):
            tasks.create_task(sleep(name, seconds))
        await clock.advance(5)
    assert woken == ["never waits", "early", "late"]


def test_tick_moves_time_without_an_event_loop() -> None:
    clock = FakeClock()
    before = clock.now()
    clock.tick(1.5)
    assert clock.now() - before == timedelta(seconds=1.5)
