"""What a filter sees and does, on the fake host and on a real Envoy: one assertion for both."""

from typing import Any

import pytest

from lateen_filter import ConfigError, Response
from lateen_filter.testing import FilterHostFactory, TrailedResponse, UpstreamRequest
from tests.filters.kit.cases import Plain, Program, Ticking
from tests.filters.kit.programs import play, results


def test_headers_read(filter_host: FilterHostFactory) -> None:
    steps = [
        ["get", "X-One"],
        ["get", "x-two"],
        ["all", "x-two"],
        ["get", "none"],
        ["in", "x-one"],
        ["in", "none"],
        ["get", "x-raw"],
    ]
    headers = [("x-one", "1"), ("X-Two", "a"), ("x-two", "b"), ("x-raw", "grün")]
    _, lines = play(filter_host(Program), steps, headers=headers)
    assert results(lines) == ["1", "a, b", ["a", "b"], None, True, False, "grün"]


def test_headers_written_reach_the_upstream(filter_host: FilterHostFactory) -> None:
    steps = [
        ["set", "X-New", "1"],
        ["add", "x-two", "b"],
        ["del", "x-gone"],
        ["set", "x-three", "only"],
        ["del", "nowhere"],
    ]
    headers = [("x-two", "a"), ("x-gone", "1"), ("x-three", "a"), ("x-three", "b")]
    answer, lines = play(filter_host(Program), steps, headers=headers)
    assert results(lines) == [None, None, None, None, ["KeyError", "'nowhere'"]]
    seen = answer.upstream_request
    assert seen is not None
    assert [seen.headers.get_all(name) for name in ("x-new", "x-two", "x-gone", "x-three")] == [
        ["1"],
        ["a", "b"],
        [],
        ["only"],
    ]


CONTROLS = [*range(9), *range(10, 32), 127]


def test_values_that_are_no_header_values(filter_host: FilterHostFactory) -> None:
    """Envoy itself answers 503 to a request that leaves a filter with one of these."""
    bad = [f"a{chr(number)}b" for number in CONTROLS]
    steps = [[step, "x-a", value] for value in bad for step in ("set", "add")]
    answer, lines = play(filter_host(Program), [*steps, ["set", "x-b", "a\tb"], ["set", "x-c", "\x80\x9fü"]])
    found = results(lines)
    assert [result[0] for result in found[:-2]] == ["ValueError"] * len(steps)
    assert found[0][1] == "the value of header 'x-a' holds a control character: 'a\\x00b'"
    assert (answer.status, found[-2:]) == (200, [None, None])
    assert answer.upstream_request is not None
    assert [answer.upstream_request.headers.get(name) for name in ("x-a", "x-b")] == [None, "a\tb"]
    assert play(filter_host(Program), [["reply", 200, "", {"x-a": "\x7f"}]])[0].status == 500


def test_facts_of_a_request(filter_host: FilterHostFactory) -> None:
    _, lines = play(filter_host(Program), [["facts"]], path="/a/b?x=1&y=%20z&x=2", headers=[("cookie", "s=1; t=2")])
    assert results(lines) == [["GET", "/a/b", {"x": "1", "y": " z"}, {"s": "1", "t": "2"}, "localhost", "http"]]


def test_all_headers_in_order(filter_host: FilterHostFactory) -> None:
    host = filter_host(Program)
    _, lines = play(host, [["pairs"]], method="POST", body=b"12", headers=[("x-one", "1")])
    pairs = results(lines)[0]
    assert sorted(map(tuple, pairs)) == [
        (":authority", "localhost"),
        (":method", "POST"),
        (":path", "/"),
        (":scheme", "http"),
        ("content-length", "2"),
        ("x-forwarded-proto", "http"),
        ("x-one", "1"),
    ]


def test_the_path_is_changed_and_the_query_stays(filter_host: FilterHostFactory) -> None:
    answer, _ = play(filter_host(Program), [["set_path", "/new"], ["set", ":authority", "other"]], path="/old?q=1")
    assert answer.upstream_request is not None
    assert (answer.upstream_request.path, answer.upstream_request.authority) == ("/new?q=1", "other")


@pytest.mark.parametrize(
    ("body", "headers"),
    [("text\n", {}), ("", {}), ("{}", {"content-type": "application/json"}), ("x", {"set-cookie": "a=1", "x-a": "ü"})],
    ids=["text", "empty", "type", "headers"],
)
def test_local_replies(filter_host: FilterHostFactory, body: str, headers: dict[str, str]) -> None:
    answer, _ = play(filter_host(Program), [["reply", 403, body, headers]])
    found = {name: value for name, value in answer.headers.items() if name != "date"}
    default = {"content-type": "text/plain"} if body else {}
    assert found == {**default, **headers, "content-length": str(len(body.encode())), "server": "envoy"}
    assert (answer.status, answer.text, answer.upstream_request) == (403, body, None)


def test_on_response_sees_the_filters_own_reply(filter_host: FilterHostFactory) -> None:
    answer, lines = play(filter_host(Program), [["reply", 403, "no", {}]], [["status"], ["set", "x-late", "1"]])
    assert results(lines) == [403, None]
    assert (answer.status, answer.headers["x-late"], answer.text) == (403, "1", "no")


def test_a_reply_to_head_has_no_body(filter_host: FilterHostFactory) -> None:
    answer, _ = play(filter_host(Program), [["reply", 200, "text", {}]], method="HEAD")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "4")


@pytest.mark.parametrize("size", [0, 1, 1000, 200_000, 1_048_576], ids=str)
def test_bodies_are_buffered(filter_host: FilterHostFactory, size: int) -> None:
    answer, lines = play(filter_host(Program), [["body"]], method="POST", body=b"x" * size)
    assert lines == [f"request body {size}"]
    assert answer.upstream_request is not None
    assert len(answer.upstream_request.body) == size


def test_a_body_in_chunks(filter_host: FilterHostFactory) -> None:
    answer, lines = play(filter_host(Program), [["text"]], method="POST", body=[b"one ", b"two ", b"three"])
    assert lines == ["request text one two three"]
    assert answer.upstream_request is not None
    assert (answer.upstream_request.body, answer.upstream_request.headers.get("transfer-encoding")) == (
        b"one two three",
        "chunked",
    )


@pytest.mark.parametrize(
    ("limit", "text"),
    [(1000, "payload too large\n"), (2 << 20, "Payload Too Large")],
    ids=["of the filter", "of Envoy"],
)
def test_a_body_over_the_limit(filter_host: FilterHostFactory, limit: int, text: str) -> None:
    size = 1001 if limit == 1000 else (1 << 20) + 1
    answer, _ = play(filter_host(Program), [["body", limit]], method="POST", body=b"x" * size)
    assert (answer.status, answer.text, answer.upstream_request) == (413, text, None)


@pytest.mark.parametrize("body", [b"old", [b"o", b"ld"]], ids=["length", "chunked"])
def test_a_request_body_is_replaced(filter_host: FilterHostFactory, body: bytes | list[bytes]) -> None:
    answer, _ = play(filter_host(Program), [["body"], ["set_body", "replaced"]], method="POST", body=body)
    seen = answer.upstream_request
    assert seen is not None
    assert (seen.text, seen.headers.get("content-length"), seen.headers.get("transfer-encoding")) == (
        "replaced",
        "8",
        None,
    )


def test_a_body_that_was_not_awaited_cannot_be_replaced(filter_host: FilterHostFactory) -> None:
    _, lines = play(filter_host(Program), [["set_body", "x"]], method="POST", body=b"old")
    assert results(lines)[0][0] == "RuntimeError"


BODIES = [b"one ", b"two", [b"one ", b"two"], [b"x" * 40_000, b"y" * 40_000], None]


def trailed(request: UpstreamRequest) -> Response:
    return TrailedResponse(200, request.body or b"answer", {"x-a": "1"}, {"x-end": "of response"})


@pytest.mark.parametrize("body", BODIES, ids=["short", "shorter", "chunks", "large", "none"])
@pytest.mark.parametrize("steps", [[], [["body"]], [["chunks"]], [["get", "x-one"]], [["upper", ""]]], ids=str)
def test_messages_with_trailers(filter_host: FilterHostFactory, steps: list[list[str]], body: Any) -> None:
    """Read whole, in pieces, replaced in pieces, or not at all: bodies and trailers arrive as they were sent."""
    host = filter_host(Program, upstream=trailed)
    answer, lines = play(host, steps, steps, method="POST", body=body, trailers={"x-end": "of request"})
    sent = body if isinstance(body, bytes) else b"".join(body or ())
    expected = sent.upper() if steps[:1] == [["upper", ""]] else sent
    assert answer.upstream_request is not None
    assert answer.upstream_request.body == expected
    assert answer.upstream_request.trailers["x-end"] == "of request"
    assert (answer.status, answer.trailers["x-end"]) == (200, "of response")
    if sent:
        assert answer.body == expected
    assert "Traceback" not in "".join(lines)
    if steps in ([["body"]], [["chunks"]]):
        assert lines == [f"request {steps[0][0]} {len(sent)}", f"response {steps[0][0]} {len(sent or b'answer')}"]


def test_a_replaced_body_has_a_length_and_no_trailers(filter_host: FilterHostFactory) -> None:
    """HTTP/1.1 has them after chunks only."""
    host = filter_host(Program, upstream=trailed)
    steps = [["body"], ["set_body", "new"]]
    answer, _ = play(host, steps, steps, method="POST", body=b"old", trailers={"x-end": "1"})
    seen = answer.upstream_request
    assert seen is not None
    assert (seen.body, seen.headers["content-length"], list(seen.trailers)) == (b"new", "3", [])
    assert (answer.body, answer.headers["content-length"], list(answer.trailers)) == (b"new", "3", [])


def test_nothing_follows_what_has_gone_on_before_trailers(filter_host: FilterHostFactory) -> None:
    answer, lines = play(filter_host(Program), [["upper", "<end>"]], method="POST", body=b"abc", trailers={"x-t": "1"})
    assert answer.status == 500
    assert lines[-1].startswith("RuntimeError: this message has trailers")
    # Without trailers it works.
    answer, _ = play(filter_host(Program), [["upper", "<end>"]], method="POST", body=[b"abc", b"d"])
    assert answer.upstream_request is not None
    assert answer.upstream_request.body == b"ABCD<end>"


def test_an_answer_to_a_request_with_trailers(filter_host: FilterHostFactory) -> None:
    steps = [["body"], ["reply", 403, "no", {}]]
    answer, _ = play(filter_host(Program), steps, method="POST", body=b"abc", trailers={"x-t": "1"})
    assert (answer.status, answer.text, list(answer.trailers)) == (403, "no", [])


def upstream(request: UpstreamRequest) -> Response:
    return Response(
        201, f"answer to {request.path}", [("x-a", "1"), ("x-a", "2"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]
    )


def test_responses_are_read_and_changed(filter_host: FilterHostFactory) -> None:
    steps = [["status"], ["all", "x-a"], ["get", "none"], ["set", "x-b", "3"], ["del", "x-a"], ["set_status", 202]]
    answer, lines = play(filter_host(Program, upstream=upstream), (), steps, path="/p")
    assert results(lines) == [201, ["1", "2"], None, None, None, None]
    assert (answer.status, answer.text, answer.headers["x-b"], "x-a" in answer.headers) == (
        202,
        "answer to /p",
        "3",
        False,
    )
    assert answer.headers.get_all("set-cookie") == ["a=1", "b=2"]


def test_response_headers_there_are(filter_host: FilterHostFactory) -> None:
    _, lines = play(filter_host(Program), (), [["names"]])
    assert sorted(results(lines)[0]) == ["content-length", "date", "x-envoy-upstream-service-time"]


def test_a_response_body_is_replaced(filter_host: FilterHostFactory) -> None:
    answer, lines = play(filter_host(Program, upstream=upstream), (), [["text"], ["set_body", "new body"]], path="/p")
    assert lines[0] == "response text answer to /p"
    assert (answer.text, answer.headers["content-length"]) == ("new body", "8")


def test_a_response_is_replaced(filter_host: FilterHostFactory) -> None:
    answer, _ = play(filter_host(Program, upstream=upstream), (), [["reply", 502, "instead", {"x-c": "1"}]])
    assert (answer.status, answer.text, answer.headers["x-c"], "x-a" in answer.headers) == (502, "instead", "1", False)
    assert answer.upstream_request is not None


def test_a_response_over_envoys_limit(filter_host: FilterHostFactory) -> None:
    host = filter_host(Program, upstream=lambda _: Response(200, b"x" * ((1 << 20) + 1)))
    answer, _ = play(host, (), [["body", 2 << 20]])
    assert (answer.status, answer.text) == (500, "Internal Server Error")


def test_a_large_response_that_is_not_read_passes(filter_host: FilterHostFactory) -> None:
    host = filter_host(Program, upstream=lambda _: Response(200, b"x" * (3 << 20)))
    answer, _ = play(host, (), [["status"]])
    assert (answer.status, len(answer.body)) == (200, 3 << 20)


@pytest.mark.parametrize("phase", ["request", "response"])
def test_exceptions_fail_closed(filter_host: FilterHostFactory, phase: str) -> None:
    answer, lines = play(filter_host(Program), **{phase: [["raise"]]})
    assert (answer.status, answer.text) == (500, "internal error\n")
    assert lines[0] == f"program has failed in on_{phase}"
    assert lines[-1] == "RuntimeError: as the program says"


@pytest.mark.parametrize("phase", ["request", "response"])
def test_exceptions_fail_open(filter_host: FilterHostFactory, phase: str) -> None:
    answer, lines = play(filter_host(Program, {"lateen": {"onError": "open"}}), **{phase: [["raise"]]})
    assert (answer.status, answer.text) == (200, "ok\n")
    assert lines[-1] == "RuntimeError: as the program says"


def test_an_exception_after_waiting(filter_host: FilterHostFactory) -> None:
    host = filter_host(Program, clusters={"users": lambda _: Response(200)})
    answer, _ = play(host, [["call", "users", "/", ""], ["raise"]], method="POST", body=b"x")
    assert (answer.status, answer.upstream_request) == (500, None)


def users(request: UpstreamRequest) -> Response:
    return Response(203, f"{request.method} {request.path} {request.text}", {"content-type": "text/x-user"})


def test_calls(filter_host: FilterHostFactory) -> None:
    host = filter_host(Program, clusters={"users": users})
    steps = [["call", "users", "/u?a=1", "mine"], ["body"], ["call", "users", "/v", ""], ["set", "x-after", "1"]]
    answer, lines = play(host, steps, method="POST", body=b"x" * 100_000)
    assert lines == [
        "request call 203 POST /u?a=1 mine text/x-user",
        "request body 100000",
        "request call 203 POST /v  text/x-user",
        'request ["set", "x-after", "1"] null',
    ]
    seen = answer.upstream_request
    assert seen is not None
    assert (seen.headers["x-after"], len(seen.body)) == ("1", 100_000)
    first, second = host.calls
    assert sorted(first.headers.pairs()) == [
        (":authority", "users"),
        ("content-length", "4"),
        ("x-envoy-expected-rq-timeout-ms", "400"),
        ("x-envoy-internal", "true"),
        ("x-from", "kit"),
    ]
    assert (second.path, second.body, second.headers.get("content-length")) == ("/v", b"", "0")


def test_a_call_in_on_response(filter_host: FilterHostFactory) -> None:
    host = filter_host(Program, clusters={"users": users}, upstream=upstream)
    answer, lines = play(host, (), [["call", "users", "/u", "b"], ["text"], ["set", "x-after", "1"]])
    assert lines[:2] == ["response call 203 POST /u b text/x-user", "response text answer to /"]
    assert (answer.status, answer.headers["x-after"], answer.text) == (201, "1", "answer to /")


def test_a_call_to_a_cluster_there_is_not(filter_host: FilterHostFactory) -> None:
    _, lines = play(filter_host(Program), [["call", "nowhere", "/", ""]])
    assert lines == ["request call HttpCallError cannot call cluster 'nowhere': envoy refused the call: bad argument"]


def test_the_peers_identity(filter_host: FilterHostFactory) -> None:
    identity = "spiffe://cluster.local/ns/shop/sa/cart"
    steps = [["property", "connection", "uri_san_peer_certificate"], ["property", "connection", "mtls"], ["facts"]]
    answer, lines = play(filter_host(Program), steps, peer_identity=identity)
    assert results(lines) == [identity.encode().hex(), "01", ["GET", "/", {}, {}, "localhost", "https"]]
    assert answer.upstream_request is not None
    assert answer.upstream_request.headers["x-forwarded-proto"] == "https"


def test_shared_data(filter_host: FilterHostFactory) -> None:
    host = filter_host(Program)
    steps = [
        ["shared"],
        ["share", "a", "1"],
        ["compare", "a", "2", 0],
        ["compare", "a", "3", 9],
        ["compare", "b", "new", 0],
        ["shared"],
    ]
    _, lines = play(host, steps)
    assert results(lines) == [["None", "None"], None, True, False, True, ["b'2'", "b'new'"]]
    assert (host.shared.get("a"), host.shared.get("none")) == (b"2", None)
    host.shared.set("a", b"\0from outside\xff")
    _, lines = play(host, [["shared"]])
    assert results(lines)[0][0] == repr(b"\0from outside\xff")


def test_version_0_means_that_the_key_is_absent(filter_host: FilterHostFactory) -> None:
    steps = [["create", "a", "first"], ["create", "a", "second"], ["shared"]]
    _, lines = play(filter_host(Program), steps)
    assert results(lines) == [True, False, ["b'first'", "None"]]


def test_metrics(filter_host: FilterHostFactory) -> None:
    host = filter_host(Program)
    assert host.metrics == {}
    _, lines = play(
        host, [["count", "a", 2], ["count", "a", 3], ["gauge", "a", 40], ["histogram", 7], ["count", "b", -1]]
    )
    assert results(lines) == [2, 5, 42, None, ["ValueError", "a counter only goes up"]]
    assert host.metrics == {"kit_a": 5, "kit_level_a": 42}
    _, lines = play(host, [["count", "a", 0], ["count", "b", 0], ["count", "a", 0.0], ["count", "a", "1"]])
    number = "TypeError", "a counter goes up by int, not float"
    assert results(lines) == [5, 0, list(number), [number[0], number[1].replace("float", "str")]]
    assert host.metrics == {"kit_a": 5, "kit_b": 0, "kit_level_a": 42}
    assert filter_host(Program).metrics == {}


def test_request_headers_in_on_response_are_kept_and_fixed(filter_host: FilterHostFactory) -> None:
    host = filter_host(Plain)
    answer = host.request("GET", "/some")
    assert answer.headers["x-seen"] == "/some 200"
    assert host.request("GET", "/reply").headers["x-seen"] == "/reply 418"


def test_filters_that_are_plain_functions(filter_host: FilterHostFactory) -> None:
    host = filter_host(Plain, {"word": "other"})
    assert host.logs == ["configured with other"] * len(host.logs)
    answer = host.request("GET", "/pass", body=b"x" * 3_000_000)
    assert answer.upstream_request is not None
    assert (answer.upstream_request.headers["x-word"], len(answer.upstream_request.body)) == ("other", 3_000_000)
    reply = host.request("GET", "/reply")
    assert (reply.status, reply.text, reply.headers["x-reply"]) == (418, "short\n", "1")
    assert host.request("GET", "/fail").status == 500
    assert host.logs[-1] == "KeyError: 'plain'"


def test_an_endless_loop(filter_host: FilterHostFactory) -> None:
    host = filter_host(Plain)
    assert host.request("GET", "/loop").status == 500
    assert host.logs[-1] == "CpuLimitExceeded"
    assert host.request("GET", "/").status == 200


@pytest.mark.parametrize(
    ("config", "problems"),
    [
        ({"wrd": "x"}, ["wrd: no such field (known: word, limit)"]),
        ({"word": 1, "limit": "x"}, ["word: expected a string, got 1", 'limit: expected an integer, got "x"']),
        ({"limit": 0}, ["limit is less than 1"]),
        ({"lateen": {"onError": "never"}}, ['lateen.onError: expected one of "closed", "open", got "never"']),
        ({"lateen": {"cpuMs": 0}}, ["lateen: cpuMs is 0: between 1 and 10000"]),
    ],
    ids=["unknown", "types", "validate", "option", "cpu"],
)
def test_a_configuration_that_is_refused(
    filter_host: FilterHostFactory, config: dict[str, object], problems: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        filter_host(Plain, config)
    assert caught.value.problems == problems


def test_ticks(filter_host: FilterHostFactory) -> None:
    answers = iter(f"flags {number}".encode() for number in range(1000))
    host = filter_host(Ticking, clusters={"flags": lambda _: Response(200, next(answers))})
    host.tick()
    first = host.request("GET", "/").text
    host.tick()
    second = host.request("GET", "/").text
    assert first.startswith("flags ")
    assert int(second.split()[1]) > int(first.split()[1])
    assert host.calls[0].path == "/flags"
    assert host.metrics["kit_b"] >= 2


def test_a_filter_without_ticks(filter_host: FilterHostFactory) -> None:
    with pytest.raises(ValueError, match="Plain has no tick_seconds"):
        filter_host(Plain).tick()


def test_what_an_upstream_raises_is_raised_in_the_test(filter_host: FilterHostFactory) -> None:
    def strict(request: UpstreamRequest) -> Response:
        raise AssertionError(request.path)

    with pytest.raises(AssertionError, match="/unexpected"):
        filter_host(Plain, upstream=strict).request("GET", "/unexpected")


def test_two_hosts_at_once(filter_host: FilterHostFactory) -> None:
    one = filter_host(Program, clusters={"users": lambda _: Response(200, "one")})
    two = filter_host(Program, clusters={"users": lambda _: Response(200, "two")})
    for host, text in ((one, "one"), (two, "two"), (one, "one")):
        assert play(host, [["call", "users", "/", ""]])[1] == [f"request call 200 {text} None"]
