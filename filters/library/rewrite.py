"""rewrite: headers and paths changed by rules."""

import json
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from filters.library.credentials import check_header
from filters.library.paths import check_paths, matches_path
from filters.library.safe_regex import LONGEST_INPUT, check_pattern
from filters.library.templates import Template, Variable, parse_template
from lateen_filter import FilterConfig, Headers, HttpFilter, Properties, Request, Response

LONGEST_VALUE = 8192
MOST_RULES = 200
VARIABLES = {
    "method": False,
    "path": False,
    "query": False,
    "authority": False,
    "scheme": False,
    "source": False,
    "peer": False,
    "route": False,
    "header": True,
    "parameter": True,
    "cookie": True,
    "group": True,
}
"""What values can refer to, all of the request as it was when the rule was reached."""
AUTHORITY = re.compile(r"[A-Za-z0-9._~-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
METHOD = re.compile(r"[A-Z-]+")
DOTS = re.compile(r"(?:/|\\|%2f|%5c)(?:\.|%2e){2}(?:[/\\;]|%2f|%5c|$)", re.IGNORECASE)
"""A segment that leads out of its directory, also as a server may decode it."""
PATH = re.compile(r"/[!-~\x80-\uffff]*")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class HeaderChange(FilterConfig):
    """One change of a header."""

    action: Literal["set", "default", "add", "remove", "rename"]
    """set replaces all values, default sets if there is none, add puts one more beside them."""
    name: str
    value: str = ""
    """Of set, default, add; may hold variables: {header:x-user|nobody}."""
    to: str = ""
    """Of rename: the new name; whatever had that name is replaced."""

    def validate(self) -> None:
        for name in (self.name, self.to) if self.action == "rename" else (self.name,):
            check_header("name" if name == self.name else "to", name, written=True)
        if bool(self.to) != (self.action == "rename"):
            raise ValueError("`to` belongs to rename, and rename needs it")
        if self.value and self.action in ("remove", "rename"):
            raise ValueError(f"{self.action} takes no value")
        parse_template(self.value, VARIABLES)


class PrefixRewrite(FilterConfig):
    """The beginning of the path, in whole segments: /api -> /v2 makes /v2/x of /api/x and leaves /apix alone."""

    prefix: str
    replacement: str

    def validate(self) -> None:
        for text in (self.prefix, self.replacement):
            if not PATH.fullmatch(text) or "?" in text or "#" in text:
                raise ValueError(f"{text!r} is no path: it begins with / and has no ?, # or space")
        check_paths("prefix", (self.prefix,))


class RegexRewrite(FilterConfig):
    r"""Every match in the path replaced; `\1` and `\g<name>` in the replacement are groups."""

    pattern: re.Pattern[str]
    replacement: str

    def validate(self) -> None:
        check_pattern(self.pattern)
        try:
            self.pattern.sub(self.replacement, "")
            re.compile(self.pattern.pattern + "|").sub(self.replacement, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"replacement {self.replacement!r}: {error}") from None


class Rule(FilterConfig):
    """What to change, in the requests that fit all of its conditions."""

    paths: tuple[str, ...] = ()
    """Whole segments ("/api"), a `*` at the end for any ending. Empty: all."""
    path_regex: re.Pattern[str] | None = None
    """The whole path must match; its groups are {group:1} and {group:name}."""
    methods: tuple[str, ...] = ()
    headers: dict[str, re.Pattern[str]] = {}  # noqa: RUF012  (a default of a configuration, which cannot be changed)
    """Every one must be there, and match as a whole."""
    request: tuple[HeaderChange, ...] = ()
    response: tuple[HeaderChange, ...] = ()
    """Changes of the response; their variables are the request's."""
    authority: str = ""
    """A new host; may hold variables."""
    rewrite_prefix: PrefixRewrite | None = None
    rewrite_regex: RegexRewrite | None = None
    stop: bool = False
    """Look at no further rule."""

    def validate(self) -> None:
        check_paths("paths", self.paths)
        for method in self.methods:
            if not METHOD.fullmatch(method):
                raise ValueError(f"methods: {method!r} is no method: they are in upper case")
        for name, pattern in self.headers.items():
            check_header("headers", name)
            check_pattern(pattern)
        if self.path_regex is not None:
            check_pattern(self.path_regex)
        groups = group_names(self.path_regex)
        for text in (self.authority, *(change.value for change in (*self.request, *self.response))):
            for part in parse_template(text, VARIABLES).parts:
                if isinstance(part, Variable) and part.name == "group" and part.argument not in groups:
                    raise ValueError(f"{{group:{part.argument}}} in {text!r} is no group of pathRegex")


class Rewrite(HttpFilter):
    """Changes headers, host and path by rules, one after the other; a rule sees what those before it have changed.

    A path too long for the rules' regular expressions is answered with 414, one that a rule makes invalid with 400.
    """

    class Config(FilterConfig):
        rules: tuple[Rule, ...]

        def validate(self) -> None:
            if not 1 <= len(self.rules) <= MOST_RULES:
                raise ValueError(f"{len(self.rules)} rules: between 1 and {MOST_RULES}")

    config: Config

    def on_start(self) -> None:
        self._rules = [compile_rule(rule) for rule in self.config.rules]
        self._answers = any(rule.response for rule in self._rules)
        self._regex = any(rule.rule.path_regex or rule.rule.rewrite_regex for rule in self._rules)
        # What the response needs is kept with the request; a second plugin of this kind keeps its own.
        self._state = "rewrite." + (Properties().text("plugin_name") or "")

    def on_request(self, request: Request) -> Response | None:
        if self._regex and len(request.path) > LONGEST_INPUT:
            return Response(414, "uri too long\n")
        later: list[Change] = []
        for compiled in self._rules:
            groups = match_rule(compiled.rule, request)
            if groups is None:
                continue
            look_up = Lookup(request, groups)
            later += (change.render(look_up) for change in compiled.response)
            for change in [change.render(look_up) for change in compiled.request]:
                change.apply(request.headers)
            if compiled.authority:
                request.authority = clean(compiled.authority.render(look_up))
                if not AUTHORITY.fullmatch(request.authority):
                    return Response(400, "bad host\n")
            before = request.path
            path = rewritten(before, compiled.rule)
            if path is None:
                return Response(400, "bad path\n")
            if self._regex and len(path) > LONGEST_INPUT:
                return Response(414, "uri too long\n")
            if path != before:
                request.path = path
            if compiled.rule.stop:
                break
        if self._answers and later:
            request.properties.set(self._state, json.dumps(later))
        return None

    def on_response(self, request: Request, response: Response) -> None:
        kept = request.properties.text("filter_state", "wasm." + self._state) if self._answers else None
        if kept:
            for action, name, value, to in json.loads(kept):
                Change(action, name, value, to).apply(response.headers)


class Change(NamedTuple):
    """A change of a header with its value."""

    action: str
    name: str
    value: str
    to: str

    def apply(self, headers: Headers) -> None:
        if self.action == "add":
            headers.add(self.name, self.value)
        elif self.action == "remove":
            headers.pop(self.name, None)
        elif self.action == "set" or (self.action == "default" and self.name not in headers):
            headers[self.name] = self.value
        elif self.action == "rename" and self.name in headers:
            values = headers.get_all(self.name)
            del headers[self.name]
            headers.pop(self.to, None)
            for value in values:
                headers.add(self.to, value)


class CompiledChange(NamedTuple):
    """A change whose value is still to be rendered."""

    change: HeaderChange
    value: Template

    def render(self, look_up: "Lookup") -> Change:
        change = self.change
        return Change(change.action, change.name, clean(self.value.render(look_up)), change.to)


class CompiledRule(NamedTuple):
    """A rule with its templates parsed."""

    rule: Rule
    request: tuple[CompiledChange, ...]
    response: tuple[CompiledChange, ...]
    authority: Template | None


def compile_rule(rule: Rule) -> CompiledRule:
    """Parse the templates once."""

    def compiled(changes: Sequence[HeaderChange]) -> tuple[CompiledChange, ...]:
        return tuple(CompiledChange(change, parse_template(change.value, VARIABLES)) for change in changes)

    authority = parse_template(rule.authority, VARIABLES) if rule.authority else None
    return CompiledRule(rule, compiled(rule.request), compiled(rule.response), authority)


def group_names(pattern: "re.Pattern[str] | None") -> frozenset[str]:
    """What {group:...} may name."""
    return frozenset() if pattern is None else frozenset({*map(str, range(1, pattern.groups + 1)), *pattern.groupindex})


class Lookup:
    """Values of a request."""

    __slots__ = ("_groups", "_request")

    def __init__(self, request: Request, groups: "dict[str, str]") -> None:
        self._request = request
        self._groups = groups

    def __call__(self, name: str, argument: str) -> str | None:
        request = self._request
        match name:
            case "header":
                return request.headers.get(argument)
            case "group":
                return self._groups.get(argument)
            case "cookie":
                return request.cookies.get(argument)
            case "parameter":
                return request.query.get(argument)
            case "query":
                return request.target.partition("?")[2]
            case "source":
                return request.properties.source_address
            case "peer":
                return request.properties.peer_identity
            case "route":
                return request.properties.route_name
            case _:
                return str(getattr(request, name))


def match_rule(rule: Rule, request: Request) -> "dict[str, str] | None":
    """The groups of the path, if a request fits; else None."""
    path = request.path
    if (rule.paths and not matches_path(path, rule.paths)) or (rule.methods and request.method not in rule.methods):
        return None
    for name, pattern in rule.headers.items():
        value = request.headers.get(name)
        if value is None or len(value) > LONGEST_INPUT or not pattern.fullmatch(value):
            return None
    if rule.path_regex is None:
        return {}
    match = rule.path_regex.fullmatch(path)
    if match is None:
        return None
    groups = {str(number): text for number, text in enumerate(match.groups(), 1) if text is not None}
    return groups | {name: text for name, text in match.groupdict().items() if text is not None}


def rewritten(path: str, rule: Rule) -> str | None:
    """The path after a rule; None if it is none any more."""
    if rule.rewrite_prefix is not None:
        path = replace_prefix(path, rule.rewrite_prefix.prefix, rule.rewrite_prefix.replacement)
    if rule.rewrite_regex is not None and len(path) <= LONGEST_INPUT:
        path = rule.rewrite_regex.pattern.sub(rule.rewrite_regex.replacement, path)
    if rule.rewrite_prefix is None and rule.rewrite_regex is None:
        return path
    return path if PATH.fullmatch(path) and not DOTS.search(path) and not set("?#") & set(path) else None


def replace_prefix(path: str, prefix: str, replacement: str) -> str:
    """`path` with another beginning, if it has that of `prefix`; no slash is doubled or lost, and none leads to another host."""
    if not matches_path(path, (prefix,)):
        return path
    rest, start = path[len(prefix) :], replacement.rstrip("/")
    return start + "/" + (rest.removeprefix("/") if start else rest.lstrip("/")) if rest else replacement


def clean(value: str) -> str:
    """A value for a header: without control characters, which a query may bring in decoded, and not endless."""
    return CONTROL.sub("", value)[:LONGEST_VALUE]
