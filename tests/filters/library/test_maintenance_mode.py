"""maintenance-mode."""

from datetime import UTC, datetime, timedelta

import pytest

from filters.library.maintenance_mode import MaintenanceMode, Weekly, closed_until, page, wants_html
from filters.library.times import parse_time
from lateen_filter import ConfigError
from lateen_filter.testing import FilterHostFactory


def at(text: str) -> float:
    return parse_time(text)


NIGHT = Weekly(days=("mon",), start="22:00", end="02:00")
"""2026-11-23 is a Monday."""


@pytest.mark.parametrize(
    ("moment", "until"),
    [
        ("2026-11-23T21:59:59Z", None),
        ("2026-11-23T22:00:00Z", "2026-11-24T02:00:00Z"),
        ("2026-11-24T01:59:59Z", "2026-11-24T02:00:00Z"),
        ("2026-11-24T02:00:00Z", None),
        ("2026-11-24T22:00:00Z", None),
        ("2026-11-23T01:00:00Z", None),
    ],
)
def test_a_window_over_midnight(moment: str, until: str | None) -> None:
    assert closed_until(at(moment), (), [NIGHT]) == (None if until is None else at(until))


def test_an_offset_moves_day_and_hour() -> None:
    tokyo = Weekly(days=("mon",), start="08:00", end="09:00", utc_offset_minutes=540)
    assert closed_until(at("2026-11-22T23:30:00Z"), (), [tokyo]) == at("2026-11-23T00:00:00Z")
    assert closed_until(at("2026-11-23T08:30:00Z"), (), [tokyo]) is None
    whole_day = Weekly(days=("mon",), start="00:00", end="00:00")
    assert closed_until(at("2026-11-23T12:00:00Z"), (), [whole_day]) == at("2026-11-24T00:00:00Z")
    assert closed_until(at("2026-11-24T00:00:00Z"), (), [whole_day]) is None


def test_the_last_of_open_windows_counts() -> None:
    windows = [(100.0, 200.0), (150.0, 300.0), (500.0, 600.0)]
    assert [closed_until(now, windows, ()) for now in (99, 100, 160, 299, 300, 550)] == [None, 200, 300, 300, None, 600]


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("TEXT/HTML", True),
        ("application/json, text/html", False),
        ("text/html, application/json", True),
        ("application/json", False),
        ("*/*", False),
        ("", False),
        ("text/html-x", False),
    ],
)
def test_who_gets_a_page(accept: str, html: bool) -> None:
    assert wants_html(accept) is html


def test_the_message_is_text() -> None:
    assert "<script>" not in page("<script>&")
    assert "&lt;script&gt;&amp;" in page("<script>&")


def test_closed_but_not_for_everybody(either_host: FilterHostFactory) -> None:
    config = {
        "paths": ["/shop", "/admin*"],
        "exceptPaths": ["/shop/health"],
        "allowHeaders": [{"name": "x-pass", "value": "let me in"}],
        "allowIdentities": ["spiffe://td/ns/ops/*"],
        "retryAfterSeconds": 120,
        "message": "Back soon",
        "details": {"ticket": "OPS-1"},
    }
    host = either_host(MaintenanceMode, config)
    answer = host.request(path="/shop/cart?x=/shop/health")
    assert (answer.status, answer.upstream_request) == (503, None)
    assert answer.json() == {"error": "Back soon", "ticket": "OPS-1"}
    assert answer.headers["retry-after"] == "120"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    browser = host.request(path="/administrator", headers={"accept": "text/html,*/*"})
    assert browser.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>Maintenance</h1><p>Back soon</p>" in browser.text
    for path, headers in (
        ("/shopping", {}),
        ("/", {}),
        ("/shop/health", {}),
        ("/shop", {"x-pass": "let me in"}),
    ):
        assert host.request(path=path, headers=headers).status == 200, path
    for value in ("let me i", "let me in!", "", "x" * 60_000, "\udcff"):
        assert host.request(path="/shop", headers={"x-pass": value}).status == 503
    assert host.request(path="/shop", peer_identity="spiffe://td/ns/ops/sa/x").status == 200
    assert host.request(path="/shop", peer_identity="spiffe://td/ns/opsx/sa/x").status == 503


def test_addresses_and_a_page_of_ones_own(filter_host: FilterHostFactory) -> None:
    assert filter_host(MaintenanceMode, {"allowAddresses": ["127.0.0.1"]}).request().status == 200
    other = filter_host(MaintenanceMode, {"allowAddresses": ["10.0.0.0/8"], "html": "<p>ours</p>", "status": 500})
    answer = other.request(headers={"accept": "text/html"})
    assert (answer.status, answer.text) == (500, "<p>ours</p>")
    assert filter_host(MaintenanceMode, {"enabled": False}).request().status == 200


def test_nothing_but_what_is_meant_stays_open(filter_host: FilterHostFactory) -> None:
    host = filter_host(MaintenanceMode, {"exceptPaths": ["/health"]})
    assert host.request(path="/health/live").status == 200
    for path in ("/health/../shop", "/health/..%2fshop", "/health/..;/shop", "/health//shop", "/healthy"):
        assert host.request(path=path).status == 503


def test_a_schedule(filter_host: FilterHostFactory) -> None:
    now = datetime.now(UTC)

    def window(start: int, end: int) -> dict[str, str]:
        return {"start": (now + timedelta(hours=start)).isoformat(), "end": (now + timedelta(hours=end)).isoformat()}

    assert filter_host(MaintenanceMode, {"windows": [window(-2, -1), window(1, 2)]}).request().status == 200
    answer = filter_host(MaintenanceMode, {"windows": [window(-1, 1)]}).request()
    assert answer.status == 503
    assert 3000 < int(answer.headers["retry-after"]) <= 3600
    always = filter_host(MaintenanceMode, {"weekly": [{"start": "00:00", "end": "00:00"}]})
    assert always.request().status == 503


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"windows": [{"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}]}, "before it starts"),
        ({"windows": [{"start": "2026-01-02", "end": "2026-01-03T00:00:00Z"}]}, "time zone"),
        ({"weekly": [{"start": "24:00", "end": "01:00"}]}, "time of day"),
        ({"weekly": [{"days": ["monday"], "start": "23:00", "end": "01:00"}]}, "one of"),
        ({"status": 200}, "between 400 and 599"),
        ({"allowAddresses": ["localhost"]}, "allowAddresses: .*localhost"),
        ({"details": {"error": "x"}}, "details"),
        ({"retryAfterSeconds": -1}, "retryAfterSeconds is -1"),
        ({"allowHeaders": [{"name": "x-pass", "value": ""}]}, r"allowHeaders\[0\]: value"),
        ({"allowHeaders": [{"name": "x pass", "value": "12345678"}]}, "name: 'x pass'"),
        ({"allowIdentities": ["ops"]}, "allowIdentities: 'ops'"),
        ({"paths": ["shop"]}, "paths: 'shop' is no path"),
        ({"exceptPaths": ["/a/*/b"]}, "exceptPaths: '/a/\\*/b'"),
        ({"weekly": [{"days": [], "start": "01:00", "end": "02:00"}]}, "days"),
    ],
)
def test_bad_configurations(filter_host: FilterHostFactory, config: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        filter_host(MaintenanceMode, config)
