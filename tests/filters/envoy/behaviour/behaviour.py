"""Filters for the tests against Envoy, all in one module: each path of `cases` does one thing. Built once."""

import builtins
import gc
import json
import logging
import random
import re
import sys
import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

from lateen_filter import Counter, FilterConfig, Gauge, Histogram, HttpCallError, HttpFilter, Request, Response

PATIENCE = 25.0
"""Seconds a call may take on a machine that is busy with other things."""
log = logging.getLogger("behaviour")
seen = Counter("behaviour_seen")
level = Gauge("behaviour_level")
spread = Histogram("behaviour_spread")
baked_random = random.random()
hoarded: list[list[str]] = []


class AsksTheClock(Exception):  # noqa: N818
    def __str__(self) -> str:
        return repr(baked_random)  # Python looks for signals first, and here for the limit


class Mode(Enum):
    SOFT = "soft"
    HARD = "hard"


class Rule(FilterConfig):
    path: re.Pattern[str]
    header: str = "x-rule"


class Maintenance(HttpFilter):
    """What the documentation shows."""

    class Config(FilterConfig):
        message: str
        retry_after: int = 60
        rules: tuple[Rule, ...] = ()
        mode: Mode = Mode.SOFT

        def validate(self) -> None:
            if self.retry_after < 0:
                raise ValueError("retryAfter is negative")

    config: Config

    async def on_request(self, request: Request) -> Response | None:
        if request.path == "/down":
            return Response(503, self.config.message, {"retry-after": str(self.config.retry_after)})
        for rule in self.config.rules:
            if rule.path.fullmatch(request.path):
                request.headers[rule.header] = "matched"
        return None


class Requests(HttpFilter):
    """One behaviour for each path; it sees requests only, so they take the short way."""

    async def on_request(self, request: Request) -> Response | None:
        case = getattr(self, "case_" + request.path.strip("/").replace("-", "_").replace("/", "_"), None)
        return None if case is None else await case(request)

    async def case_headers(self, request: Request) -> Response:
        request.headers["X-New"] = "new"
        request.headers.add("x-twice", "b")
        removed = request.headers.pop("x-remove", None)
        return Response.of_json(
            {
                "get": request.headers.get("x-one"),
                "missing": request.headers.get("x-missing"),
                "default": request.headers.get("x-missing", "default"),
                "twice": request.headers["x-twice"],
                "all": request.headers.get_all("X-Twice"),
                "new": request.headers["x-new"],
                "removed": [removed, request.headers.get("x-remove")],
                "in": ["x-one" in request.headers, "x-missing" in request.headers],
                "names": sorted(request.headers),
                "method": request.method,
                "path": request.path,
                "query": request.query,
                "cookies": request.cookies,
                "authority": request.authority,
                "utf8": request.headers.get("x-utf8"),
            }
        )

    async def case_rewrite(self, request: Request) -> None:
        request.path = "/elsewhere"

    async def case_body(self, request: Request) -> Response:
        body = await request.body()
        return Response.of_json({"length": len(body), "end": body[-4:].decode()})

    async def case_body_limit(self, request: Request) -> Response:
        return Response.of_json({"length": len(await request.body(limit=1000))})

    async def case_body_replace(self, request: Request) -> None:
        request.set_body(json.dumps({"was": await request.json()}))

    async def case_call(self, request: Request) -> Response:
        answer = await self.http.get("upstream", "/called", headers={"x-from": "filter"}, timeout=PATIENCE)
        second = await self.http.post("upstream", "/again", "body", timeout=PATIENCE)
        body = await request.body()
        return Response.of_json([answer.status, answer.content.decode(), second.content.decode(), body.decode()])

    async def case_call_pass(self, request: Request) -> None:
        request.path = "/after-" + str((await self.http.get("upstream", "/x", timeout=PATIENCE)).status)

    async def case_call_fail(self, request: Request) -> Response:
        try:
            await self.http.get("nowhere")
        except HttpCallError as error:
            return Response(200, str(error))
        return Response(500, "no error")

    async def case_properties(self, request: Request) -> Response:
        properties = request.properties
        return Response.of_json(
            [
                properties.text("request", "path"),
                properties.source_address,
                properties.cluster_name,
                properties.number("source", "port"),
                properties.flag("connection", "mtls"),
                properties.text("no", "such"),
            ]
        )

    async def case_shared(self, request: Request) -> Response:
        def next_number(old: bytes | None) -> str:
            return str(int(old or b"0") + 1)

        number = self.shared.update("count", next_number)
        _, version = self.shared.get_versioned("count")
        return Response.of_json(
            [
                number.decode(),
                self.shared.compare_and_set("count", number, version + 99),
                self.shared.compare_and_set("count", number, version),
            ]
        )

    async def case_counted(self, request: Request) -> Response:
        number = self.shared.update("counted", lambda old: str(int(old or b"0") + 1))
        return Response.of_json([number.decode()])

    async def case_metrics(self, request: Request) -> Response:
        before = seen.value
        seen.add(5)
        level.set(7)
        return Response.of_json([seen.value - before, level.value])

    async def case_logs(self, request: Request) -> Response:
        print("printed", "line")
        print("on stderr", file=sys.stderr)
        log.warning("logged %d", 42)
        return Response(200)

    async def case_random(self, request: Request) -> Response:
        return Response.of_json([random.random(), baked_random])

    async def case_lazy(self, request: Request) -> Response:
        import hashlib

        return Response(200, hashlib.sha256(b"x").hexdigest())

    async def case_compile(self, request: Request) -> Response:
        return Response(200, str(getattr(builtins, "ev" + "al")("1 + 1")))

    async def case_types(self, request: Request) -> Response:
        number: Any = 1
        raw: Any = b"bytes"
        text: Any = "200"
        mutable: Any = bytearray(b"x")

        def name_of(action: Callable[[], object]) -> str:
            try:
                action()
            except Exception as error:
                return type(error).__name__
            return "none"

        headers = request.headers
        return Response.of_json(
            [
                name_of(lambda: headers.get(number)),
                name_of(lambda: headers.__setitem__("x", number)),
                name_of(lambda: headers.__setitem__("x", raw)),
                name_of(lambda: headers.__setitem__("x", "a\r\nx-evil: 1")),
                name_of(lambda: headers.__setitem__("a b", "x")),
                name_of(lambda: Response(text)),
                name_of(lambda: Response(99)),
                name_of(lambda: Response(200, number)),
                name_of(lambda: self.shared.set("k", mutable)),
                name_of(lambda: seen.add(text)),
                name_of(lambda: request.properties.text(number)),
                name_of(lambda: headers.get("\ud800")),
                name_of(lambda: open("/etc/passwd")),
            ]
        )

    async def case_call_parallel(self, request: Request) -> Response:
        return Response(200, (await self.http.get("upstream", request.query["path"], timeout=PATIENCE)).content)

    async def case_keep(self, request: Request) -> Response:
        self.kept = (request, request.headers) if "all" in request.query else (None, request.headers)
        return Response(200)

    async def case_kept(self, request: Request) -> Response:
        return Response.of_json([request is self.kept[0], request.headers is self.kept[1]])

    async def case_identity(self, request: Request) -> Response:
        return Response(200, str(id(request)))

    async def case_replaced_headers(self, request: Request) -> Response:
        other: Any = {"x": "1"}
        request.headers = other
        return Response(200)

    async def case_operators(self, request: Request) -> Response:
        headers: Any = request.headers
        before = seen.value
        counter: Any = seen

        def outcome(action: Callable[[], object]) -> str:
            try:
                return str(action())
            except Exception as error:
                return type(error).__name__

        del headers["X-One"]
        headers["x-long"] = "a" * 100
        return Response.of_json(
            [
                outcome(lambda: headers["x-one"]),
                outcome(lambda: headers.__delitem__("x-one")),
                outcome(partial(headers.get, *"abcdefgh")),
                outcome(lambda: headers.get("x-one", default="")),
                outcome(lambda: headers[1]),
                outcome(lambda: 1 in headers),
                outcome(lambda: "X-LONG" in headers),
                len(headers["x-long"]),
                *(outcome(partial(headers.__setitem__, "x", "a" * 16 + last)) for last in ("~", "\x7f", "\x1f", "ü")),
                *(outcome(partial(headers.__setitem__, "x", first + "a" * 16)) for first in ("~", "\n")),
                outcome(lambda: counter.add(amount=2)),
                outcome(lambda: counter.add(True)),
                outcome(lambda: counter.add(0)),
                outcome(lambda: counter.add(-1)),
                outcome(lambda: counter.add(1 << 70)),
                outcome(lambda: counter.add(1, 2)),
                outcome(lambda: counter.add(other=1)),
                seen.value - before,
            ]
        )

    async def case_histogram(self, request: Request) -> Response:
        spread.record(17)
        return Response(200)

    async def case_objects(self, request: Request) -> Response:
        gc.collect()
        return Response(200, str(len(gc.get_objects())))

    async def case_hoard(self, request: Request) -> None:
        hoarded.append([request.path])

    # Bodies piece by piece

    async def case_chunks(self, request: Request) -> Response:
        sizes, last = [], []
        async for chunk in request.body_chunks():
            sizes.append(len(chunk.data))
            last.append(chunk.last)
        return Response.of_json({"length": sum(sizes), "count": len(sizes), "last": last.count(True), "end": last[-1:]})

    async def case_chunks_replace(self, request: Request) -> None:
        total = 0
        async for chunk in request.body_chunks(replace=True):
            if total == 0:
                request.headers["x-rule"] = "first"
            total += len(chunk.data)
            chunk.data = chunk.data.upper() + (f"<{total}>".encode() if chunk.last else b"")

    async def case_chunks_hold(self, request: Request) -> None:
        held = b""
        async for chunk in request.body_chunks(replace=True):
            held += chunk.data
            chunk.data = held[::-1] if chunk.last else b""

    async def case_chunks_call(self, request: Request) -> None:
        async for chunk in request.body_chunks(replace=True):
            answer = await self.http.get("upstream", "/called", timeout=PATIENCE)
            chunk.data = chunk.data.replace(b"x", b"xx") + (str(answer.status).encode() if chunk.last else b"")

    async def case_chunks_after_call(self, request: Request) -> None:
        await self.http.get("upstream", "/called", timeout=PATIENCE)
        async for chunk in request.body_chunks(replace=True):
            chunk.data = chunk.data.upper()

    async def case_chunks_left(self, request: Request) -> None:
        async for chunk in request.body_chunks(replace=True):
            chunk.data = b"<" + chunk.data
            break

    async def case_chunks_limit(self, request: Request) -> Response:
        return Response(200, str(sum([len(chunk.data) async for chunk in request.body_chunks(limit=1000)])))

    async def case_chunks_answer(self, request: Request) -> Response | None:
        async for chunk in request.body_chunks():
            if b"evil" in chunk.data:
                return Response(403, "evil\n")
        return None

    async def case_chunks_twice(self, request: Request) -> Response:
        first = len([chunk async for chunk in request.body_chunks()])
        try:
            await request.body()
        except RuntimeError as error:
            return Response(200, f"{first > 0} {error}")
        return Response(500)

    # Failures

    async def case_raise(self, request: Request) -> None:
        def inner() -> None:
            raise RuntimeError("broken on purpose")

        inner()

    async def case_exit(self, request: Request) -> None:
        sys.exit(3)

    async def case_wrong_result(self, request: Request) -> str:
        return "not a response"

    async def case_loop(self, request: Request) -> None:
        while True:
            pass

    async def case_loop_catch(self, request: Request) -> None:
        while True:
            try:
                while True:
                    pass
            except Exception:
                pass

    async def case_loop_starved(self, request: Request) -> None:
        self.shared.set("large", bytes(1 << 20))
        try:
            while True:
                pass
        except BaseException as error:
            # Longer than what is granted for this, and few steps: as if the machine had had no time for Envoy.
            end = time.monotonic() + 0.08
            while time.monotonic() < end:
                self.shared.get("large")
            raise AsksTheClock from error

    async def case_loop_stubborn(self, request: Request) -> None:
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass

    async def case_loop_c(self, request: Request) -> Response:
        return Response(200, str(sum(range(10**10))))

    async def case_redos(self, request: Request) -> Response:
        return Response(200, str(re.match(r"(a+)+$", "a" * 40 + "b")))

    async def case_bigint(self, request: Request) -> Response:
        return Response(200, str(len(str((7**2000000) * (3**2000000) % (5**1000001)))))

    async def case_recurse(self, request: Request) -> Response:
        def dive(depth: int) -> int:
            return dive(depth + 1) + 1

        return Response(200, str(dive(0)))

    async def case_recurse_json(self, request: Request) -> Response:
        return Response(200, str(json.loads("[" * 3000)))

    async def case_memory(self, request: Request) -> Response:
        hoard = []
        while True:
            hoard.append(bytearray(4 << 20))


class Cases(Requests):
    """The same, and responses and the log as well: these requests go the long way."""

    async def on_response(self, request: Request, response: Response) -> Response | None:
        if request.path == "/response/header":
            response.headers["x-status-was"] = str(response.status)
            response.status = 201
        elif request.path == "/response/body":
            response.set_body((await response.text()).upper())
        elif request.path == "/response/loop":
            while True:
                pass
        elif request.path == "/response/error":
            raise RuntimeError("on_response is broken")
        elif request.path == "/response/chunks":
            async for chunk in response.body_chunks(replace=True):
                chunk.data = chunk.data.upper() + (b"<end>" if chunk.last else b"")
        elif request.path == "/response/replace":
            return Response(502, "replaced\n")
        return None

    def on_log(self, request: Request, response: Response) -> None:
        if request.path == "/log":
            print("on_log", request.method, response.status)
        elif request.path == "/log/loop":
            while True:
                pass
        elif request.path == "/log/raise":
            raise RuntimeError("on_log is broken")


class Phases(HttpFilter):
    """All three handlers, none of which waits: no Python but theirs runs."""

    def on_start(self) -> None:
        self.seen: dict[str, tuple[Request, object]] = {}

    async def on_request(self, request: Request) -> Any:
        if request.path == "/answer":
            return Response(200, "answered\n")
        if request.path == "/coroutine":
            return self.on_response(request, Response(200))
        if request.path == "/raise":
            raise StopIteration("on purpose")
        if "keep" in request.query:
            self.seen[request.query["keep"]] = (request, request.headers)
        request.headers["x-rule"] = request.headers.get("x-one", "-")
        return None

    async def on_response(self, request: Request, response: Response) -> Response | None:
        response.headers["x-phase"] = f"{request.method} {request.target} {request.headers.get('x-rule')}"
        response.headers["x-twice"] = request.headers.get("x-twice", "")
        kept, headers = self.seen.pop(request.query.get("keep", ""), (None, None))
        response.headers["x-same"] = f"{kept is request} {headers is request.headers}"
        try:
            request.headers["x-late"] = "1"
        except RuntimeError as error:
            response.headers["x-late"] = str(error)
        if request.path == "/other":
            return Response(418, "other\n")
        if request.path == "/error":
            raise StopIteration("late")
        return None

    def on_log(self, request: Request, response: Response) -> None:
        if request.path == "/logged":
            print("phases:", request.target, response.status, response.headers.get("x-phase"))
        if request.path == "/log/raise":
            raise RuntimeError("phases: on_log is broken")


class OnlyResponse(HttpFilter):
    """Never looks at the request: nothing of it is kept."""

    async def on_response(self, request: Request, response: Response) -> None:
        response.headers["x-only"] = str(response.status)


class Remembers(HttpFilter):
    """Looks at a request in on_response that it has kept itself."""

    def on_start(self) -> None:
        self.kept: list[Request] = []

    async def on_request(self, request: Request) -> None:
        self.kept.append(request)

    async def on_response(self, request: Request, response: Response) -> None:
        response.headers["x-kept"] = self.kept.pop(0).path


class Ticker(HttpFilter):
    """Counts; the first ticks fail."""

    tick_seconds = 0.1

    def on_start(self) -> None:
        self.ticks = self.calls = 0

    async def on_tick(self) -> None:
        self.ticks += 1
        if self.ticks == 1:
            raise RuntimeError("on_tick is broken")
        if self.ticks == 2:
            while True:
                pass
        if self.ticks == 3:
            wrong: Any = None
            await wrong
        self.calls += (await self.http.get("upstream", "/tick", timeout=PATIENCE)).status == 200

    async def on_request(self, request: Request) -> Response | None:
        return Response.of_json([self.ticks, self.calls])
