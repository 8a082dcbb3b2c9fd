"""access-log: a line of JSON for each request, in Envoy's log."""

import json
import random
import re
import time
from datetime import UTC, datetime

from filters.library.credentials import check_header
from filters.library.templates import Template, parse_template
from filters.library.trace_headers import parse_parent, samples
from filters.sdk.urls import unquote
from lateen_filter import FilterConfig, HttpFilter, Request, Response

VARIABLES = {
    "time": False,
    "method": False,
    "path": False,
    "query": False,
    "authority": False,
    "scheme": False,
    "protocol": False,
    "status": False,
    "details": False,
    "flags": False,
    "duration_ms": False,
    "request_bytes": False,
    "response_bytes": False,
    "source": False,
    "upstream": False,
    "peer": False,
    "route": False,
    "cluster": False,
    "trace_id": False,
    "header": True,
    "response_header": True,
    "cookie": True,
}
NUMBERS = {
    "status": ("response", "code"),
    "flags": ("response", "flags"),
    "request_bytes": ("request", "size"),
    "response_bytes": ("response", "size"),
}
ATTRIBUTES = {
    "protocol": ("request", "protocol"),
    "details": ("response", "code_details"),
    "source": ("source", "address"),
    "upstream": ("upstream", "address"),
    "route": ("xds", "route_name"),
    "cluster": ("xds", "cluster_name"),
    "peer": ("connection", "uri_san_peer_certificate"),
}
SENSITIVE = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "api-key",
        "x-access-token",
        "x-amz-security-token",
        "x-auth-token",
        "x-csrf-token",
        "x-forwarded-access-token",
        "x-vault-token",
        "x-xsrf-token",
    }
)
ADDRESSES = frozenset(
    {"referer", "location", "content-location", "link", "x-original-url", "x-envoy-original-path", "x-forwarded-uri"}
)
"""Headers that hold addresses with queries."""
DIVIDERS = re.compile("([?&;#])")
MOST_STATUS = 600
REDACTED = "[redacted]"
MOST_ENTRIES, LONGEST_NAME = 64, 64
LONGEST_LINE = 15_000
"""Envoy's log is given lines of at most 16 KiB."""
MOST_PERCENT = 100
DEFAULT_ENTRIES = {
    "time": "{time}",
    "method": "{method}",
    "authority": "{authority}",
    "path": "{path}",
    "query": "{query}",
    "protocol": "{protocol}",
    "status": "{status}",
    "details": "{details}",
    "duration_ms": "{duration_ms}",
    "request_bytes": "{request_bytes}",
    "response_bytes": "{response_bytes}",
    "source": "{source}",
    "upstream": "{upstream}",
    "peer": "{peer}",
    "user_agent": "{header:user-agent}",
    "request_id": "{header:x-request-id}",
    "trace_id": "{trace_id}",
}


class AccessLog(HttpFilter):
    """Logs requests when they are over: `wasm log access-log: {"time": ...}`, at level info.

    An entry that is nothing but one variable is a number where the variable is one, and null where there is no value.
    """

    class Config(FilterConfig):
        entries: dict[str, str] = DEFAULT_ENTRIES
        """Name -> text with variables: {"who": "{header:x-user|nobody}"}."""
        sample_percent: float = 100.0
        """Of requests; by trace id if there is one, so that a trace is logged everywhere or nowhere."""
        always_status: int = 500
        """This status and higher ones are always logged; 600 for none."""
        always_slower_ms: int = 0
        """What took longer is always logged; 0 for none."""
        redact_headers: tuple[str, ...] = ()
        """Headers whose values never appear, besides authorization, cookie, set-cookie, x-api-key and their like."""
        redact_parameters: tuple[str, ...] = (
            "access_token", "api_key", "apikey", "assertion", "auth", "client_secret", "code", "id_token", "jwt", "key", "otp",
            "passwd", "password", "pin", "pwd", "refresh_token", "samlresponse", "secret", "session", "sessionid", "sid", "sig",
            "signature", "token", "x-amz-credential", "x-amz-security-token", "x-amz-signature", "x-goog-signature",
        )  # fmt: skip
        """Parameters of the query whose values never appear, in any case."""
        longest_value: int = 1024
        """Characters of an entry."""

        def validate(self) -> None:
            if not 1 <= len(self.entries) <= MOST_ENTRIES:
                raise ValueError(f"{len(self.entries)} entries: between 1 and {MOST_ENTRIES}")
            for name, text in self.entries.items():
                if not 1 <= len(name) <= LONGEST_NAME or not (name.isascii() and name.isprintable()):
                    raise ValueError(
                        f"entries: the name {name!r}: between 1 and {LONGEST_NAME} printable characters of ASCII"
                    )
                try:
                    parse_template(text, VARIABLES)
                except ValueError as error:
                    raise ValueError(f"entries.{name}: {error}") from None
            for name in self.redact_headers:
                check_header("redactHeaders", name)
            if not 100 <= self.always_status <= MOST_STATUS:  # noqa: PLR2004
                raise ValueError(f"alwaysStatus is {self.always_status}: between 100 and {MOST_STATUS}")
            if self.always_slower_ms < 0:
                raise ValueError(f"alwaysSlowerMs is {self.always_slower_ms}: 0 or more")
            if not 0 <= self.sample_percent <= MOST_PERCENT:
                raise ValueError(f"samplePercent is {self.sample_percent}: between 0 and {MOST_PERCENT}")
            if not 1 <= self.longest_value <= LONGEST_LINE:
                raise ValueError(f"longestValue is {self.longest_value}: between 1 and {LONGEST_LINE}")

    config: Config

    def on_start(self) -> None:
        config = self.config
        self._entries = {name: parse_template(text, VARIABLES) for name, text in config.entries.items()}
        self._sensitive = SENSITIVE | {name.lower() for name in config.redact_headers}
        self._parameters = frozenset(name.lower() for name in config.redact_parameters)

    def on_log(self, request: Request, response: Response) -> None:
        seen = Seen(request, response, self._sensitive, self._parameters)
        if self._wanted(seen):
            values = {name: entry(template, seen) for name, template in self._entries.items()}
            print(render_line(values, self.config.longest_value))  # noqa: T201  (goes to Envoy's log)

    def _wanted(self, seen: "Seen") -> bool:
        config = self.config
        if config.sample_percent == MOST_PERCENT:
            return True
        status, took = seen("status", ""), seen("duration_ms", "")
        if isinstance(status, (int, float)) and status >= config.always_status:
            return True
        if config.always_slower_ms and isinstance(took, (int, float)) and took > config.always_slower_ms:
            return True
        trace_id = seen("trace_id", "")
        if isinstance(trace_id, str):
            return samples(trace_id, config.sample_percent)
        return random.random() * MOST_PERCENT < config.sample_percent  # noqa: S311  (which requests to log is no secret)


class Seen:
    """Values of a request that is over."""

    __slots__ = ("_parameters", "_request", "_response", "_sensitive")

    def __init__(
        self, request: Request, response: Response, sensitive: frozenset[str], parameters: frozenset[str]
    ) -> None:
        self._request = request
        self._response = response
        self._sensitive = sensitive
        self._parameters = parameters

    def __call__(self, name: str, argument: str) -> str | float | None:
        request = self._request
        properties = request.properties
        if name in NUMBERS:
            return properties.number(*NUMBERS[name])
        if name in ATTRIBUTES:
            return properties.text(*ATTRIBUTES[name]) or None
        match name:
            case "header":
                return self._header(request, argument)
            case "response_header":
                return self._header(self._response, argument)
            case "cookie":
                return request.cookies.get(argument)
            case "query":
                return redact_query(request.target.partition("?")[2], self._parameters) or None
            case "duration_ms":
                took = properties.number("request", "duration")
                return None if took is None else round(took / 1e6, 3)
            case "time":
                started = properties.number("request", "time")
                return iso_time(time.time() if started is None else started / 1e9)
            case "trace_id":
                parent = parse_parent(request.headers.get_all("traceparent"))
                return None if parent is None else parent.trace_id
            case _:
                return str(getattr(request, name)) or None

    def _header(self, message: Request | Response, name: str) -> str | None:
        value = message.headers.get(name)
        if value is None:
            return None
        if name.lower() in self._sensitive:
            return REDACTED
        if name.lower() not in ADDRESSES:
            return str(value)
        path, divider, query = DIVIDERS.split(value, 1) if DIVIDERS.search(value) else (str(value), "", "")
        return path + divider + redact_query(query, self._parameters)


def entry(template: Template, seen: Seen) -> str | float | None:
    """The value of an entry: of its variable's type, if it is just one."""
    variable = template.variable
    if variable is not None:
        value = seen(variable.name, variable.argument)
        return value if value is not None else variable.default or None

    def as_text(name: str, argument: str) -> str | None:
        value = seen(name, argument)
        return None if value is None else str(value)

    return template.render(as_text)


def render_line(values: "dict[str, str | float | None]", longest: int) -> str:
    """One line of JSON; long values are cut, and cut again until the line fits."""
    while True:
        line = json.dumps({name: cut(value, longest) for name, value in values.items()})
        if len(line) <= LONGEST_LINE or longest == 1:
            return line
        longest = max(1, longest // 2)


def cut(value: str | float | None, longest: int) -> str | float | None:
    """A text of at most `longest` characters, bytes that are no UTF-8 replaced; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = value[: longest + 1].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text if len(text) <= longest else text[: longest - 1] + "…"


def redact_query(query: str, names: frozenset[str]) -> str:
    """A query whose parameters of these names (in lower case) have no value; also behind a `;`, and in an address within it."""
    parts: list[str] = []
    for part in DIVIDERS.split(query):
        name, equals, _ = part.partition("=")
        parts.append(f"{name}={REDACTED}" if equals and unquote(name).lower() in names else part)
    return "".join(parts)


def iso_time(seconds: float) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
