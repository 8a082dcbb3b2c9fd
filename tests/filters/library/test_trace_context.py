"""trace-context, by the cases of the W3C test suite and their near misses."""

import pytest

from filters.library.trace_context import TraceContext
from filters.library.trace_headers import MOST_MEMBERS, parse_parent, parse_state, render_state, samples, with_member
from lateen_filter import ConfigError
from lateen_filter.testing import FilterHostFactory

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("values", "rendered"),
    [
        ([PARENT], PARENT),
        ([f"00-{TRACE}-{SPAN}-00"], f"00-{TRACE}-{SPAN}-00"),
        ([f" {PARENT}\t"], PARENT),
        ([f"00-{TRACE}-{SPAN}-03"], f"00-{TRACE}-{SPAN}-03"),
        ([f"00-{TRACE}-{SPAN}-ff"], f"00-{TRACE}-{SPAN}-03"),
        ([f"00-{TRACE}-{SPAN}-04"], f"00-{TRACE}-{SPAN}-00"),
        ([f"cc-{TRACE}-{SPAN}-01"], PARENT),
        ([f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like"], PARENT),
        ([f"cc-{TRACE}-{SPAN}-01.what"], None),
        ([f"ff-{TRACE}-{SPAN}-01"], None),
        ([f"{PARENT}-"], None),
        ([f"{PARENT}-extra"], None),
        ([f"00-{TRACE}-{SPAN}-0"], None),
        ([f"00-{TRACE}-{SPAN}-1g"], None),
        ([f"00-{TRACE}-{SPAN}"], None),
        ([f"0-{TRACE}-{SPAN}-01"], None),
        ([PARENT.upper()], None),
        ([f"00-{TRACE[:-1]}-{SPAN}-01"], None),
        ([f"00-{TRACE}a-{SPAN}-01"], None),
        ([f"00-{'0' * 32}-{SPAN}-01"], None),
        ([f"00-{TRACE}-{'0' * 16}-01"], None),
        ([PARENT, PARENT], None),
        ([f"{PARENT},{PARENT}"], None),
        ([""], None),
        (["x" * 65536], None),
        ([f"cc-{TRACE}-{SPAN}-01-" + "x" * 65536], PARENT),
        ([], None),
    ],
)
def test_traceparent(values: list[str], rendered: str | None) -> None:
    parent = parse_parent(values)
    assert (parent.render() if parent else None) == rendered


@pytest.mark.parametrize(
    ("values", "members"),
    [
        (["foo=1,bar=2"], "foo=1,bar=2"),
        (["foo=1", "bar=2"], "foo=1,bar=2"),
        ([" foo=1 ,\tbar=2 "], "foo=1,bar=2"),
        (["foo=1,,bar=2,"], "foo=1,bar=2"),
        (["foo=1 2"], "foo=1 2"),
        (["t-_*/@v=1"], "t-_*/@v=1"),
        (["0t@v=1"], "0t@v=1"),
        (["k" * 256 + "=1"], "k" * 256 + "=1"),
        (["k=" + "v" * 256], "k=" + "v" * 256),
        (["k" * 257 + "=1"], None),
        (["k=" + "v" * 257], None),
        (["t" * 241 + "@" + "v" * 14 + "=1"], "t" * 241 + "@" + "v" * 14 + "=1"),
        (["t" * 242 + "@v=1"], None),
        (["t@" + "v" * 15 + "=1"], None),
        (["foo@=1"], None),
        (["@foo=1"], None),
        (["foo@@bar=1"], None),
        (["foo=1,foo=2"], "foo=1"),
        (["foo=1,bar=2", "foo=3,baz=4"], "foo=1,bar=2,baz=4"),
        (["foo"], None),
        (["foo="], None),
        (["foo =1"], None),
        (["FOO=1"], None),
        (["foo.bar=1"], None),
        (["foo=bar=baz"], None),
        (["foo=grün"], None),
        (
            [",".join(f"k{number}=1" for number in range(MOST_MEMBERS))],
            ",".join(f"k{number}=1" for number in range(MOST_MEMBERS)),
        ),
        ([",".join(f"k{number}=1" for number in range(MOST_MEMBERS + 1))], None),
        ([""], ""),
    ],
)
def test_tracestate(values: list[str], members: str | None) -> None:
    found = parse_state(values)
    assert (None if found is None else render_state(found, 8192)) == members


def test_a_long_tracestate_loses_long_members_first_then_the_last() -> None:
    members = [("a", "1"), ("long", "x" * 200), ("b", "2"), ("c", "3" * 100)]
    assert render_state(members, 1000) == f"a=1,long={'x' * 200},b=2,c={'3' * 100}"
    assert render_state(members, 300) == f"a=1,b=2,c={'3' * 100}"
    assert render_state(members, 100) == "a=1,b=2"
    assert render_state(members, 2) == ""


def test_ones_own_member_is_the_first_and_there_once() -> None:
    assert with_member([("a", "1"), ("me", "old"), ("b", "2")], "me", "new") == [("me", "new"), ("a", "1"), ("b", "2")]
    full = [(f"k{number}", "1") for number in range(MOST_MEMBERS)]
    assert len(with_member(full, "me", "1")) == MOST_MEMBERS


def test_sampling_is_a_property_of_the_trace() -> None:
    assert samples("0" * 32, 0.001)
    assert not samples("f" * 32, 99.9)
    assert samples("f" * 32, 100)
    assert not samples("0" * 32, 0)
    half = "0" * 18 + "8" + "0" * 13
    assert not samples(half, 50)
    assert samples(half, 50.1)


def test_traces_go_on_or_begin(either_host: FilterHostFactory) -> None:
    host = either_host(TraceContext, {"stateKey": "lateen", "stateValue": "gw", "responseHeader": "x-trace-id"})
    kept = host.request(headers=[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")])
    assert kept.upstream_request is not None
    assert kept.upstream_request.headers["traceparent"] == PARENT
    assert kept.upstream_request.headers["tracestate"] == "lateen=gw,a=1,b=2"
    assert kept.headers["x-trace-id"] == TRACE
    for bad in (f"00-{'0' * 32}-{SPAN}-01", PARENT + "-x", "x" * 50_000):
        new = host.request(headers={"traceparent": bad, "tracestate": "a=1"}).upstream_request
        assert new is not None
        parent = parse_parent(new.headers.get_all("traceparent"))
        assert parent is not None
        assert parent.sampled
        assert parent.trace_id != TRACE
        assert new.headers["tracestate"] == "lateen=gw"
    twice = host.request(headers=[("traceparent", PARENT), ("traceparent", PARENT)]).upstream_request
    assert twice is not None
    assert TRACE not in twice.headers["traceparent"]


def test_a_bad_tracestate_goes_and_the_trace_stays(filter_host: FilterHostFactory) -> None:
    found = filter_host(TraceContext).request(headers={"traceparent": PARENT, "tracestate": "A=1"}).upstream_request
    assert found is not None
    assert found.headers["traceparent"] == PARENT
    assert "tracestate" not in found.headers


def test_who_changes_the_decision_becomes_the_parent(filter_host: FilterHostFactory) -> None:
    host = filter_host(TraceContext, {"samplePercent": 0, "overrideSampling": True})
    found = host.request(headers={"traceparent": PARENT, "tracestate": "a=1"}).upstream_request
    assert found is not None
    parent = parse_parent([found.headers["traceparent"]])
    assert parent is not None
    assert (parent.trace_id, parent.sampled) == (TRACE, False)
    assert parent.span_id != SPAN
    assert found.headers["tracestate"] == "a=1"
    untouched = host.request(headers={"traceparent": f"00-{TRACE}-{SPAN}-00"}).upstream_request
    assert untouched is not None
    assert untouched.headers["traceparent"] == f"00-{TRACE}-{SPAN}-00"


@pytest.mark.parametrize(
    ("config", "identity", "kept"),
    [
        ({"incoming": "restart"}, "spiffe://td/ns/a/sa/b", False),
        ({"incoming": "trusted", "trustedIdentities": ["spiffe://td/*"]}, "spiffe://td/ns/a/sa/b", True),
        ({"incoming": "trusted", "trustedIdentities": ["spiffe://td/*"]}, "spiffe://te/ns/a/sa/b", False),
        ({"incoming": "trusted", "trustedIdentities": ["spiffe://td/*"]}, None, False),
        ({"incoming": "trusted", "trustedAddresses": ["127.0.0.1"]}, None, True),
        ({"incoming": "trusted"}, None, False),
    ],
)
def test_whose_traces_go_on(
    filter_host: FilterHostFactory, config: dict[str, object], identity: str | None, kept: bool
) -> None:
    found = filter_host(TraceContext, config).request(
        headers={"traceparent": PARENT, "tracestate": "a=1"}, peer_identity=identity
    )
    assert found.upstream_request is not None
    assert (found.upstream_request.headers["traceparent"] == PARENT) is kept
    assert ("tracestate" in found.upstream_request.headers) is kept


@pytest.mark.parametrize(
    "config",
    [
        {"stateKey": "a"},
        {"stateKey": "A", "stateValue": "1"},
        {"stateKey": "a", "stateValue": "b,c"},
        {"samplePercent": 101},
        {"longestState": 100},
        {"responseHeader": "content-length"},
        {"trustedAddresses": ["10.0.0.0/8"]},
        {"trustedIdentities": ["spiffe://td/*"]},
        {"incoming": "trusted", "trustedIdentities": ["td/ns/a"]},
    ],
)
def test_bad_configurations(filter_host: FilterHostFactory, config: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        filter_host(TraceContext, config)
