"""Calls whose handlers are awaited. They begin at once, and a task carries those that have to wait: one after the other, as it is free.

So an `async def` handler that need not wait costs little more than a plain one. It runs inside a task all the same, the one that would
carry it on: `asyncio.timeout`, task groups and the libraries built on them ask for one. What a handler sets in a context variable is seen
by later calls, as with plain handlers.
"""

import asyncio
import types
from asyncio.tasks import _enter_task, _leave_task  # how tasks of one's own are made (Python's "Extending asyncio")
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, Protocol, cast

from lateen.wire.call import Call, RpcError, StatusCode

_MOST_IDLE: Final = 256


CANCELLED: Final = "the call was cancelled"


class Owner(Protocol):
    """Whoever a call came to (`pump.Pump`)."""

    def ended(self, call: Call, answer: bytes | None, error: BaseException | None) -> None:
        """The handler has returned `answer`, or raised `error`."""
        ...


def _checked(answer: object) -> bytes:
    if type(answer) is not bytes:
        raise TypeError("a handler must return bytes")
    return answer


class Carriers:
    """The tasks of one server."""

    def __init__(self) -> None:
        """There are none yet."""
        self.busy = 0  # calls that wait
        self.idle: list[Carrier] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def run(self, owner: Owner, call: Call, work: Awaitable[bytes]) -> "Carrier | bytes":
        """Begin a call: its answer if it need not wait, else what carries it on, and `owner` is told when it has ended.

        Raises whatever the handler does before it waits; RpcError when it is cancelled.
        """
        idle = self.idle
        carrier = idle.pop() if idle else Carrier(self)
        if type(work) is not types.CoroutineType or asyncio.current_task() is not None:
            carrier.carry(owner, call, work)
            return carrier
        loop, task = carrier.loop, carrier.task
        _enter_task(loop, task)
        try:
            waits_for = work.send(None)
        except BaseException as ended:
            _leave_task(loop, task)
            carrier.rest()
            if isinstance(ended, StopIteration):
                return _checked(ended.value)
            if isinstance(ended, asyncio.CancelledError):
                raise RpcError(StatusCode.CANCELLED, CANCELLED) from None
            raise
        _leave_task(loop, task)
        carrier.carry_on(owner, call, work, waits_for)
        return carrier

    async def stop(self, seconds: float) -> None:
        """Cancel those that have nothing to do, and wait for the others, but no longer than that."""
        for carrier in list(self.idle):
            carrier.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=seconds)


class Carrier:
    """One task, and the call that it carries."""

    __slots__ = (
        "_begun",
        "_carriers",
        "_gate",
        "_new",
        "_owner",
        "_spent",
        "_waits_for",
        "_work",
        "call",
        "loop",
        "task",
    )

    def __init__(self, carriers: Carriers) -> None:
        """With nothing to do yet."""
        self.loop = asyncio.get_running_loop()
        self._carriers = carriers
        self._gate = _Gate(self.loop)
        self._owner: Owner | None = None
        self._work: Any = None  # a handler may return anything: awaiting tells
        self._waits_for: object = None
        self._begun = self._spent = False
        self._new = True
        self.call: Call | None = None
        self.task = self.loop.create_task(self._carry())
        carriers.tasks.add(self.task)
        self.task.add_done_callback(self._finished)

    def carry(self, owner: Owner, call: Call, work: Awaitable[bytes]) -> None:
        """Await what has not begun, in the next turn of the loop."""
        self._take(owner, call, work)
        self._begun = False
        self.loop.call_soon(self._gate.open)

    def carry_on(self, owner: Owner, call: Call, work: Coroutine[Any, Any, bytes], waits_for: object) -> None:
        """Go on with what has begun and waits for something."""
        self._take(owner, call, work)
        self._begun, self._waits_for = True, waits_for
        self._gate.open()

    def _take(self, owner: Owner, call: Call, work: Awaitable[bytes]) -> None:
        self._owner, self.call, self._work = owner, call, work
        self._carriers.busy += 1

    def rest(self) -> bool:
        """Be there for the next call; whether that is possible."""
        idle = self._carriers.idle
        if self._spent or self.task.cancelling() or len(idle) >= _MOST_IDLE:
            return False
        idle.append(self)
        return True

    def cancel(self) -> None:
        """Nobody waits for the answer any more; the task is not used again."""
        self._spent = True
        if self.call is not None:
            self.call.cancelled = True
        if self._new:  # a task that is cancelled before its first step would not tell the handler
            self.loop.call_soon(self.task.cancel)
        else:
            self.task.cancel()

    async def _carry(self) -> None:
        self._new = False
        while True:
            while self._owner is None:
                await self._gate
            work, waits_for = self._work, self._waits_for
            self._work = self._waits_for = None
            answer: bytes | None = None
            error: BaseException | None = None
            try:
                answer = _checked(await (_go_on(work, waits_for) if self._begun else work))
            except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - it ends its call only
                error = raised
            work = waits_for = None
            self._end(answer, error)
            if not self.rest():
                return
            answer = error = None

    def _end(self, answer: bytes | None, error: BaseException | None) -> None:
        owner, call = self._owner, self.call
        self._owner = self.call = None
        self._carriers.busy -= 1
        if owner is not None and call is not None:
            owner.ended(call, answer, error)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        carriers = self._carriers
        carriers.tasks.discard(task)
        if self in carriers.idle:
            carriers.idle.remove(self)
        if self._owner is not None:  # it was cancelled from outside before it began, or the process is to end
            if asyncio.iscoroutine(self._work):
                self._work.close()
            self._work = None
            self._end(None, asyncio.CancelledError())


@types.coroutine
def _go_on(work: Coroutine[Any, Any, bytes], waits_for: object) -> Generator[Any, Any, bytes]:
    """The rest of a coroutine that waits for `waits_for`."""
    while True:
        try:
            yield waits_for
            break
        except BaseException as thrown:  # noqa: BLE001 - all of it is the coroutine's
            try:
                waits_for = work.throw(thrown)
            except StopIteration as done:
                return cast("bytes", done.value)
    return (yield from cast("Generator[Any, Any, bytes]", work))


class _Gate:
    """What a task waits at between calls: as much of a future as a task needs, but opening it runs the task then and there."""

    __slots__ = ("_asyncio_future_blocking", "_loop", "_wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wake: Callable[[object], object] | None = None
        self._asyncio_future_blocking = False

    def __await__(self) -> Generator["_Gate", None, None]:
        self._asyncio_future_blocking = True
        yield self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake: Callable[[object], object], *, context: object = None) -> None:
        self._wake = wake

    def result(self) -> None:
        return None

    def cancel(self, msg: object = None) -> bool:
        """The task is cancelled: it will see that when it runs."""
        self._loop.call_soon(self.open)
        return False

    def open(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None:
            wake(self)
