"""maintenance-mode: a friendly 503, for some paths, some time, and not for everybody."""

import hmac
import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from filters.library.addresses import check_identities, matches_identity, parse_networks, parse_source, within
from filters.library.credentials import check_header
from filters.library.paths import check_paths, excepts_path, matches_path
from filters.library.times import parse_time
from lateen_filter import FilterConfig, HttpFilter, Request, Response

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
DAY_MINUTES = 24 * 60
MOST_OFFSET_MINUTES = 14 * 60
SHORTEST_VALUE = 8
MOST_SECONDS = 366 * 24 * 3600


class Window(FilterConfig):
    """From one moment to another."""

    start: str
    """RFC 3339 with a time zone: 2026-12-24T20:00:00+01:00."""
    end: str

    def validate(self) -> None:
        if parse_time(self.start) >= parse_time(self.end):
            raise ValueError(f"the window ends ({self.end}) before it starts ({self.start})")


class Weekly(FilterConfig):
    """The same hours of some days of every week."""

    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = DAYS  # type: ignore[assignment]  # the same names
    start: str
    """HH:MM, included."""
    end: str
    """HH:MM, excluded; not later than `start`: on the next day."""
    utc_offset_minutes: int = 0

    def validate(self) -> None:
        if not self.days:
            raise ValueError("days: none of the week")
        for text in (self.start, self.end):
            if not CLOCK.fullmatch(text):
                raise ValueError(f"{text!r} is no time of day: write 02:30")
        if abs(self.utc_offset_minutes) > MOST_OFFSET_MINUTES:
            raise ValueError(f"utcOffsetMinutes: at most {MOST_OFFSET_MINUTES}, either way")


class AllowedHeader(FilterConfig):
    """A header that lets its sender in."""

    name: str
    value: str
    """All of it, compared in constant time; make it long and random."""

    def validate(self) -> None:
        check_header("name", self.name)
        if len(self.value) < SHORTEST_VALUE or not (self.value.isascii() and self.value.isprintable()):
            raise ValueError(f"value: printable ASCII, {SHORTEST_VALUE} characters or more: it lets its sender in")


class MaintenanceMode(HttpFilter):
    """Answers requests with 503 and Retry-After, in HTML for browsers and JSON for everybody else.

    On while `enabled` is true and, if there is a schedule, during one of its windows.
    """

    class Config(FilterConfig):
        enabled: bool = True
        paths: tuple[str, ...] = ("/",)
        """What is closed: whole segments ("/api"), a `*` at the end for any ending."""
        except_paths: tuple[str, ...] = ()
        """What stays open: "/health"."""
        allow_headers: tuple[AllowedHeader, ...] = ()
        allow_addresses: tuple[str, ...] = ()
        """Networks and addresses of clients that may go on."""
        allow_identities: tuple[str, ...] = ()
        """SPIFFE identities; a `*` at the end makes a prefix."""
        windows: tuple[Window, ...] = ()
        weekly: tuple[Weekly, ...] = ()
        status: int = 503
        retry_after_seconds: int = 300
        """Retry-After, unless a window ends sooner or later: then until its end."""
        message: str = "We are working on it and will be back soon."
        html: str = ""
        """A whole page; else one is made of the message."""
        details: dict[str, str] = {}  # noqa: RUF012  (a default of a configuration, which cannot be changed)
        """More members of the JSON body."""

        def validate(self) -> None:
            check_paths("paths", self.paths)
            check_paths("exceptPaths", self.except_paths)
            parse_networks(self.allow_addresses, "allowAddresses")
            check_identities("allowIdentities", self.allow_identities)
            if not 400 <= self.status <= 599:  # noqa: PLR2004
                raise ValueError(f"status is {self.status}: between 400 and 599")
            if not 0 <= self.retry_after_seconds <= MOST_SECONDS:
                raise ValueError(f"retryAfterSeconds is {self.retry_after_seconds}: between 0 and a year")
            if "error" in self.details:
                raise ValueError("details cannot have `error`: that is the message")

    config: Config

    def on_start(self) -> None:
        config = self.config
        self._networks = parse_networks(config.allow_addresses)
        self._page = config.html or page(config.message)
        self._windows = [(parse_time(window.start), parse_time(window.end)) for window in config.windows]
        self._json = json.dumps({"error": config.message, **config.details})

    def on_request(self, request: Request) -> Response | None:
        config = self.config
        if not config.enabled or not matches_path(request.path, config.paths):
            return None
        if excepts_path(request.path, config.except_paths) or self._allowed(request):
            return None
        left = float(config.retry_after_seconds)
        if config.windows or config.weekly:
            end = closed_until(time.time(), self._windows, config.weekly)
            if end is None:
                return None
            left = end - time.time()
        html = wants_html(str(request.headers.get("accept", "")))
        headers = {
            "content-type": "text/html; charset=utf-8" if html else "application/json",
            "retry-after": str(max(1, int(left + 0.999))),
            "cache-control": "no-store",
            "vary": "accept",
        }
        return Response(config.status, self._page if html else self._json, headers)

    def _allowed(self, request: Request) -> bool:
        config = self.config
        for header in config.allow_headers:
            value = str(request.headers.get(header.name, ""))
            if hmac.compare_digest(value.encode("utf-8", "surrogateescape"), header.value.encode()):
                return True
        properties = request.properties
        return (bool(self._networks) and within(parse_source(properties.source_address), self._networks)) or (
            bool(config.allow_identities) and matches_identity(properties.peer_identity, config.allow_identities)
        )


def closed_until(now: float, windows: Sequence[tuple[float, float]], weekly: Sequence[Weekly]) -> float | None:
    """When the windows that are open at `now` (seconds since 1970) have all ended; None if none is."""
    ends = [end for start, end in windows if start <= now < end]
    moment = datetime.fromtimestamp(now, UTC)
    for rule in weekly:
        local = moment + timedelta(minutes=rule.utc_offset_minutes)
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        start, end = (int(text[:2]) * 60 + int(text[3:]) for text in (rule.start, rule.end))
        length = end - start if end > start else end - start + DAY_MINUTES
        for back in (0, 1):  # a window of yesterday may still be open
            opened = midnight - timedelta(days=back) + timedelta(minutes=start)
            if DAYS[opened.weekday()] in rule.days and opened <= local < opened + timedelta(minutes=length):
                ends.append(now + (opened + timedelta(minutes=length) - local).total_seconds())
    return max(ends, default=None)


def wants_html(accept: str) -> bool:
    """Whether a client prefers a page: browsers name text/html, and put no JSON before it."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return "text/html" in kinds and "application/json" not in kinds[: kinds.index("text/html")]


def page(message: str) -> str:
    """A plain page with the message."""
    safe = message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<title>Maintenance</title><style>body{font:1.2em system-ui;max-width:34em;margin:20vh auto;padding:0 1em}</style>"
        f"<h1>Maintenance</h1><p>{safe}</p></html>\n"
    )
