"""Finding and taking credentials out of a request, and refusing it."""

import re
from collections.abc import Mapping, Sequence

from filters.sdk.urls import unquote
from lateen_filter import Headers, Response

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
FRAMING = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "upgrade"}
)


def check_header(field: str, name: str, *, written: bool = False) -> None:
    """ValueError unless a field holds the name of a header; of one a filter may write, if it does."""
    if not HEADER_NAME.fullmatch(name):
        raise ValueError(f"{field}: {name!r} is no header name")
    if written and name.lower() in FRAMING:
        raise ValueError(f"{field}: {name} cannot be changed here: it says where a message ends or goes")


def spellings(name: str) -> tuple[str, ...]:
    """A header's name with each dash also as an underscore: many servers (CGI, WSGI, PHP) take them for the same."""
    found = [""]
    for place, part in enumerate(name.lower().split("-")):
        found = [start + dash + part for start in found for dash in (("-", "_") if place else ("",))]
    return tuple(found)


def take_off(headers: Headers, names: Sequence[str]) -> None:
    """Remove headers, if they are there."""
    for name in names:
        if name in headers:
            del headers[name]


def check_trusted_header(field: str, name: str) -> None:
    """ValueError unless a field holds the name of a header that upstreams may trust, because clients' are taken off."""
    check_header(field, name, written=True)
    if name.count("-") > MOST_DASHES or "_" in name:
        raise ValueError(f"{field}: {name}: at most {MOST_DASHES} dashes, and no underscore, please")


MOST_DASHES = 4


def without_parameter(target: str, name: str) -> tuple[str, list[str]]:
    """`target` (path and query) without a parameter, the rest as it was, and the values it had."""
    path, question, query = target.partition("?")
    if not question:
        return target, []
    kept: list[str] = []
    values: list[str] = []
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if unquote(key) == name:
            values.append(unquote(value))
        else:
            kept.append(part)
    if not values:
        return target, []
    return (path + "?" + "&".join(kept) if any(kept) else path), values


def without_cookie(header: str, name: str) -> tuple[str, list[str]]:
    """A cookie header without one cookie, and the values it had."""
    kept: list[str] = []
    values: list[str] = []
    for part in header.split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            values.append(value.strip('"'))
        elif part.strip():
            kept.append(part.strip())
    return "; ".join(kept), values


def denied(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal in JSON that no cache keeps."""
    response = Response.of_json({"error": reason}, status)
    response.headers["cache-control"] = "no-store"
    for name, value in (headers or {}).items():
        response.headers[name] = value
    return response
