"""Mistakes in a filter's class are told where it is defined; mistakes in what it calls are TypeErrors and ValueErrors that say what to do."""

# ruff: noqa: ANN401

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import pytest

from filters.sdk.filter import registry
from lateen_filter import Gauge, Histogram, HttpFilter, Request, Response
from lateen_filter.testing import FakeHost, UpstreamRequest


async def short(self: HttpFilter) -> None: ...
async def long(self: HttpFilter, request: Request, more: object) -> None: ...
async def optional(self: HttpFilter, request: Request, more: object = None) -> None: ...
async def any_number(self: HttpFilter, *arguments: object) -> None: ...
async def log(self: HttpFilter, request: Request, response: Response) -> None: ...


def generator(self: HttpFilter, request: Request) -> Any:
    yield Response(200)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"on_request": short}, r"Wrong.on_request\(self\) has to be on_request\(self, request\) \(line \d+\)"),
        ({"on_request": long}, r"has to be on_request\(self, request\)"),
        ({"on_request": generator}, "has to return, it cannot yield"),
        ({"on_log": log}, "has to be `def`, not `async def`"),
        ({"Config": {"a": int}}, "Config has to be a class with annotated fields"),
        ({"name": 5}, "name has to be a str that is not empty, not 5"),
    ],
    ids=["short", "long", "generator", "log", "config", "name"],
)
def test_a_class_that_cannot_work_is_refused(members: dict[str, object], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        type("Wrong", (HttpFilter,), members)


@pytest.mark.parametrize("handler", [optional, any_number])
def test_what_can_be_called_is_taken(handler: FunctionType) -> None:
    kind = type("Taken", (HttpFilter,), {"on_request": handler})
    assert FakeHost(kind).request().status == 200


def test_what_filters_have_in_common_is_no_filter() -> None:
    type("_Common", (HttpFilter,), {})
    assert not {"_common", "-common", "_-common", "common"} & set(registry)


class Calls(HttpFilter):
    """Has an __init__ of its own, and a dataclass."""

    @dataclass
    class Config:
        greeting: str = "hi"

    config: Config

    def __init__(self) -> None:
        self.text = self.config.greeting * 2

    async def on_request(self, request: Request) -> Response | None:
        try:
            answer = await CASES[request.path](self, request)
        except Exception as error:  # noqa: BLE001  (what the test asks for)
            answer = f"{type(error).__name__}: {error}"
        return Response(200, answer)


async def text(self: Calls, _: Request) -> str:
    return self.text


async def pairs(self: Calls, _: Request) -> str:
    return (await self.http.get("users", headers=[("x-a", "1")])).content.decode()


def call(**options: Any) -> Callable[[Calls, Request], Any]:
    async def ask(self: Calls, _: Request) -> str:
        return str((await self.http.get("users", **options)).status)

    return ask


def plain(function: Callable[[], object]) -> Callable[[Calls, Request], Any]:
    async def ask(_self: Calls, _request: Request) -> str:
        function()
        return "done"

    return ask


async def limit(_self: Calls, request: Request) -> str:
    return str(await request.body("5"))  # type: ignore[arg-type]  # an author's mistake


async def no_property(_self: Calls, request: Request) -> str:
    return str(request.properties.text(""))


CASES = {
    "/text": text,
    "/pairs": pairs,
    "/path": call(path="who"),
    "/timeout": call(timeout="1"),
    "/never": call(timeout=0),
    "/headers": call(headers="x"),
    "/list": plain(lambda: Response(200, "", ["ab"])),  # type: ignore[list-item]  # an author's mistake
    "/gauge": plain(lambda: Gauge("sdk_gauge").set(-1)),
    "/half": plain(lambda: Histogram("sdk_histogram").record(0.5)),  # type: ignore[arg-type]  # an author's mistake
    "/limit": limit,
    "/property": no_property,
    "/logging": plain(lambda: logging.warning("%d", "x")),  # noqa: LOG015  (an author's mistake)
}


def users(request: UpstreamRequest) -> Response:
    return Response(200, request.headers.get("x-a", ""))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/text", "hihi"),
        ("/pairs", "1"),
        ("/path", "ValueError: the path of a call begins with /, not 'who'"),
        ("/timeout", "TypeError: the timeout of a call must be seconds, not str"),
        ("/never", "ValueError: the timeout of a call must be more than 0 seconds, and no more than 49 days: 0"),
        ("/headers", "TypeError: headers must be a mapping or pairs of name and value, not 'x'"),
        ("/list", "TypeError: headers must be a mapping or pairs of name and value, not ['ab']"),
        ("/gauge", "ValueError: a gauge is set to between 0 and 2**63 - 1, not -1"),
        ("/half", "TypeError: a histogram records an int, not float"),
        ("/limit", "TypeError: a limit must be int (bytes), not str"),
        ("/property", """ValueError: a property has a path, for example "source", "address"; not ('',)"""),
        ("/logging", "done"),
    ],
)
def test_what_an_author_hands_over_is_checked(path: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own fail a test that logs what cannot be formatted
    host = FakeHost(Calls, clusters={"users": users})
    assert host.request("GET", path).text == said
    if path == "/logging":
        assert any("cannot log '%d'" in line for line in host.logs)


class Elsewhere:
    """Something that is no wait of the SDK."""

    def __await__(self) -> Generator["Elsewhere", None, None]:
        yield self


class Waits(HttpFilter):
    async def on_request(self, request: Request) -> None:
        await Elsewhere()


def test_an_await_that_cannot_work_is_told_with_its_line() -> None:
    host = FakeHost(Waits)
    assert host.request().status == 500
    line = Waits.on_request.__code__.co_firstlineno + 1
    assert any(f"what gives Elsewhere ({__file__}:{line}): only bodies and HTTP calls" in log for log in host.logs)
