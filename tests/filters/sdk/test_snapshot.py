"""Which of Envoy's callbacks a filter needs is read from its code."""

import functools
from collections.abc import Awaitable, Callable

from filters.sdk.handlers import may_wait
from lateen_filter import Request, Response


async def without_await(request: Request) -> Response | None:
    if request.path == "/x":
        return Response(404)
    return None


async def with_await(request: Request) -> Response | None:
    return Response(200, await request.body())


async def with_loop(request: Request) -> None:
    async for chunk in request.body_chunks():
        print(chunk.last)


def plain(request: Request) -> Awaitable[Response | None]:
    return with_await(request)


def wrapped(function: Callable[[Request], object]) -> Callable[[Request], object]:
    @functools.wraps(function)
    def wrapper(request: Request) -> object:
        return function(request)

    return wrapper


def test_only_an_await_makes_a_handler_wait() -> None:
    assert [may_wait(handler) for handler in (without_await, with_await, with_loop, plain)] == [
        False,
        True,
        True,
        False,
    ]


def test_wrappers_are_looked_through_and_what_cannot_be_read_may_wait() -> None:
    assert may_wait(wrapped(with_await))
    assert not may_wait(wrapped(without_await))
    assert may_wait(functools.partial(without_await))
