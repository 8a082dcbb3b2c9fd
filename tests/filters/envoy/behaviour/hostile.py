"""Filters that do harm, for tests against Envoy: each path is a way. Built once."""

import _thread
import copy
import gc
import itertools
import json
import os
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any

from filters.sdk import host
from lateen_filter import Counter, FilterConfig, HttpFilter, Request, Response

DEPTH = 10_000
JSON_DEPTH = 900
"""What json.loads takes; a client can send it."""


def nest(make: Callable[[Any], Any], depth: int = DEPTH) -> Any:
    value = make(None)
    for _ in range(depth):
        value = make(value)
    return value


def forever() -> None:
    while True:
        pass


def stubborn() -> None:
    while True:
        try:
            forever()
        except BaseException:
            pass


class Loops:
    def __del__(self) -> None:
        forever()


class Stubborn:
    def __del__(self) -> None:
        stubborn()


class Exits(Exception):
    def __str__(self) -> str:
        sys.exit(1)

    def __eq__(self, other: object) -> bool:
        sys.exit(1)

    __hash__ = None  # type: ignore[assignment]


class NeverEnds:
    def __await__(self) -> Any:
        while True:
            try:
                yield self
            except GeneratorExit:
                pass


class Hostile(HttpFilter):
    async def on_request(self, request: Request) -> Response | None:
        case: Any = getattr(self, "case_" + request.path.strip("/").replace("/", "_"), None)
        result: Any = None if case is None else case(request)
        answer: Response | None = await result if hasattr(result, "__await__") else result
        return answer

    # Depth

    def case_deep_dumps(self, request: Request) -> Any:
        json.dumps(nest(lambda inner: [inner]))

    def case_deep_repr(self, request: Request) -> Any:
        repr(nest(lambda inner: {1: inner}))

    def case_deep_copy(self, request: Request) -> Any:
        copy.deepcopy(nest(lambda inner: [inner]))

    def case_deep_pickle(self, request: Request) -> Any:
        pickle.dumps(nest(lambda inner: [inner]))

    def case_deep_equal(self, request: Request) -> Any:
        return nest(lambda inner: [inner]) == nest(lambda inner: [inner])

    def case_deep_isinstance(self, request: Request) -> Any:
        return isinstance(1, nest(lambda inner: (inner or str,)))

    def case_deep_pattern(self, request: Request) -> Any:
        re.compile("(" * DEPTH + ")" * DEPTH)

    def case_deep_limit(self, request: Request) -> Any:
        sys.setrecursionlimit(10**9)

        class Deep:
            def __repr__(self) -> str:
                return repr([self])

        repr(Deep())

    def case_deep_release(self, request: Request) -> Response:
        nest(lambda inner: [inner], 50_000)
        return Response(200)

    def case_deep_generators(self, request: Request) -> Response:
        def through(inner: Any) -> Any:
            yield from inner

        chain: Any = iter([1])
        for _ in range(DEPTH):
            chain = through(chain)
        return Response(200, str(list(chain)))

    def case_deep_json(self, request: Request) -> Response:
        for text in ("[" * JSON_DEPTH + "]" * JSON_DEPTH, '{"a":' * JSON_DEPTH + "1" + "}" * JSON_DEPTH):
            value, other = json.loads(text), json.loads(text)
            for use in (json.dumps, repr, pickle.dumps, copy.deepcopy, other.__eq__):
                try:
                    use(value)
                except RecursionError:
                    pass
        return Response(200)

    # Size

    def case_big_text(self, request: Request) -> Any:
        return "x" * (2**31 - 1)

    def case_big_format(self, request: Request) -> Any:
        return "%1000000000d" % 1  # noqa: UP031

    def case_big_shift(self, request: Request) -> Any:
        return 1 << 2**33

    def case_big_power(self, request: Request) -> Any:
        return 10**10**8

    def case_big_number(self, request: Request) -> Any:
        return json.loads("7" * 1_000_000)

    def case_big_replace(self, request: Request) -> Any:
        text = "a"
        while True:
            text = text.replace("a", "a" * 200)

    def case_big_division(self, request: Request) -> Response:
        return Response(200, str((10**6000 + 1) // (10**2000 + 7) % 10**6))

    def case_big_memory(self, request: Request) -> Any:
        return [bytes(1 << 20) for _ in range(1000)]

    def case_big_loop(self, request: Request) -> Any:
        return sum(range(10**10))

    def case_big_search(self, request: Request) -> Any:
        return 5 in itertools.repeat(1)

    # Waiting

    def case_await_number(self, request: Request) -> Any:
        return NeverEnds()

    async def case_await_never(self, request: Request) -> Response:
        _never = self.http.get("upstream")
        return Response(200)

    # Finalisers

    def case_release_loops(self, request: Request) -> Response:
        Loops()
        return Response(200)

    def case_release_stubborn(self, request: Request) -> Response:
        Stubborn()
        return Response(200)

    def case_release_cycles(self, request: Request) -> Response:
        gc.disable()
        for _ in range(200):
            cycle: list[Any] = [bytes(1000)]
            cycle.append(cycle)
        gc.enable()
        return Response(200)

    # The world

    def case_world_file(self, request: Request) -> Any:
        return open("/etc/passwd")

    def case_world_thread(self, request: Request) -> Any:
        _thread.start_new_thread(forever, ())

    def case_world_exit(self, request: Request) -> Any:
        os._exit(1)

    def case_world_lock(self, request: Request) -> Any:
        lock = _thread.allocate_lock()
        lock.acquire()
        lock.acquire()

    def case_world_log(self, request: Request) -> Any:
        while True:
            print("x" * 5000, end="")

    # Envoy

    def case_envoy_metrics(self, request: Request) -> Any:
        for number in itertools.count():
            Counter(f"hostile_{number}").add()

    def case_envoy_metric(self, request: Request) -> Response:
        Counter("hostile_again").add()
        return Response(200)

    def case_envoy_shared(self, request: Request) -> Any:
        self.shared.set("large", b"x" * (65 << 20))

    def case_envoy_headers(self, request: Request) -> Any:
        for number in range(100_000):
            request.headers[f"x-{number}"] = "a"

    def case_envoy_header(self, request: Request) -> Any:
        request.headers["x"] = "a\0b"

    def case_envoy_limit(self, request: Request) -> Any:
        host.set_cpu_limit(2**32 - 1)

    def case_envoy_continue(self, request: Request) -> Any:
        host.continue_stream(host.RESPONSE)

    def case_envoy_context(self, request: Request) -> Any:
        host.set_context(1)

    # Exceptions

    def case_raise_exits(self, request: Request) -> Any:
        error = Exits()
        error.__cause__ = Exits()
        raise error

    def case_raise_exit(self, request: Request) -> Any:
        raise KeyboardInterrupt

    def case_stubborn(self, request: Request) -> Any:
        stubborn()


class Late(HttpFilter):
    """After the request, and on its own: what its configuration says."""

    tick_seconds = 0.1

    class Config(FilterConfig):
        start: str = ""
        tick: str = ""

    config: Config

    def on_start(self) -> None:
        self._do(self.config.start)

    def on_tick(self) -> None:
        self._do(self.config.tick)

    async def on_response(self, request: Request, response: Response) -> None:
        self._do(request.path)

    def on_log(self, request: Request, response: Response) -> None:
        self._do(request.path.removeprefix("/log"))

    def _do(self, what: str) -> None:
        if what == "/exit":
            sys.exit(1)
        if what == "/deep":
            json.dumps(nest(lambda inner: [inner]))
        if what == "/stubborn":
            stubborn()
