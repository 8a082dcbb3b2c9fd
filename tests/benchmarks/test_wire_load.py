"""The load generator of `benchmarks.wire`: it counts good answers, and takes nothing else for one."""

import asyncio
from collections.abc import Callable

import pytest

from benchmarks.load import LoadError
from benchmarks.wire_load import ANSWER, MESSAGE, PATH, run
from lateen.wire.call import Call, RpcError, StatusCode
from lateen.wire.server import Server


async def load_on(handler: Callable[[Call, bytes], bytes], connections: int = 2, in_flight: int = 10) -> int:
    server = Server({PATH: handler})
    address = await server.start("127.0.0.1:0")
    try:
        load = await asyncio.to_thread(run, [address] * connections, in_flight, 0.1)
        assert server.stats.calls >= load.requests
        return load.requests
    finally:
        await server.stop(0)


async def test_calls_are_whole_and_counted() -> None:
    seen: set[bytes] = set()

    def check(call: Call, data: bytes) -> bytes:
        seen.add(data)
        assert call.deadline is not None
        assert call.metadata("traceparent")
        return ANSWER

    assert await load_on(check) > 10
    assert seen == {MESSAGE}


async def test_another_answer_is_an_error() -> None:
    with pytest.raises(LoadError, match="a wrong answer"):
        await load_on(lambda _, __: ANSWER[:-1])


async def test_a_failed_call_is_an_error() -> None:
    def fail(_: Call, __: bytes) -> bytes:
        raise RpcError(StatusCode.UNAVAILABLE, "not now")

    with pytest.raises(LoadError, match="a call failed"):
        await load_on(fail)
