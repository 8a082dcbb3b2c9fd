"""Bodies read and replaced piece by piece, in a real Envoy."""

import pytest

from tests.filters.envoy.envoys import FilterEnvoy

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(600)]

LARGE = b"abcdefgh" * (400 << 10)
"""Far more than Envoy buffers for a connection (1 MiB)."""


def test_chunks_of_a_body_add_up_to_it_and_one_is_the_last(envoy: FilterEnvoy) -> None:
    found = envoy.request("/chunks", "POST", content=LARGE).json()
    assert (found["length"], found["last"], found["end"]) == (len(LARGE), 1, [True])
    assert found["count"] > 1
    small = envoy.request("/chunks", "POST", content=b"small").json()
    assert (small["length"], small["last"], small["end"]) == (5, 1, [True])


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_message_without_a_body_has_no_chunk(envoy: FilterEnvoy, method: str) -> None:
    assert envoy.request("/chunks", method).json() == {"length": 0, "count": 0, "last": 0, "end": []}


def test_chunks_are_replaced_while_they_pass(envoy: FilterEnvoy) -> None:
    answer = envoy.request("/chunks/replace", "POST", content=LARGE)
    assert answer.content == LARGE.upper() + f"<{len(LARGE)}>".encode()
    assert (answer.headers["x-was-chunked"], answer.headers["x-rule-was"]) == ("chunked", "first")


def test_chunks_of_a_body_without_length(envoy: FilterEnvoy) -> None:
    pieces = [b"one ", b"two ", b"three"]
    assert envoy.request("/chunks/replace", "POST", content=iter(pieces)).content == b"ONE TWO THREE<13>"


def test_what_is_held_back_goes_out_with_a_later_chunk(envoy: FilterEnvoy) -> None:
    assert envoy.request("/chunks/hold", "POST", content=LARGE).content == LARGE[::-1]


def test_calls_between_chunks(envoy: FilterEnvoy) -> None:
    body = b"x" * 300_000
    since = len(envoy.log())
    answer = envoy.request("/chunks/call", "POST", content=body)
    assert answer.content == b"x" * 600_000 + b"200", envoy.log()[since:]
    assert envoy.request("/chunks/call", "POST", content=iter([b"ax", b"bx"])).content == b"axxbxx200"


def test_chunks_after_a_call_begin_at_the_beginning(envoy: FilterEnvoy) -> None:
    body = b"abc" * 50_000
    assert envoy.request("/chunks/after-call", "POST", content=body).content == body.upper()


def test_a_loop_that_is_left_lets_the_rest_pass(envoy: FilterEnvoy) -> None:
    assert envoy.request("/chunks/left", "POST", content=LARGE).content == b"<" + LARGE


def test_the_limit_is_for_all_chunks_together(envoy: FilterEnvoy) -> None:
    assert envoy.request("/chunks/limit", "POST", content=b"x" * 1000).text == "1000"
    assert envoy.request("/chunks/limit", "POST", content=iter([b"x" * 600] * 2)).status_code == 413
    assert envoy.request("/chunks/limit", "POST", content=LARGE).status_code == 413


def test_an_answer_instead_of_the_rest(envoy: FilterEnvoy) -> None:
    assert envoy.request("/chunks/answer", "POST", content=b"good").content == b"good"
    answer = envoy.request("/chunks/answer", "POST", content=b"evil")
    assert (answer.status_code, answer.text) == (403, "evil\n")


def test_a_body_is_read_once(envoy: FilterEnvoy) -> None:
    assert envoy.request("/chunks/twice", "POST", content=b"x").text.startswith("True the body has been read already")


def test_chunks_of_a_response(envoy: FilterEnvoy) -> None:
    assert envoy.request("/response/chunks").text == "ONE TWO THREE<end>"
