"""What a filter's coroutine can wait for: `dispatch` gets these objects from it and sends the answer in."""

from collections.abc import Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class Wait(Generic[T]):
    """Awaiting this hands it to `dispatch`, whose answer is the value."""

    __slots__ = ()

    def __await__(self) -> Generator["Wait[T]", T, T]:
        return (yield self)


class BodyWait(Wait[bytes]):
    """The whole body of one direction."""

    __slots__ = ("direction", "limit")

    def __init__(self, direction: int, limit: int) -> None:
        self.direction = direction
        self.limit = limit


class CallWait(Wait["tuple[list[tuple[str, str]], bytes]"]):
    """The answer to an HTTP call: headers and body."""

    __slots__ = ("call",)

    def __init__(self, call: int) -> None:
        self.call = call
