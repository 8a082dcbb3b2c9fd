"""Which route a proxy takes for a request, and why not an earlier one: Envoy's matching, for what our translators emit. Pure.

A real Envoy is asked the same questions in tests. Regexes are RE2 there and Python's here: patterns that both read differently are rare,
and one that Python cannot read is a mismatch with a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.envoyapi.envoy.type.matcher.v3 import string_pb2

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the proxy reads it. `path` is normalized, with its query; names of `headers` are in lower case."""

    method: str
    authority: str
    path: str
    headers: Headers
    scheme: str = "http"

    def header(self, name: str) -> str | None:
        """A header or pseudo header; None when it is missing."""
        pseudo = {
            ":method": self.method,
            ":authority": self.authority,
            ":path": self.path,
            "host": self.authority,
            ":scheme": self.scheme,
        }
        return pseudo.get(name, self.headers.get(name))

    @property
    def bare_path(self) -> str:
        """Without the query."""
        return self.path.partition("?")[0]

    @property
    def query(self) -> Headers:
        """Its parameters, as they are written; of several with one name the first."""
        found: dict[str, str] = {}
        for part in self.path.partition("?")[2].partition("#")[0].split("&"):
            name, _, value = part.partition("=")
            found.setdefault(name, value)
        return found


@dataclass(frozen=True, slots=True)
class Passed:
    """A route that was looked at; `reason` is empty for the one that is taken."""

    route: rc.Route
    reason: str


@dataclass(frozen=True, slots=True)
class Taken:
    """The routes of the virtual host that were looked at, in order; the last one is taken if its `reason` is empty."""

    host: rc.VirtualHost | None
    looked_at: tuple[Passed, ...] = ()

    @property
    def route(self) -> rc.Route | None:
        """The route that is taken; None: 404."""
        last = self.looked_at[-1] if self.looked_at else None
        return last.route if last is not None and not last.reason else None


def take_route(configuration: route_pb2.RouteConfiguration, request: Request) -> Taken:
    """The virtual host of the request's authority, and the first of its routes that matches."""
    host = virtual_host(configuration, request.authority)
    if host is None:
        return Taken(None)
    looked_at: list[Passed] = []
    for route in host.routes:
        looked_at.append(Passed(route, mismatch(route.match, request)))
        if not looked_at[-1].reason:
            break
    return Taken(host, tuple(looked_at))


def virtual_host(configuration: route_pb2.RouteConfiguration, authority: str) -> rc.VirtualHost | None:
    """The most exact domain wins: the name itself, `*.suffix`, `prefix.*`, `*`; longer ones first."""
    name = authority.lower()
    if configuration.ignore_port_in_host_matching:
        name = re.sub(r":\d+$", "", name)
    best: tuple[tuple[int, int], rc.VirtualHost] | None = None
    for host in configuration.virtual_hosts:
        for domain in host.domains:
            rank = _rank(domain.lower(), name)
            if rank is not None and (best is None or rank > best[0]):
                best = rank, host
    return best[1] if best is not None else None


def _rank(domain: str, name: str) -> tuple[int, int] | None:
    if domain == name:
        return 3, 0
    if domain == "*":
        return 0, 0
    if domain.startswith("*") and name.endswith(domain[1:]) and len(name) >= len(domain):
        return 2, len(domain)
    if domain.endswith("*") and name.startswith(domain[:-1]) and len(name) >= len(domain):
        return 1, len(domain)
    return None


def mismatch(match: rc.RouteMatch, request: Request) -> str:
    """The first condition that the request does not meet, for people; empty when it meets all."""
    return (
        _path_mismatch(match, request.bare_path)
        or next(filter(None, (_header_mismatch(matcher, request) for matcher in match.headers)), "")
        or next(filter(None, (_query_mismatch(matcher, request) for matcher in match.query_parameters)), "")
        or ("" if not match.HasField("grpc") or _is_grpc(request) else "it must be a gRPC call")
        or ("it needs a verified claim of a token" if match.dynamic_metadata else "")
    )


def _is_grpc(request: Request) -> bool:
    return bool(re.match(r"application/grpc(\+|$)", request.headers.get("content-type", "")))


def _path_mismatch(match: rc.RouteMatch, path: str) -> str:
    kind = match.WhichOneof("path_specifier")
    if kind == "safe_regex":
        return "" if _full_match(match.safe_regex.regex, path) else f"the path must match {match.safe_regex.regex}"
    sensitive = not match.HasField("case_sensitive") or match.case_sensitive.value
    fold: Callable[[str], str] = str if sensitive else str.lower
    if kind == "path":
        return "" if fold(path) == fold(match.path) else f"the path must be {match.path}"
    if kind == "path_separated_prefix":
        below = match.path_separated_prefix
        fits = fold(path) == fold(below) or fold(path).startswith(f"{fold(below)}/")
        return "" if fits else f"the path must be {below} or below"
    return "" if fold(path).startswith(fold(match.prefix)) else f"the path must begin with {match.prefix}"


def _header_mismatch(matcher: rc.HeaderMatcher, request: Request) -> str:
    value = request.header(matcher.name.lower())
    if matcher.WhichOneof("header_match_specifier") == "present_match":
        present = matcher.present_match != matcher.invert_match
        return (
            "" if (value is not None) == present else f"{_shown(matcher.name)} must {'' if present else 'not '}be there"
        )
    if value is None and matcher.treat_missing_header_as_empty:
        value = ""
    wanted = matcher.string_match
    fits = value is not None and _string_matches(wanted, value) != matcher.invert_match
    if fits:
        return ""
    actual = "it is missing" if value is None else f'it is "{value}"'
    return f"{_shown(matcher.name)} must {'not ' if matcher.invert_match else ''}{_words(wanted)}, {actual}"


def _query_mismatch(matcher: rc.QueryParameterMatcher, request: Request) -> str:
    value = request.query.get(matcher.name)
    if matcher.WhichOneof("query_parameter_match_specifier") != "string_match":
        return "" if value is not None else f"query parameter {matcher.name} must be there"
    if value is not None and _string_matches(matcher.string_match, value):
        return ""
    actual = "it is missing" if value is None else f'it is "{value}"'
    return f"query parameter {matcher.name} must {_words(matcher.string_match)}, {actual}"


def _shown(name: str) -> str:
    return {":method": "the method", ":authority": "the host", ":scheme": "the scheme"}.get(name, f"header {name}")


def _words(matcher: string_pb2.StringMatcher) -> str:
    kind = matcher.WhichOneof("match_pattern") or "exact"
    if kind == "safe_regex":
        return f"match {matcher.safe_regex.regex}"
    verb = {"exact": "be", "prefix": "begin with", "suffix": "end with", "contains": "contain"}.get(kind, kind)
    return f"{verb} {getattr(matcher, kind)}"


def _string_matches(matcher: string_pb2.StringMatcher, value: str) -> bool:
    kind = matcher.WhichOneof("match_pattern")
    if kind == "safe_regex":
        return _full_match(matcher.safe_regex.regex, value)
    fold: Callable[[str], str] = str.lower if matcher.ignore_case else str
    tests: Mapping[str, Callable[[], bool]] = {
        "exact": lambda: fold(value) == fold(matcher.exact),
        "prefix": lambda: fold(value).startswith(fold(matcher.prefix)),
        "suffix": lambda: fold(value).endswith(fold(matcher.suffix)),
        "contains": lambda: fold(matcher.contains) in fold(value),
    }
    return kind in tests and tests[kind]()


def _full_match(pattern: str, text: str) -> bool:
    try:
        return re.fullmatch(pattern, text) is not None
    except re.error:
        return False


def destinations(route: rc.Route) -> Sequence[tuple[str, int]]:
    """The clusters that a route leads to, each with its weight."""
    if not route.HasField("route"):
        return ()
    if route.route.WhichOneof("cluster_specifier") == "weighted_clusters":
        return [(share.name, share.weight.value) for share in route.route.weighted_clusters.clusters]
    return [(route.route.cluster, 1)]
