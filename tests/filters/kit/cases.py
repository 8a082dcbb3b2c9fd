"""Filters for the conformance suite. `Program` does what the header x-program says and prints what it got: both hosts must agree."""

import importlib
import json
import os
import random
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lateen_filter import Counter, FilterConfig, Gauge, Histogram, HttpFilter, Request, Response

counters = {name: Counter(f"kit_{name}") for name in ("a", "b")}
gauges = {name: Gauge(f"kit_level_{name}") for name in ("a", "b")}
histogram = Histogram("kit_sizes")
Op = Sequence[Any]


class Program(HttpFilter):
    """Runs {"request": [...], "response": [...], "log": [...]}: each step is printed with its result or exception."""

    async def on_request(self, request: Request) -> Response | None:
        return await self.run("request", request, request)

    async def on_response(self, request: Request, response: Response) -> Response | None:
        return await self.run("response", request, response)

    def on_log(self, request: Request, response: Response) -> None:
        for step in self.steps("log", request):
            message: Any = response if step[0].startswith("response.") else request
            self.tell("log", step, lambda step=step, message=message: self.headers(message, step))

    def steps(self, phase: str, request: Request) -> Sequence[Op]:
        program: Mapping[str, Sequence[Op]] = json.loads(request.headers.get("x-program", "{}"))
        return program.get(phase, ())

    async def run(self, phase: str, request: Request, message: Any) -> Response | None:
        for step in self.steps(phase, request):
            match step:
                case ["reply", status, body, headers]:
                    return Response(status, body, headers)
                case ["raise"]:
                    raise RuntimeError("as the program says")
                case ["body"]:
                    print(phase, "body", len(await message.body()))
                case ["body", limit]:
                    print(phase, "body", len(await message.body(limit=limit)))
                case ["chunks"]:
                    print(phase, "chunks", sum([len(chunk.data) async for chunk in message.body_chunks()]))
                case ["upper", end]:
                    async for chunk in message.body_chunks(replace=True):
                        chunk.data = chunk.data.upper() + (end.encode() if chunk.last else b"")
                case ["text"]:
                    print(phase, "text", await message.text())
                case ["call", cluster, path, body]:
                    try:
                        answer = await self.http.post(cluster, path, body, headers={"x-from": "kit"}, timeout=0.4)
                        print(phase, "call", answer.status, answer.content.decode(), answer.headers.get("content-type"))
                    except Exception as error:
                        print(phase, "call", type(error).__name__, error)
                case _:
                    self.tell(phase, step, lambda step=step: self.headers(message, step))
        return None

    def tell(self, phase: str, step: Op, action: Any) -> None:
        try:
            result = action()
        except Exception as error:
            result = [type(error).__name__, str(error)]
        print(phase, json.dumps(step), json.dumps(result))

    def headers(self, message: Any, step: Op) -> Any:
        headers = message.headers
        match [step[0].removeprefix("response."), *step[1:]]:
            case ["get", name]:
                return headers.get(name)
            case ["all", name]:
                return headers.get_all(name)
            case ["in", name]:
                return name in headers
            case ["set", name, value]:
                headers[name] = value
            case ["add", name, value]:
                headers.add(name, value)
            case ["del", name]:
                del headers[name]
            case ["names"]:
                return list(headers)
            case ["pairs"]:
                return [pair for pair in headers.pairs() if pair[0] not in ("x-program", "x-request-id", "date")]
            case ["status"]:
                return message.status
            case ["set_status", status]:
                message.status = status
            case ["set_path", path]:
                message.path = path
            case ["facts"]:
                return [message.method, message.path, message.query, message.cookies, message.authority, message.scheme]
            case ["set_body", body]:
                message.set_body(body)
            case _:
                return self.state(message, step)
        return None

    def state(self, message: Any, step: Op) -> Any:
        match step:
            case ["property", *path]:
                value = message.properties.raw(*path)
                return None if value is None else value.hex()
            case ["set_property", name, value]:
                message.properties.set(name, value)
            case ["shared"]:
                return [str(self.shared.get(key)) for key in ("a", "b")]
            case ["share", key, value]:
                self.shared.set(key, value)
            case ["compare", key, value, off]:
                _, version = self.shared.get_versioned(key)
                return self.shared.compare_and_set(key, value, version + off if version else off)
            case ["create", key, value]:
                return self.shared.compare_and_set(key, value, 0)
            case ["count", name, amount]:
                counters[name].add(amount)
                return counters[name].value
            case ["gauge", name, value]:
                gauges[name].set(value)
                gauges[name].add(2)
                return gauges[name].value
            case ["histogram", value]:
                histogram.record(value)
            case _:
                raise ValueError(f"no such step: {step}")
        return None


class Plain(HttpFilter):
    """on_request and on_response that are no coroutines."""

    class Config(FilterConfig):
        """Every type a field can have is in the documentation; these are enough to be refused."""

        word: str = "plain"
        limit: int | None = None

        def validate(self) -> None:
            if self.limit is not None and self.limit < 1:
                raise ValueError("limit is less than 1")

    config: Config

    def on_start(self) -> None:
        print("configured with", self.config.word)

    def on_request(self, request: Request) -> Response | None:
        request.headers["x-word"] = self.config.word
        if request.path == "/reply":
            return Response(418, "short\n", {"x-reply": "1"})
        if request.path == "/loop":
            while True:
                pass
        if request.path == "/fail":
            raise KeyError("plain")
        return None

    def on_response(self, request: Request, response: Response) -> None:
        response.headers["x-seen"] = f"{request.path} {response.status}"


class Ticking(HttpFilter):
    """Asks a cluster at each tick and tells the last answer."""

    tick_seconds = 0.3

    async def on_tick(self) -> None:
        answer = await self.http.get("flags", "/flags")
        self.shared.set("flags", answer.content)
        counters["b"].add()

    async def on_request(self, request: Request) -> Response | None:
        return Response(200, self.shared.get("flags") or b"none")


class Differences(HttpFilter):
    """What docs/filters-differences.md says, one statement for each path: each case returns what came of it."""

    def on_request(self, request: Request) -> Response | None:
        case: Any = getattr(self, request.path.strip("/"), None)
        if case is None:
            return None
        try:
            return Response.of_json(case())
        except BaseException as error:
            return Response.of_json(type(error).__name__)

    def python(self) -> str:
        return sys.version.partition(" ")[0]

    def files(self) -> str:
        return Path("/etc/hostname").read_text()

    def environment(self) -> list[str]:
        return [key for key in os.environ if key not in ("PYTHONHOME", "PYTHONPATH")]

    def later_import(self) -> str:
        return str(importlib.import_module("wsgiref.util"))

    def bundled_import(self) -> str:
        import colorsys  # noqa: PLC0415  (that is the case)

        return colorsys.__name__

    def thread(self) -> None:
        threading.Thread(target=print).start()

    def sleep(self) -> bool:
        before = time.monotonic()
        time.sleep(30)
        return time.monotonic() - before < 10

    def module_level(self) -> bool:
        return time.time() > IMPORTED_AT

    def randomness(self) -> bool:
        return random.random() == BAKED_RANDOM

    def zone(self) -> list[str]:
        return list(time.tzname)

    def kept(self) -> int:
        KEPT.append(1)
        return len(KEPT)

    def exit(self) -> None:
        sys.exit(1)


class Awaiting(HttpFilter):
    """Awaits what is neither a body nor a call."""

    async def on_request(self, request: Request) -> Response | None:
        await Other()
        return None


class Other:
    def __await__(self) -> Generator[str, None, None]:
        yield "something else"


IMPORTED_AT = time.time()
BAKED_RANDOM = random.random()
KEPT: list[int] = []
