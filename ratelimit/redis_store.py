"""Counters in Redis: one pipeline carries all that one turn of the event loop asked for."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import redis.asyncio
from redis.exceptions import RedisError

from ratelimit.store import StoreError
from ratelimit.window import Window

PREFIX = "lateen:rl:"
TIMEOUT_SECONDS = 0.25
MAX_BATCH = 2_000
MAX_WAITING = 20_000


@dataclass(slots=True)
class _Waiting:
    hits: Sequence[tuple[str, Window, int]]
    answer: asyncio.Future[list[int]]


class RedisStore:
    """INCRBY and EXPIRE for every counter; a slow or absent Redis is a StoreError within TIMEOUT_SECONDS or so.

    The queue is bounded: beyond MAX_WAITING calls a further one fails at once rather than wait for a Redis that cannot keep up.
    """

    def __init__(self, url: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=None,
            retry_on_error=[],
            decode_responses=False,
        )
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None

    async def add(self, hits: Sequence[tuple[str, Window, int]]) -> list[int]:
        """See CounterStore."""
        if not hits:
            return []
        if len(self._waiting) >= MAX_WAITING:
            raise StoreError(f"more than {MAX_WAITING} calls wait for redis")
        waiting = _Waiting(hits, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return await waiting.answer

    async def ready(self) -> bool:
        """Whether Redis answers a PING in time."""
        try:
            return bool(await self._redis.ping())
        except (RedisError, OSError, TimeoutError):
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _flush(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(0)  # everything that is ready in this turn joins the batch
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._count(batch)
        finally:
            self._flushing = None

    async def _count(self, batch: Sequence[_Waiting]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for waiting in batch:  # a pipeline only notes the commands until it is executed
            for key, window, count in waiting.hits:
                name = f"{PREFIX}{key}:{window.start}"
                if count:
                    _ = pipeline.incrby(name, count)
                    _ = pipeline.expire(name, window.length + 1)
                else:
                    _ = pipeline.get(name)
        try:
            answers = iter(await pipeline.execute())
        except (RedisError, OSError, TimeoutError) as error:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(StoreError(f"redis: {error}"))
            return
        for waiting in batch:
            totals = []
            for _, _, count in waiting.hits:
                totals.append(int(next(answers) or 0))
                if count:
                    next(answers)
            if not waiting.answer.done():
                waiting.answer.set_result(totals)
