"""waf: requests that look like attacks, by rules with scores."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from filters.library.content_types import content_type, parameter, readable
from filters.library.credentials import check_header, denied
from filters.library.paths import check_paths, excepts_path
from filters.library.safe_regex import check_pattern
from filters.library.waf_input import (
    HARMLESS,
    MULTIPART,
    PIECE,
    PLAIN_PATH,
    MalformedBodyError,
    Value,
    body_values,
    cookie_values,
    decoded,
    pieces,
    query_values,
    readings,
)
from filters.library.waf_rules import CRITICAL, GROUPS, IDS, KINDS, LIMITS, RULES, UNREAD, Rule
from lateen_filter import Counter, FilterConfig, HttpFilter, Request, Response

MOST_BODY = 1024 * 1024
MOST_SCORE = 1000
MOST_FINDINGS = 50
MOST_CUSTOM = 100
MOST_EXCERPT = 80
BODY_TYPES = (
    "application/x-www-form-urlencoded",
    "application/json",
    "text/",
    "application/xml",
    "application/graphql",
)
BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "CONNECT", "TRACE"})
blocked = Counter("waf_blocked")
reported = Counter("waf_reported")


class CustomRule(FilterConfig):
    """A rule of one's own. The pattern sees values decoded and in lower case, white space as one space."""

    id: str
    pattern: re.Pattern[str]
    score: int = CRITICAL
    on: tuple[Literal["arg", "cookie", "header", "body", "path", "agent"], ...] = ("arg", "cookie", "header", "body")

    def validate(self) -> None:
        check_pattern(self.pattern, PIECE)
        if not re.fullmatch(r"[a-z]+-[a-z0-9-]+", self.id) or self.id in IDS:
            raise ValueError(f"id {self.id!r}: group-name, in lower case, and not that of another rule")
        if not 1 <= self.score <= MOST_SCORE:
            raise ValueError(f"score is {self.score}: between 1 and {MOST_SCORE}")


class Exclusion(FilterConfig):
    """Findings that do not count, where all that is given here fits."""

    rules: tuple[str, ...] = ()
    """Ids or groups ("sqli"); empty: all."""
    paths: tuple[str, ...] = ()
    """Whole segments, a `*` at the end for any ending; empty: all."""
    targets: tuple[str, ...] = ()
    """"arg:q", "cookie:session", "header:referer", "path", "body"; empty: all."""

    def validate(self) -> None:
        if not (self.rules or self.paths or self.targets):
            raise ValueError("an exclusion of everything: turn the filter off instead")
        check_paths("paths", self.paths)


class Waf(HttpFilter):
    """Adds up the scores of the rules a request matches and refuses it with 403 from a threshold on, or only logs it.

    It looks at the path, parameters, cookies, some headers and bodies of forms, JSON and text. A net with known meshes: it finds
    careless attacks and scanners, and replaces no parameterised query and no escaping.
    """

    class Config(FilterConfig):
        mode: Literal["block", "log"] = "block"
        threshold: int = CRITICAL
        """Critical rules score 5, warnings 3, notices 2."""
        rules: dict[str, Literal["block", "log", "off"]] = {}  # noqa: RUF012  (a default of a configuration, which cannot be changed)
        """By id or group; an id wins. `log`: reported, and scores nothing."""
        custom_rules: tuple[CustomRule, ...] = ()
        exclusions: tuple[Exclusion, ...] = ()
        headers: tuple[str, ...] = ("referer", "user-agent", "x-forwarded-host", "origin")
        """Headers that are looked at."""
        inspect_body: bool = True
        inspect_multipart: bool = False
        """Bodies of multipart forms too, all but the content of files; they may not be larger than `longest_body` then."""
        longest_body: int = 128 * 1024
        """Bytes; a body of a kind that is looked at and larger than this matches size-body."""
        longest_target: int = 8192
        """Characters of path and query: size-target."""
        longest_value: int = PIECE
        """Of a parameter of the query or a cookie: size-value."""
        longest_header: int = 8192
        """size-header."""
        most_headers: int = 100
        """size-headers."""
        most_parameters: int = 200
        """In a query: size-parameters."""
        log_values: bool = False
        """Put the beginning of what has matched into the log; it may be personal data."""

        def validate(self) -> None:
            known = (
                GROUPS
                | IDS
                | {rule.id for rule in self.custom_rules}
                | {rule.id.partition("-")[0] for rule in self.custom_rules}
            )
            named = {*self.rules, *(name for exclusion in self.exclusions for name in exclusion.rules)}
            if not named <= known:
                raise ValueError(
                    f"no such rule: {', '.join(sorted(named - known))} (groups: {', '.join(sorted(GROUPS))})"
                )
            if (
                len({rule.id for rule in self.custom_rules}) < len(self.custom_rules)
                or len(self.custom_rules) > MOST_CUSTOM
            ):
                raise ValueError(f"customRules: at most {MOST_CUSTOM}, each with an id of its own")
            if not 1 <= self.threshold <= MOST_SCORE:
                raise ValueError(f"threshold is {self.threshold}: between 1 and {MOST_SCORE}")
            if not 1 <= self.longest_body <= MOST_BODY:
                raise ValueError(f"longestBody is {self.longest_body}: between 1 and {MOST_BODY}")
            if not 1 <= self.longest_value <= PIECE:
                raise ValueError(f"longestValue is {self.longest_value}: between 1 and {PIECE}")
            for field, value in (
                ("longestTarget", self.longest_target),
                ("longestHeader", self.longest_header),
                ("mostHeaders", self.most_headers),
                ("mostParameters", self.most_parameters),
            ):
                if value < 1:
                    raise ValueError(f"{field} is {value}: limits begin at 1")
            for name in self.headers:
                check_header("headers", name)

    config: Config

    def on_start(self) -> None:
        config = self.config
        custom = [
            Rule(
                rule.id,
                rule.id.partition("-")[0],
                rule.score,
                re.compile(rule.pattern.pattern, re.IGNORECASE),  # values are in lower case
                frozenset(rule.on),
            )
            for rule in config.custom_rules
        ]
        self._modes = {name: mode_of(name, config.rules) for name in [*IDS, *(rule.id for rule in custom)]}
        rules = [rule for rule in (*RULES, *custom) if self._modes[rule.id] != "off"]
        self._rules = {kind: tuple(rule for rule in rules if kind in rule.on) for kind in KINDS}
        # A word alone is passed over quickly, unless somebody has a rule for words.
        self._all = bool(custom)

    async def on_request(self, request: Request) -> Response | None:
        config = self.config
        findings = list(self._head(request))
        if config.inspect_body and not self._refuses(findings, request.path):
            header = str(request.headers.get("content-type", "")) or untold(request)
            kind = content_kind(header, multipart=config.inspect_multipart)
            if kind is not None:
                found = self._body(kind, header, request, await request.body(MOST_BODY))
                findings += found
        counted = self._counted(findings, request.path)
        if not counted:
            return None
        refuse = self._refuses(counted, request.path)
        self._report(request, counted, refused=refuse)
        if not refuse:
            return None
        blocked.add()
        number = str(request.headers.get("x-request-id", ""))[:128]
        return denied(403, "the request was refused", {"x-request-id": number} if number else {})

    def _refuses(self, findings: "Sequence[Finding]", path: str) -> bool:
        """Whether this is enough to refuse a request."""
        if not findings or self.config.mode != "block":
            return False
        return sum(finding.score for finding in self._counted(findings, path)) >= self.config.threshold

    def _head(self, request: Request) -> "Iterator[Finding]":
        """Findings in all but the body."""
        config, target = self.config, request.target
        if len(target) > config.longest_target:
            yield (found := self._limit("size-target", "path"))
            if self._refuses([found], request.path):
                return  # it is not read any further
        pairs = request.headers.pairs()
        if len(pairs) > config.most_headers:
            yield self._limit("size-headers", "header")
        if any(len(name) + len(value) > config.longest_header for name, value in pairs if not name.startswith(":")):
            yield self._limit("size-header", "header")
        path, _, query = target.partition("?")
        if query.count("&") >= config.most_parameters:
            yield (found := self._limit("size-parameters", "arg"))
            query = "" if self._refuses([found], path) else query
        agent = request.headers.get("user-agent", "")
        if not agent:
            yield self._limit("scanner-no-agent", "header:user-agent")
        values = [
            Value("path", "path", path),
            Value("agent", "header:user-agent", str(agent)),
            *query_values(query),
        ]
        if not PLAIN_PATH.fullmatch(path):
            values.append(Value("uri", "path", path))
        values += cookie_values("; ".join(value for name, value in pairs if name == "cookie"))
        for name in config.headers:
            value = request.headers.get(name)
            if value:
                values.append(Value("header", f"header:{name}", str(value)))
        for item in values:
            if len(item.text) > config.longest_value and item.kind in ("arg", "cookie"):
                yield self._limit("size-value", item.target)
            yield from self._match(item)

    def _body(self, kind: str, header: str, request: Request, body: bytes) -> "Iterator[Finding]":
        if not body:
            return
        parameters, longest = header.partition(";")[2], self.config.longest_body
        if not readable(str(request.headers.get("content-encoding", "")), content_type(header)[1]):
            yield self._limit("body-encoded", "body")
            return
        if len(body) > longest:
            yield (found := self._limit("size-body", "body"))
            if self._refuses([found], request.path):
                return
            kind, body = "text/plain", body[:longest]  # the rest passes unread
        try:
            for value in body_values(kind, body, parameter(parameters, "boundary")):
                yield from self._match(value)
        except MalformedBodyError as error:
            yield (found := self._limit("body-malformed", "body", str(error)))
            if not self._refuses([found], request.path):
                yield from self._match(Value("body", "body", body.decode("utf-8", "surrogateescape")))

    def _match(self, value: Value) -> "Iterator[Finding]":
        if not self._all and value.kind != "agent" and HARMLESS.fullmatch(value.text):
            return
        plain = decoded(value.text)
        if "\0" in plain:
            yield self._limit("encoding-nul", value.target)
        if any("\udc80" <= letter <= "\udcff" for letter in plain) if not plain.isascii() else False:
            yield self._limit("encoding-invalid", value.target)
        for text in readings(plain):
            for piece in pieces(text):
                for rule in self._rules[value.kind]:
                    if match := rule.search(piece):
                        yield self._finding(rule.id, rule.score, value.target, match.group())

    def _limit(self, name: str, target: str, excerpt: str = "") -> "Finding":
        score = max(LIMITS[name], self.config.threshold) if name in UNREAD else LIMITS[name]
        return self._finding(name, score, target, excerpt)

    def _finding(self, name: str, score: int, target: str, excerpt: str) -> "Finding":
        return Finding(name, score if self._modes[name] == "block" else 0, target, excerpt)

    def _counted(self, findings: "Iterable[Finding]", path: str) -> "list[Finding]":
        """Findings that nothing excludes, each rule once for each target."""
        kept: dict[tuple[str, str], Finding] = {}
        for finding in findings:
            if self._modes[finding.rule] == "off" or any(
                excludes(each, finding, path) for each in self.config.exclusions
            ):
                continue
            kept.setdefault((finding.rule, finding.target), finding)
        return list(kept.values())

    def _report(self, request: Request, findings: "Sequence[Finding]", *, refused: bool) -> None:
        reported.add()
        found = [
            {"rule": finding.rule, "target": finding.target}
            | ({"value": finding.excerpt[:MOST_EXCERPT]} if self.config.log_values else {})
            for finding in sorted(findings, key=lambda finding: -finding.score)[:MOST_FINDINGS]
        ]
        line = {
            "waf": "refused" if refused else "passed",
            "score": sum(finding.score for finding in findings),
            "method": request.method,
            "path": request.path[:256],
            "source": request.properties.source_address,
            "request_id": str(request.headers.get("x-request-id", ""))[:128],
            "found": found,
        }
        print(json.dumps(line))  # noqa: T201  (Envoy's log)


class Finding(NamedTuple):
    """A rule that has matched."""

    rule: str
    score: int
    target: str
    excerpt: str


def mode_of(name: str, modes: "Mapping[str, str]") -> str:
    """What is to be done about a rule: by its id, else by its group, else it blocks."""
    return modes.get(name) or modes.get(name.partition("-")[0]) or "block"


def excludes(exclusion: Exclusion, finding: Finding, path: str) -> bool:
    """Whether a finding does not count."""
    return (
        (not exclusion.rules or finding.rule in exclusion.rules or finding.rule.partition("-")[0] in exclusion.rules)
        and (not exclusion.paths or excepts_path(path, exclusion.paths))
        and (not exclusion.targets or finding.target in exclusion.targets)
    )


def content_kind(header: str, *, multipart: bool = False) -> str | None:
    """The type of a body that is looked at, the first there is; None for others."""
    for part in header.split(","):
        kind = part.partition(";")[0].strip().lower()
        if kind.startswith(BODY_TYPES) or kind.endswith(("+json", "+xml")) or (multipart and kind == MULTIPART):
            return kind
    return None


def untold(request: Request) -> str:
    """The type a body without one is looked at as: many servers do not ask for it."""
    return "text/plain" if request.method not in BODILESS or "content-length" in request.headers else ""
