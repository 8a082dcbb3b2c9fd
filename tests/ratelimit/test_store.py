"""The contract of CounterStore, held by memory and by a real Redis alike."""

import asyncio
import os
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from ratelimit.memory_store import MemoryStore
from ratelimit.redis_store import RedisStore
from ratelimit.store import CounterStore, StoreError
from ratelimit.window import Window
from tests.fakes.clock import FakeClock

NOW = int(FakeClock().now().timestamp())
MINUTE = Window(start=NOW - NOW % 60, length=60)
NEXT = Window(start=MINUTE.end, length=60)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[CounterStore]:
    if request.param == "memory":
        yield MemoryStore(FakeClock())
        return
    _, url = request.getfixturevalue("redis_process")
    redis_store = RedisStore(url)
    yield redis_store
    await redis_store.close()


def key() -> str:
    return uuid.uuid4().hex


async def test_hits_add_up_within_a_window(store: CounterStore) -> None:
    k = key()
    assert await store.add([(k, MINUTE, 1)]) == [1]
    assert await store.add([(k, MINUTE, 3)]) == [4]


async def test_keys_and_windows_are_counted_apart(store: CounterStore) -> None:
    a, b = key(), key()
    assert await store.add([(a, MINUTE, 1), (b, MINUTE, 2), (a, NEXT, 5)]) == [1, 2, 5]


async def test_the_same_counter_twice_in_one_call_sees_both(store: CounterStore) -> None:
    k = key()
    assert await store.add([(k, MINUTE, 1), (k, MINUTE, 1)]) == [1, 2]


async def test_zero_hits_only_read(store: CounterStore) -> None:
    k = key()
    await store.add([(k, MINUTE, 2)])
    assert await store.add([(k, MINUTE, 0), (key(), MINUTE, 0)]) == [2, 0]
    assert await store.add([(k, MINUTE, 0)]) == [2]


async def test_nothing_to_add_is_nothing(store: CounterStore) -> None:
    assert await store.add([]) == []


async def test_concurrent_calls_lose_no_hit(store: CounterStore) -> None:
    k = key()
    totals = await asyncio.gather(*(store.add([(k, MINUTE, 1)]) for _ in range(500)))
    assert sorted(total for (total,) in totals) == list(range(1, 501))


async def test_ready(store: CounterStore) -> None:
    assert await store.ready()


async def test_memory_is_bounded_and_drops_ended_windows_first() -> None:
    clock = FakeClock()
    store = MemoryStore(clock, max_counters=3)
    await store.add([("old", MINUTE, 1), ("new", NEXT, 7)])
    clock.tick(60)
    await store.add([("a", NEXT, 1), ("b", NEXT, 1)])
    assert await store.add([("new", NEXT, 0), ("old", MINUTE, 0)]) == [7, 0]


async def test_a_counter_expires_in_redis(redis_process: tuple[subprocess.Popen[bytes], str]) -> None:
    _, url = redis_process
    store, k = RedisStore(url), key()
    await store.add([(k, MINUTE, 1)])
    client = redis.asyncio.Redis.from_url(url)
    (name,) = [n async for n in client.scan_iter(f"*{k}*")]
    assert 0 < await client.ttl(name) <= 61
    await client.aclose()
    await store.close()


async def test_a_redis_that_hangs_is_an_error_in_time_and_heals(
    redis_process: tuple[subprocess.Popen[bytes], str],
) -> None:
    process, url = redis_process
    store, k = RedisStore(url), key()
    assert await store.add([(k, MINUTE, 1)]) == [1]
    os.kill(process.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):
            with pytest.raises(StoreError, match="redis"):
                await store.add([(k, MINUTE, 1)])
        assert not await store.ready()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    for _ in range(50):
        if await store.ready():
            break
    assert await store.ready()
    await store.close()


async def test_no_redis_at_all_is_an_error() -> None:
    store = RedisStore("unix:///nonexistent/redis.sock")
    with pytest.raises(StoreError):
        await store.add([("k", MINUTE, 1)])
    assert not await store.ready()
    await store.close()
