"""Which of Envoy's callbacks a filter needs is read from its code."""

import functools
from collections.abc import Awaitable, Callable

from filters.sdk.handlers import ignores_request, may_wait, without_coroutine
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


class Handlers:
    async def ignores(self, request: Request, response: Response) -> None:
        response.headers["x"] = "1"

    async def reads(self, request: Request, response: Response) -> None:
        print(request.path)

    async def reads_inside(self, request: Request, response: Response) -> None:
        print([path := request.path for _ in range(2)], lambda: path, lambda: request)

    async def reads_both(self, request: Request, response: Response) -> None:
        print(request, response)

    async def reads_all(self, request: Request, response: Response) -> None:
        print(locals())

    async def any_arguments(self, *arguments: object) -> None:
        print(arguments)

    @staticmethod
    async def without_self(request: Request, response: Response) -> None:
        print(request, response)


def test_who_looks_at_the_request() -> None:
    names = ("ignores", "reads", "reads_inside", "reads_both", "reads_all", "any_arguments")
    assert [ignores_request(Handlers.__dict__[name]) for name in names] == [True, *[False] * 5]
    assert not ignores_request(Handlers.__dict__["without_self"])
    assert not ignores_request(wrapped(Handlers.ignores))  # type: ignore[arg-type]


def test_a_handler_without_await_runs_when_it_is_called() -> None:
    outer = "outer"

    async def handler(number: int, *, other: int = 2) -> tuple[str, int, int]:
        def inner() -> int:
            return number

        return outer, inner(), other

    found = without_coroutine(handler)
    assert found is not None
    assert found(1) == ("outer", 1, 2)
    assert [without_coroutine(other) for other in (with_await, with_loop, plain, wrapped(without_await), len)] == [
        None
    ] * 5
