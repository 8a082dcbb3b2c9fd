"""access-log."""

import json
import re

import pytest

from filters.library.access_log import LONGEST_LINE, AccessLog, cut, iso_time, redact_query, render_line
from lateen_filter import ConfigError, Response
from lateen_filter.testing import FilterHost, FilterHostFactory

SECRET = frozenset({"token", "password"})


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("", ""),
        ("a=1&b=2", "a=1&b=2"),
        ("token=x", "token=[redacted]"),
        ("a=1&Token=x&b", "a=1&Token=[redacted]&b"),
        ("t%6Fken=x", "t%6Fken=[redacted]"),
        ("tokens=x&mytoken=y", "tokens=x&mytoken=y"),
        ("token", "token"),
        ("a=1;token=x", "a=1;token=[redacted]"),
        ("next=/login?token=x&a=1", "next=/login?token=[redacted]&a=1"),
        ("a=1#token=x", "a=1#token=[redacted]"),
        ("password=a&password=b", "password=[redacted]&password=[redacted]"),
    ],
)
def test_queries_are_redacted(query: str, result: str) -> None:
    assert redact_query(query, SECRET) == result


def test_values_are_cut_and_lines_fit() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
    assert cut("a\udcff", 9) == "a\ufffd"
    assert cut(1.5, 1) == 1.5
    line = render_line({f"n{number}": "\x01" * 4000 for number in range(60)}, 4000)
    assert len(line) <= LONGEST_LINE
    assert len(json.loads(line)) == 60
    assert "\n" not in render_line({"a": "x\ny\u2028"}, 100)


def test_time() -> None:
    assert iso_time(1_700_000_000.1239) == "2023-11-14T22:13:20.123Z"


def _lines(host: FilterHost) -> list[dict[str, object]]:
    return [json.loads(line) for line in host.logs if line.startswith("{")]


def test_lines(either_host: FilterHostFactory) -> None:
    entries = {
        "who": "{header:x-user|nobody} via {method}",
        "status": "{status}",
        "path": "{path}",
        "query": "{query}",
        "auth": "{header:authorization}",
        "key": "{header:x-secret}",
        "cookie": "{response_header:set-cookie}",
        "none": "{header:x-none}",
        "trace": "{trace_id}",
        "type": "{response_header:content-type}",
        "session": "{cookie:s}",
        "took": "{duration_ms}",
        "at": "{time}",
        "constant": "{{gateway}}",
        "referer": "{header:referer}",
        "location": "{response_header:Location}",
    }
    host = either_host(
        AccessLog,
        {"entries": entries, "redactHeaders": ["X-Secret"], "longestValue": 100},
        upstream=lambda _: Response(
            201, "made", {"set-cookie": "a=b", "content-type": "text/plain", "location": "/x#access_token=t&a=1"}
        ),
    )
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {
        "authorization": "Bearer x",
        "x-secret": "y",
        "cookie": "s=1",
        "traceparent": f"00-{trace}-b7ad6b7169203331-01",
        "referer": "https://a/b?q=1&password=x",
    }
    host.request("PUT", "/a?b=1&token=t", headers=headers, body=b"x")
    (line,) = _lines(host)
    took, at = line.pop("took"), line.pop("at")
    assert took is None or isinstance(took, (int, float))
    assert isinstance(at, str)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
    assert line == {
        "who": "nobody via PUT",
        "status": 201,
        "path": "/a",
        "query": "b=1&token=[redacted]",
        "auth": "[redacted]",
        "key": "[redacted]",
        "cookie": "[redacted]",
        "none": None,
        "trace": trace,
        "type": "text/plain",
        "session": "1",
        "constant": "{gateway}",
        "referer": "https://a/b?q=1&password=[redacted]",
        "location": "/x#access_token=[redacted]&a=1",
    }
    host.request(headers={"x-user": "a" * 60_000})
    host.request(headers={"x-user": 'eve", "status": 200}\udcff'})
    long, hostile = _lines(host)[1:]
    assert long["who"] == "a" * 99 + "…"
    assert str(hostile["who"]).startswith('eve", "status": 200}')


def test_the_default_line(filter_host: FilterHostFactory) -> None:
    host = filter_host(AccessLog)
    host.request(path="/x?a=1", headers={"user-agent": "tests", "x-request-id": "r1"})
    (line,) = _lines(host)
    assert (line["method"], line["path"], line["query"], line["status"], line["user_agent"], line["request_id"]) == (
        "GET",
        "/x",
        "a=1",
        200,
        "tests",
        "r1",
    )
    assert line["authority"] == "localhost"
    assert line["source"] == "127.0.0.1:40000"


def test_sampling_keeps_errors_and_whole_traces(filter_host: FilterHostFactory) -> None:
    host = filter_host(AccessLog, {"samplePercent": 0}, upstream=lambda request: Response(int(request.path[1:])))
    for status in (200, 404, 499, 500, 503):
        host.request(path=f"/{status}")
    assert [line["status"] for line in _lines(host)] == [500, 503]
    half = filter_host(AccessLog, {"samplePercent": 50, "alwaysStatus": 600})
    for last in "0f":
        for _ in range(3):
            half.request(headers={"traceparent": f"00-{'a' * 18}{last * 14}-b7ad6b7169203331-00"})
    assert [str(line["trace_id"])[-1] for line in _lines(half)] == ["0", "0", "0"]
    some = filter_host(AccessLog, {"samplePercent": 50})
    for _ in range(200):
        some.request()
    assert 40 < len(_lines(some)) < 160


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"entries": {}}, "0 entries"),
        ({"entries": {"a": "{nope}"}}, "no such variable"),
        ({"entries": {"a": "{header:a b}"}}, "no header name"),
        ({"entries": {"": "x"}}, "characters"),
        ({"samplePercent": 101}, "samplePercent"),
        ({"longestValue": 0}, "longestValue"),
        ({"entries": {"a": "{header:a b}"}}, "entries.a: "),
        ({"entries": {"caf\u00e9": "x"}}, "entries: the name"),
        ({"redactHeaders": ["a b"]}, "redactHeaders"),
        ({"alwaysStatus": 99}, "alwaysStatus"),
        ({"alwaysSlowerMs": -1}, "alwaysSlowerMs"),
    ],
)
def test_bad_configurations(filter_host: FilterHostFactory, config: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        filter_host(AccessLog, config)
