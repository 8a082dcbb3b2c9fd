"""Handlers that are awaited: begun at once, inside the task that carries them on, and every task used again unless it was cancelled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from lateen.wire.call import Call, RpcError, StatusCode
from lateen.wire.carriers import Carrier, Carriers
from lateen.wire.headers import Head, HeaderCache, Meaning
from lateen.wire.limits import Limits

PATIENCE = 30.0


def new_call() -> Call:
    return Call(1, Head(HeaderCache(Limits()), b"", {}, 0, Meaning(path="/a.B/C")), b"", None, None)


class Outcome:
    """What a call has come to."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.answer: object = None
        self.error: BaseException | None = None

    def ended(self, _: Call, answer: object, error: BaseException | None) -> None:
        assert not self.done.is_set(), "ended twice"
        self.answer, self.error = answer, error
        self.done.set()

    async def wait(self) -> object:
        async with asyncio.timeout(PATIENCE):
            await self.done.wait()
        return self.answer


async def outside(function: Callable[[], object]) -> None:
    """Run something as a transport does: in a turn of the loop that is no task's."""
    done = asyncio.get_running_loop().create_future()

    def run() -> None:
        try:
            assert asyncio.current_task() is None
            function()
        except BaseException as error:  # noqa: BLE001
            done.set_exception(error)
        else:
            done.set_result(None)

    asyncio.get_running_loop().call_soon(run)
    await done


@pytest.fixture
async def carriers() -> AsyncIterator[Carriers]:
    made = Carriers()
    yield made
    await made.stop(PATIENCE)
    assert (made.busy, made.idle, made.tasks) == (0, [], set())


async def at_once(_: str = "") -> bytes:
    assert asyncio.current_task() is not None
    return b"at once"


async def later(seconds: float = 0.0) -> bytes:
    await asyncio.sleep(seconds)
    return b"later"


async def run(carriers: Carriers, work: Awaitable[bytes]) -> Outcome:
    outcome = Outcome()

    def begin() -> None:
        try:
            answer = carriers.run(outcome, new_call(), work)
        except Exception as error:  # noqa: BLE001
            outcome.ended(new_call(), None, error)
        else:
            if isinstance(answer, bytes):
                outcome.ended(new_call(), answer, None)

    await outside(begin)
    return outcome


async def test_what_need_not_wait_has_ended_when_it_was_begun(carriers: Carriers) -> None:
    def begin() -> None:
        assert carriers.run(Outcome(), new_call(), at_once()) == b"at once"

    for _ in range(3):
        await outside(begin)
    assert (len(carriers.tasks), carriers.busy) == (1, 0)


@pytest.mark.parametrize("seconds", [0.0, 0.001])
async def test_tasks_are_used_again(carriers: Carriers, seconds: float) -> None:
    for _ in range(5):
        outcomes = [await run(carriers, later(seconds)) for _ in range(3)]
        assert [await outcome.wait() for outcome in outcomes] == [b"later"] * 3
    assert len(carriers.tasks) == len(carriers.idle) <= 3


async def test_a_handler_sees_one_task_from_beginning_to_end(carriers: Carriers) -> None:
    async def handler() -> bytes:
        task = asyncio.current_task()
        for _ in range(3):
            await asyncio.sleep(0.001)
            assert asyncio.current_task() is task
        return b"one"

    for _ in range(3):
        assert await (await run(carriers, handler())).wait() == b"one"


async def test_timeouts_and_task_groups_work_from_the_first_step_on(carriers: Carriers) -> None:
    async def handler() -> bytes:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            found = group.create_task(later())
        return found.result()

    for _ in range(3):
        assert await (await run(carriers, handler())).wait() == b"later"
    assert len(carriers.idle) == 1


@pytest.mark.parametrize("used_before", [False, True], ids=["new-task", "used-task"])
async def test_a_cancelled_handler_may_clean_up(carriers: Carriers, used_before: bool) -> None:
    seen: list[str] = []

    async def handler() -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise
        return b""

    if used_before:
        await (await run(carriers, later())).wait()
    outcome, call = Outcome(), new_call()

    def begin_and_cancel() -> None:
        carrier = carriers.run(outcome, call, handler())
        assert isinstance(carrier, Carrier)
        assert carriers.busy == 1
        carrier.cancel()

    await outside(begin_and_cancel)
    await outcome.wait()
    assert (seen, call.cancelled) == (["cleaned up"], True)
    assert isinstance(outcome.error, asyncio.CancelledError)
    assert carriers.idle == []


async def test_a_handler_that_will_not_be_cancelled_costs_its_task_only(carriers: Carriers) -> None:
    async def stubborn() -> bytes:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return b"still here"

    await (await run(carriers, later())).wait()
    outcome = Outcome()

    def begin_and_cancel() -> None:
        carrier = carriers.run(outcome, new_call(), stubborn())
        assert isinstance(carrier, Carrier)
        carrier.cancel()

    await outside(begin_and_cancel)
    assert await outcome.wait() == b"still here"
    assert carriers.idle == []


async def test_a_handler_that_cancels_itself(carriers: Carriers) -> None:
    async def handler(waits: bool) -> bytes:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if waits:
            await asyncio.sleep(10)
        return b"ended first"

    for waits in (False, True, False, True):
        outcome = await run(carriers, handler(waits))
        await outcome.wait()
        assert (outcome.answer == b"ended first") is not waits
        assert isinstance(outcome.error, asyncio.CancelledError) is waits
    assert await (await run(carriers, later())).wait() == b"later"


async def test_whatever_a_handler_raises_ends_its_call_only(carriers: Carriers) -> None:
    async def fails(wait: bool) -> bytes:
        if wait:
            await asyncio.sleep(0)
        raise KeyError("late" if wait else "soon")

    for wait in (False, True, False, True):
        outcome = await run(carriers, fails(wait))
        await outcome.wait()
        assert isinstance(outcome.error, KeyError)
    assert len(carriers.tasks) == 1


async def test_what_cancels_itself_at_once_is_told_as_a_cancelled_call(carriers: Carriers) -> None:
    async def handler() -> bytes:
        raise asyncio.CancelledError

    outcome = await run(carriers, handler())
    assert isinstance(outcome.error, RpcError)
    assert outcome.error.code == StatusCode.CANCELLED
    assert len(carriers.idle) == 1


@pytest.mark.parametrize("waits", [False, True])
async def test_what_is_no_answer_is_none(carriers: Carriers, waits: bool) -> None:
    async def handler() -> bytes:
        if waits:
            await asyncio.sleep(0)
        return "text"  # type: ignore[return-value]  # what a handler must not do

    outcome = await run(carriers, handler())
    await outcome.wait()
    assert isinstance(outcome.error, TypeError)


async def test_any_awaitable_will_do(carriers: Carriers) -> None:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    outcome = await run(carriers, future)
    future.set_result(b"of a future")
    assert await outcome.wait() == b"of a future"


async def test_a_call_begun_inside_a_task_waits_for_the_next_turn(carriers: Carriers) -> None:
    for _ in range(3):
        outcome = Outcome()
        assert isinstance(carriers.run(outcome, new_call(), at_once()), Carrier)
        assert not outcome.done.is_set()
        assert await outcome.wait() == b"at once"
    assert len(carriers.tasks) == 1


async def test_tasks_that_were_cancelled_from_outside_are_not_used(carriers: Carriers) -> None:
    await (await run(carriers, later())).wait()
    waiting = await run(carriers, later(30))
    for task in carriers.tasks:
        task.cancel()
    await waiting.wait()
    assert isinstance(waiting.error, asyncio.CancelledError)
    assert await (await run(carriers, later())).wait() == b"later"


async def test_no_more_tasks_are_kept_than_are_worth_it(carriers: Carriers) -> None:
    all_are_there = asyncio.Event()

    async def handler() -> bytes:
        await all_are_there.wait()
        return b"later"

    outcomes = [await run(carriers, handler()) for _ in range(400)]
    assert (carriers.busy, len(carriers.tasks)) == (400, 400)
    all_are_there.set()
    for outcome in outcomes:
        assert await outcome.wait() == b"later"
    await asyncio.sleep(0)
    assert len(carriers.idle) == len(carriers.tasks) == 256
