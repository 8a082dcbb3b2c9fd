"""The fake host and a real Envoy, side by side: whatever a filter does, both answer the same."""

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filters.testing.headermap import REQUEST_INLINE, RESPONSE_INLINE
from lateen_filter import Response
from lateen_filter.testing import DOWN, SILENT, Answer, FilterHost, FilterHostFactory, UpstreamRequest
from tests.filters.kit.cases import Program
from tests.filters.kit.conftest import ENVOY
from tests.filters.kit.programs import play, results
from tests.fuzzing import examples

OTHERS = [
    "cookie",
    "set-cookie",
    "host",
    "x-real-ip",
    "traceparent",
    "forwarded",
    "accept-language",
    "proxy-authenticate",
    "trailer",
]
pytestmark = [*ENVOY]
Agreed: TypeAlias = Callable[[Callable[[FilterHostFactory], Any]], Any]
KNOWN_HEADERS = sorted((REQUEST_INLINE | RESPONSE_INLINE) - {":status", "content-length", "transfer-encoding"}) + OTHERS


@pytest.mark.parametrize("phase", ["request", "response"])
def test_second_values_of_headers_envoy_knows(agreed: Agreed, phase: str) -> None:
    """Envoy keeps some headers in one place and appends to them: the fake has to know which."""

    def ask(filter_host: FilterHostFactory) -> dict[str, Any]:
        host = filter_host(Program)
        steps = {
            name: [
                ["set", name, "z"],
                ["add", name, "a"],
                ["add", name, "b"],
                ["all", name],
                ["set", name, "c"],
                ["all", name],
            ]
            for name in KNOWN_HEADERS
        }
        batches = [KNOWN_HEADERS[at : at + 10] for at in range(0, len(KNOWN_HEADERS), 10)]
        said: list[Any] = []
        for names in batches:
            said += results(play(host, **{phase: [step for name in names for step in steps[name]]})[1])
        return {name: said[6 * place : 6 * place + 6] for place, name in enumerate(KNOWN_HEADERS)}

    assert agreed(ask)["x-real-ip"] == [None, None, None, ["z", "a", "b"], None, ["c"]]


@pytest.mark.parametrize("name", ["host", "cookie", "user-agent", "accept", "x-request-id", "x-forwarded-proto"])
def test_second_values_on_the_wire(agreed: Agreed, name: str) -> None:
    def ask(filter_host: FilterHostFactory) -> Any:
        answer, lines = play(filter_host(Program), [["all", name]], headers=[(name, "a")])
        seen = answer.upstream_request
        return answer.status, lines, None if seen is None else seen.headers.get_all(name)

    assert agreed(ask)[0] == 200


@pytest.mark.parametrize("failure", [DOWN, SILENT], ids=str)
def test_a_call_that_is_not_answered(agreed: Agreed, failure: Any) -> None:
    def ask(filter_host: FilterHostFactory) -> Any:
        host = filter_host(Program, clusters={"users": failure})
        answer, lines = play(host, [["call", "users", "/", ""]])
        return answer.status, lines, [call.path for call in host.calls]

    status, lines, _ = agreed(ask)
    assert (status, len(lines)) == (200, 1)


def test_an_upstream_that_is_down(agreed: Agreed) -> None:
    def ask(filter_host: FilterHostFactory) -> Any:
        answer, lines = play(filter_host(Program, upstream=DOWN), (), [["status"], ["names"]])
        return answer.status, answer.text, sorted(answer.headers), answer.upstream_request, lines

    assert agreed(ask)[0] == 503


def test_properties(agreed: Agreed) -> None:
    request = ("path", "url_path", "query", "host", "scheme", "method", "useragent", "referer", "protocol")
    paths = [
        *(["request", part] for part in request),
        ["request", "headers", "x-one"],
        ["request", "headers", "none"],
        ["request", "nothing"],
        ["connection", "mtls"],
        ["connection", "uri_san_peer_certificate"],
        ["connection", "requested_server_name"],
        ["xds", "cluster_name"],
        ["xds", "route_name"],
        ["cluster_name"],
        ["route_name"],
        ["plugin_name"],
        ["plugin_root_id"],
        ["listener_direction"],
        ["response", "code"],
        ["no", "such"],
        ["none"],
    ]
    steps = [["property", *path] for path in paths]

    def ask(filter_host: FilterHostFactory) -> list[str]:
        headers = [("x-one", "1"), ("user-agent", "kit")]
        return play(filter_host(Program), steps, path="/p?q=1", headers=headers)[1]

    assert len(agreed(ask)) == len(paths)


def test_a_property_that_is_set(agreed: Agreed) -> None:
    steps = [
        ["set_property", "mine", "value"],
        ["property", "mine"],
        ["property", "filter_state", "wasm.mine"],
        ["property", "wasm.mine"],
    ]
    lines = agreed(lambda filter_host: play(filter_host(Program), steps)[1])
    assert results(lines)[1] == b"value".hex()


def test_on_log_reads_and_cannot_write(agreed: Agreed) -> None:
    steps = [
        ["get", "x-one"],
        ["facts"],
        ["response.status"],
        ["response.get", "content-length"],
        ["set", "x-two", "2"],
        ["response.set", "x-two", "2"],
    ]
    lines = agreed(lambda filter_host: play(filter_host(Program), log=steps, headers=[("x-one", "1")])[1])
    assert results(lines)[:4] == ["1", ["GET", "/", {}, {}, "localhost", "http"], 200, "3"]


NAMES = st.sampled_from(
    ["x-a", "X-B", "accept", "cookie", "user-agent", "content-type", "x-forwarded-for", "", "a b", ":path", "x-ü"]
)
VALUES = st.sampled_from(["1", "a, b", "", "grün", "k=v; l=w", " x ", "a\nb", "a\x7fb", "\x01", "a\tb", "/p?q", '"q"'])
HEADER_STEPS = st.one_of(
    st.tuples(st.sampled_from(["get", "all", "in", "del"]), NAMES),
    st.tuples(st.sampled_from(["set", "add"]), NAMES, VALUES),
)
SHARED_STEPS = st.one_of(
    st.tuples(st.just("share"), st.sampled_from("ab"), VALUES),
    st.tuples(st.just("compare"), st.sampled_from("ab"), VALUES, st.integers(0, 1)),
    st.tuples(st.just("create"), st.sampled_from("ab"), VALUES),
    st.just(["shared"]),
)
METRIC_STEPS = st.one_of(
    st.tuples(st.just("count"), st.sampled_from("ab"), st.integers(-1, 5)),
    st.tuples(st.just("gauge"), st.sampled_from("ab"), st.integers(0, 2**40)),
)
WAITS = st.one_of(
    st.just(["text"]),
    st.just(["body"]),
    st.tuples(st.just("body"), st.sampled_from([0, 3, 20_000, 2 << 20])),
    st.tuples(
        st.just("call"),
        st.sampled_from(["users", "nowhere"]),
        st.sampled_from(["/", "/a?b=c"]),
        st.sampled_from(["", "sent"]),
    ),
)
ENDS: st.SearchStrategy[Any] = st.one_of(
    st.tuples(
        st.just("reply"),
        st.sampled_from([200, 201, 403, 404, 503]),
        st.sampled_from(["", "text", "ü"]),
        st.sampled_from([{}, {"content-type": "a/b"}, {"x-r": "1"}, {"content-length": "3"}, {"server": "me"}]),
    ),
    st.tuples(st.just("reply"), st.sampled_from([204, 304]), st.just(""), st.just({})),
    st.just(["raise"]),
    st.tuples(st.just("set_body"), st.sampled_from(["", "new", "x" * 9_000])),
)
COMMON = [HEADER_STEPS, HEADER_STEPS, SHARED_STEPS, METRIC_STEPS, WAITS, ENDS]
REQUEST_STEPS = st.one_of(*COMMON, st.just(["facts"]), st.tuples(st.just("set_path"), st.sampled_from(["/n", "/n/ü"])))
RESPONSE_STEPS = st.one_of(
    *COMMON, st.just(["status"]), st.tuples(st.just("set_status"), st.sampled_from([201, 404, 99]))
)
BODIES = st.sampled_from([None, b"", b"abc", b"x" * 40_000, [b"one", b"two"], [b"x" * 20_000, b"y" * 20_000]])


def users(request: UpstreamRequest) -> Response:
    return Response(203, f"{request.method} {request.path} {request.text}", {"content-type": "text/x-user"})


def upstream(request: UpstreamRequest) -> Response:
    return Response(200, request.body or "nothing", [("x-a", "1"), ("x-a", "2"), ("content-type", "text/plain")])


def seen(host: FilterHost, program: dict[str, Any], method: str, body: Any) -> Any:
    """Everything a test can see, without what no two requests share."""
    answer, lines = play(host, program["request"], program["response"], (), method=method, path="/p?q=1", body=body)
    for name in ("content-length", "transfer-encoding"):
        if method == "HEAD":  # how a body that is not sent is framed is nobody's business
            answer.headers.pop(name, None)
    kept = [line for line in lines if not line.startswith(("Traceback", "  File"))]
    return (
        outcome(answer),
        kept,
        dict(host.metrics),
        [(call.path, call.text) for call in host.calls],
        host.shared.get("a"),
    )


def outcome(answer: Answer) -> Any:
    # `connection: close` depends on how much of the request had arrived when it was answered.
    skipped = {"connection", "date", "x-envoy-upstream-service-time", "x-request-id", "x-program"}
    request = answer.upstream_request

    def headers(message: Answer | UpstreamRequest) -> list[tuple[str, str]]:
        return sorted(pair for pair in message.headers.pairs() if pair[0] not in skipped)

    sent = None if request is None else (request.method, request.path, request.body, headers(request))
    return answer.status, answer.body, headers(answer), sent


@pytest.mark.fuzz
def test_whatever_a_filter_does(fake_filter_host: FilterHostFactory, envoy_filter_host: FilterHostFactory) -> None:
    fake, envoy = (
        make(Program, clusters={"users": users}, upstream=upstream) for make in (fake_filter_host, envoy_filter_host)
    )

    @settings(max_examples=examples(150), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        st.fixed_dictionaries(
            {"request": st.lists(REQUEST_STEPS, max_size=5), "response": st.lists(RESPONSE_STEPS, max_size=4)}
        ),
        st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]),
        BODIES,
    )
    def agree(program: dict[str, Any], method: str, body: Any) -> None:
        program = json.loads(json.dumps(program))
        assert seen(fake, program, method, body) == seen(envoy, program, method, body)

    agree()
