"""Handlers that Wasm calls without the SDK between: what they see of a request is the same as on the long way."""

import http.client
from concurrent.futures import ThreadPoolExecutor

import pytest

from filters.toolchain.exchanges import STREAMS
from tests.filters.envoy.envoys import FilterEnvoy

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(600)]

LEFT = "the request has left: its headers can only be changed in on_request"


def test_the_request_is_the_same_in_all_phases_and_its_headers_are_kept(envoy: FilterEnvoy) -> None:
    sent = [("x-one", "1"), ("x-twice", "a"), ("x-twice", "b")]
    for number in range(3):  # objects are used again
        answer = envoy.request(f"/x?keep={number}", "POST", headers=sent, listener="phases", content=b"x")
        assert answer.text.split() == ["POST", f"/x?keep={number}", "1"]
        assert answer.headers["x-phase"] == f"POST /x?keep={number} 1"
        assert (answer.headers["x-twice"], answer.headers["x-same"]) == ("a, b", "True True")
        assert answer.headers["x-late"] == LEFT
        other = envoy.request("/y", listener="phases")
        assert (other.headers["x-phase"], other.headers["x-same"]) == ("GET /y -", "False False")


@pytest.mark.parametrize(
    ("path", "status", "passes"),
    [("/answer", 200, 200), ("/coroutine", 500, 200), ("/raise", 500, 200), ("/other", 418, 418), ("/error", 500, 200)],
)
def test_what_is_out_of_the_ordinary(envoy: FilterEnvoy, path: str, status: int, passes: int) -> None:
    assert envoy.request(path, listener="phases").status_code == status
    assert envoy.request(path, listener="phases-open").status_code == passes
    assert envoy.request("/after", listener="phases").headers["x-phase"] == "GET /after -"


def test_failures_are_logged_with_their_reason(envoy: FilterEnvoy) -> None:
    for path in ("/coroutine", "/raise", "/log/raise"):
        envoy.request(path, listener="phases")
    for reason in (
        "TypeError: a filter returns a Response or None, not coroutine",
        "raised StopIteration",
        "RuntimeError: phases: on_log is broken",
    ):
        assert reason in envoy.wait_log(reason)


def test_the_log_sees_request_and_response(envoy: FilterEnvoy) -> None:
    envoy.request("/logged?a=1", listener="phases")
    line = "phases: /logged?a=1 200 GET /logged?a=1 -"
    assert line in envoy.wait_log(line)


def test_filters_that_look_at_the_response_only_or_keep_the_request_themselves(envoy: FilterEnvoy) -> None:
    for path in ("/one", "/two"):
        answer = envoy.request(path, listener="others")
        assert (answer.headers["x-only"], answer.headers["x-kept"]) == ("200", path)


def test_operators_with_unusual_arguments(envoy: FilterEnvoy) -> None:
    found = envoy.request("/operators", headers=[("x-one", "1")], listener="short").json()
    assert found == [
        *["KeyError"] * 2,
        *["TypeError"] * 3,
        *["False", "True", 100],
        *["None", "ValueError", "ValueError", "None"],
        *["None", "ValueError"],
        *["None", "None", "None", "ValueError", "OverflowError", "TypeError", "TypeError"],
        3,
    ]


def test_a_stream_is_remembered_while_thousands_of_others_pass(envoy: FilterEnvoy) -> None:
    """Wasm has places for some; who loses its place is Python's from then on."""
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(
            lambda: envoy.request("/held?keep=held", headers=[("x-one", "held")], listener="phases").headers
        )
        connection = http.client.HTTPConnection("127.0.0.1", envoy.ports["short"], timeout=60)
        for _ in range(STREAMS + 10):
            connection.request("GET", "/headers")
            connection.getresponse().read()
        connection.close()
        assert not held.done()
        envoy.request("/release", listener="phases")
        answer = held.result(60)
    assert (answer["x-phase"], answer["x-same"]) == ("GET /held?keep=held held", "True True")
