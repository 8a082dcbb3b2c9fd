"""HTTPRoute (Gateway API): how requests that reach a gateway (or a service) are routed."""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import (
    DNS_SUBDOMAIN,
    Bool,
    DefaultedSpec,
    DurationOrZero,
    Group,
    Int32,
    KindName,
    NamespaceName,
    ObjectName,
    Port,
    at_most_one,
    parse_duration,
    rule_error,
    unique,
)

GROUP = "gateway.networking.k8s.io"
_WILDCARD_HOST = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_TOKEN = r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$"  # noqa: S105 -- the characters of an HTTP header name

Hostname = Annotated[str, Field(min_length=1, max_length=253, pattern=_WILDCARD_HOST)]
PreciseHostname = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
SectionName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
HeaderName = Annotated[str, Field(min_length=1, max_length=256, pattern=_TOKEN)]
Path = Annotated[str, Field(max_length=1024)]


class ParentReference(DefaultedSpec):
    """What the route attaches to."""

    group: Group = GROUP
    kind: KindName = "Gateway"
    name: ObjectName
    namespace: NamespaceName | None = None
    section_name: SectionName | None = None
    port: Port | None = None


class PathMatchType(StrEnum):
    """How a path is compared; PathPrefix compares whole segments."""

    EXACT = "Exact"
    PATH_PREFIX = "PathPrefix"
    REGULAR_EXPRESSION = "RegularExpression"


_PATH_PARTS = ("//", "/./", "/../", "%2f", "%2F", "#")
_PATH_ENDS = ("/..", "/.")
_PATH_CHARS = re.compile(r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+")


class HTTPPathMatch(DefaultedSpec):
    """A condition on the path."""

    type: PathMatchType = PathMatchType.PATH_PREFIX
    value: Path = "/"

    @model_validator(mode="after")
    def _plain_path(self) -> "HTTPPathMatch":
        if self.type is PathMatchType.REGULAR_EXPRESSION:
            return self
        if not self.value.startswith("/"):
            raise rule_error("path", "value must be an absolute path and start with '/'", "value")
        for part in _PATH_PARTS:
            if part in self.value:
                raise rule_error("path", f"value must not contain '{part}'", "value")
        for end in _PATH_ENDS:
            if self.value.endswith(end):
                raise rule_error("path", f"value must not end with '{end}'", "value")
        if not _PATH_CHARS.fullmatch(self.value):
            raise rule_error("path", "value must only contain characters that are valid in a path", "value")
        return self


class MatchType(StrEnum):
    """How a header or query parameter is compared."""

    EXACT = "Exact"
    REGULAR_EXPRESSION = "RegularExpression"


class HTTPHeaderMatch(DefaultedSpec):
    """A condition on a header."""

    type: MatchType = MatchType.EXACT
    name: HeaderName
    value: Annotated[str, Field(min_length=1, max_length=4096)]


class HTTPQueryParamMatch(DefaultedSpec):
    """A condition on a query parameter."""

    type: MatchType = MatchType.EXACT
    name: HeaderName
    value: Annotated[str, Field(min_length=1, max_length=1024)]


class HTTPMethod(StrEnum):
    """A request method."""

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    DELETE = "DELETE"
    CONNECT = "CONNECT"
    OPTIONS = "OPTIONS"
    TRACE = "TRACE"
    PATCH = "PATCH"


class HTTPRouteMatch(DefaultedSpec):
    """Conditions that must all hold."""

    path: HTTPPathMatch = HTTPPathMatch()
    headers: Annotated[tuple[HTTPHeaderMatch, ...], Field(max_length=16)] = ()
    query_params: Annotated[tuple[HTTPQueryParamMatch, ...], Field(max_length=16)] = ()
    method: HTTPMethod | None = None

    @model_validator(mode="after")
    def _unique(self) -> "HTTPRouteMatch":
        unique(self.headers, "headers", "name")
        unique(self.query_params, "queryParams", "name")
        return self


class HTTPHeader(DefaultedSpec):
    """A header to set or add."""

    name: HeaderName
    value: Annotated[str, Field(min_length=1, max_length=4096)]


def no_repeats(items: Sequence[str], list_name: str) -> None:
    """Refuse a list that names something twice."""
    for index, item in enumerate(items):
        if item in items[:index]:
            raise rule_error("duplicate", f'duplicate value "{item}"', list_name, index)


class HTTPHeaderFilter(DefaultedSpec):
    """`set` overwrites, `add` appends, `remove` deletes."""

    set: Annotated[tuple[HTTPHeader, ...], Field(max_length=16)] = ()
    add: Annotated[tuple[HTTPHeader, ...], Field(max_length=16)] = ()
    remove: Annotated[tuple[str, ...], Field(max_length=16)] = ()

    @model_validator(mode="after")
    def _unique(self) -> "HTTPHeaderFilter":
        unique(self.set, "set", "name")
        unique(self.add, "add", "name")
        no_repeats(self.remove, "remove")
        return self


class BackendObjectReference(DefaultedSpec):
    """A Service (or other backend), possibly elsewhere (then a ReferenceGrant is needed)."""

    group: Group = ""
    kind: KindName = "Service"
    name: ObjectName
    namespace: NamespaceName | None = None
    port: Port | None = None

    @model_validator(mode="after")
    def _service_port(self) -> "BackendObjectReference":
        if not self.group and self.kind == "Service" and self.port is None:
            raise rule_error("required", "port is required for a reference to a Service")
        return self


class Fraction(DefaultedSpec):
    """`numerator` of `denominator`."""

    numerator: Annotated[Int32, Field(ge=0)]
    denominator: Annotated[Int32, Field(ge=1)] = 100

    @model_validator(mode="after")
    def _at_most_whole(self) -> "Fraction":
        if self.numerator > self.denominator:
            raise rule_error("range", "numerator must be less than or equal to denominator", "numerator")
        return self


class HTTPRequestMirrorFilter(DefaultedSpec):
    """Send a copy of a share of the requests elsewhere."""

    backend_ref: BackendObjectReference
    percent: Annotated[Int32, Field(ge=0, le=100)] | None = None
    fraction: Fraction | None = None

    @model_validator(mode="after")
    def _one(self) -> "HTTPRequestMirrorFilter":
        at_most_one(self, ("percent", "fraction"))
        return self


class PathModifierType(StrEnum):
    """How a path is changed."""

    REPLACE_FULL_PATH = "ReplaceFullPath"
    REPLACE_PREFIX_MATCH = "ReplacePrefixMatch"


class HTTPPathModifier(DefaultedSpec):
    """A change of the path."""

    type: PathModifierType
    replace_full_path: Path | None = None
    replace_prefix_match: Path | None = None

    @model_validator(mode="after")
    def _of_type(self) -> "HTTPPathModifier":
        full = self.type is PathModifierType.REPLACE_FULL_PATH
        if full != (self.replace_full_path is not None):
            raise rule_error("one_of", "replaceFullPath and type ReplaceFullPath need one another", "type")
        if full == (self.replace_prefix_match is not None):
            raise rule_error("one_of", "replacePrefixMatch and type ReplacePrefixMatch need one another", "type")
        return self

    @property
    def replaces_prefix(self) -> bool:
        """Whether a matched prefix is replaced, so that there must be one."""
        return self.type is PathModifierType.REPLACE_PREFIX_MATCH


class HTTPRequestRedirectFilter(DefaultedSpec):
    """Answer with a redirect."""

    scheme: Literal["http", "https"] | None = None
    hostname: PreciseHostname | None = None
    path: HTTPPathModifier | None = None
    port: Port | None = None
    status_code: Literal[301, 302, 303, 307, 308] = 302


class HTTPURLRewriteFilter(DefaultedSpec):
    """Rewrite host and path before forwarding."""

    hostname: PreciseHostname | None = None
    path: HTTPPathModifier | None = None


_ORIGIN = r"(^\*$)|(^(http(s)?):\/\/(((\*\.)?([a-zA-Z0-9\-]+\.)*[a-zA-Z0-9-]+|\*)(:([0-9]{1,5}))?)$)"
CorsMethod = Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"]


class HTTPCORSFilter(DefaultedSpec):
    """Cross-origin resource sharing."""

    allow_origins: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=253, pattern=_ORIGIN)], ...], Field(max_length=64)
    ] = ()
    allow_credentials: Bool | None = None
    allow_methods: Annotated[tuple[CorsMethod, ...], Field(max_length=9)] = ()
    allow_headers: Annotated[tuple[HeaderName, ...], Field(max_length=64)] = ()
    expose_headers: Annotated[tuple[HeaderName, ...], Field(max_length=64)] = ()
    max_age: Annotated[Int32, Field(ge=1)] = 5

    @model_validator(mode="after")
    def _lists(self) -> "HTTPCORSFilter":
        lists = {
            "allowOrigins": self.allow_origins,
            "allowMethods": self.allow_methods,
            "allowHeaders": self.allow_headers,
        }
        for name, values in lists.items():
            if "*" in values and len(values) > 1:
                raise rule_error("one_of", f"{name} cannot contain '*' alongside others", name)
            no_repeats(values, name)
        no_repeats(self.expose_headers, "exposeHeaders")
        return self


class LocalObjectReference(DefaultedSpec):
    """An object of the same namespace."""

    group: Group
    kind: KindName
    name: ObjectName


class FilterType(StrEnum):
    """What a filter does."""

    REQUEST_HEADER_MODIFIER = "RequestHeaderModifier"
    RESPONSE_HEADER_MODIFIER = "ResponseHeaderModifier"
    REQUEST_MIRROR = "RequestMirror"
    REQUEST_REDIRECT = "RequestRedirect"
    URL_REWRITE = "URLRewrite"
    EXTENSION_REF = "ExtensionRef"
    CORS = "CORS"


_FILTER_FIELDS = {
    "request_header_modifier": FilterType.REQUEST_HEADER_MODIFIER,
    "response_header_modifier": FilterType.RESPONSE_HEADER_MODIFIER,
    "request_mirror": FilterType.REQUEST_MIRROR,
    "request_redirect": FilterType.REQUEST_REDIRECT,
    "url_rewrite": FilterType.URL_REWRITE,
    "extension_ref": FilterType.EXTENSION_REF,
    "cors": FilterType.CORS,
}
_REPEATABLE = frozenset({FilterType.REQUEST_MIRROR, FilterType.EXTENSION_REF})


class HTTPRouteFilter(DefaultedSpec):
    """One filter: `type` and the field that belongs to it."""

    type: FilterType
    request_header_modifier: HTTPHeaderFilter | None = None
    response_header_modifier: HTTPHeaderFilter | None = None
    request_mirror: HTTPRequestMirrorFilter | None = None
    request_redirect: HTTPRequestRedirectFilter | None = None
    url_rewrite: HTTPURLRewriteFilter | None = None
    extension_ref: LocalObjectReference | None = None
    cors: HTTPCORSFilter | None = None

    @model_validator(mode="after")
    def _of_type(self) -> "HTTPRouteFilter":
        for field, kind in _FILTER_FIELDS.items():
            name = type(self).model_fields[field].alias or field
            present = getattr(self, field) is not None
            if present and self.type is not kind:
                raise rule_error("one_of", f"{name} must not be set when type is {self.type}", name)
            if not present and self.type is kind:
                raise rule_error("one_of", f"{name} must be set when type is {kind}", "type")
        return self

    @property
    def replaces_prefix(self) -> bool:
        """Whether the filter replaces a matched path prefix."""
        modifier = self.request_redirect or self.url_rewrite
        return modifier is not None and modifier.path is not None and modifier.path.replaces_prefix


def _filters(filters: Sequence[HTTPRouteFilter]) -> None:
    types = [f.type for f in filters]
    if FilterType.REQUEST_REDIRECT in types and FilterType.URL_REWRITE in types:
        raise rule_error("one_of", "RequestRedirect and URLRewrite exclude one another", "filters")
    for index, kind in enumerate(types):
        if kind not in _REPEATABLE and kind in types[:index]:
            raise rule_error("duplicate", f"{kind} filter cannot be repeated", "filters", index, "type")


Filters = Annotated[tuple[HTTPRouteFilter, ...], Field(max_length=16)]


class HTTPBackendRef(BackendObjectReference):
    """A weighted backend."""

    weight: Annotated[Int32, Field(ge=0, le=1_000_000)] = 1
    filters: Filters = ()

    @model_validator(mode="after")
    def _consistent_filters(self) -> "HTTPBackendRef":
        _filters(self.filters)
        return self


_GATEWAY_DURATION = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")


def _gateway_duration(value: object) -> object:
    if isinstance(value, str):
        if not _GATEWAY_DURATION.fullmatch(value):
            raise rule_error("duration", f'"{value[:64]}" is not a duration such as 10s, 1m30s or 250ms')
        return parse_duration(value)
    return value


GatewayDuration = Annotated[DurationOrZero, BeforeValidator(_gateway_duration)]


class HTTPRouteTimeouts(DefaultedSpec):
    """Zero is no timeout."""

    request: GatewayDuration | None = None
    backend_request: GatewayDuration | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "HTTPRouteTimeouts":
        if self.request and self.backend_request and self.backend_request > self.request:
            raise rule_error("range", "backendRequest timeout cannot be longer than request timeout", "backendRequest")
        return self


class HTTPRouteRule(DefaultedSpec):
    """Matches (any of them), filters and backends."""

    name: SectionName | None = None
    matches: Annotated[tuple[HTTPRouteMatch, ...], Field(max_length=64)] = (HTTPRouteMatch(),)
    filters: Filters = ()
    backend_refs: Annotated[tuple[HTTPBackendRef, ...], Field(max_length=16)] = ()
    timeouts: HTTPRouteTimeouts | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "HTTPRouteRule":
        _filters(self.filters)
        if self.backend_refs and any(f.type is FilterType.REQUEST_REDIRECT for f in self.filters):
            raise rule_error(
                "one_of", "RequestRedirect filter must not be used together with backendRefs", "backendRefs"
            )
        replacing = [f for f in self.filters if f.replaces_prefix]
        replacing += [f for b in self.backend_refs for f in b.filters if f.replaces_prefix]
        prefixes = [m.path.type is PathMatchType.PATH_PREFIX for m in self.matches]
        if replacing and prefixes != [True]:
            raise rule_error(
                "requires", "with replacePrefixMatch, exactly one PathPrefix match must be specified", "matches"
            )
        return self


_MAX_MATCHES = 128


class HTTPRouteSpec(DefaultedSpec):
    """Parents, host names and rules."""

    parent_refs: Annotated[tuple[ParentReference, ...], Field(max_length=32)] = ()
    hostnames: Annotated[tuple[Hostname, ...], Field(max_length=16)] = ()
    rules: Annotated[tuple[HTTPRouteRule, ...], Field(min_length=1, max_length=16)] = (HTTPRouteRule(),)

    @model_validator(mode="after")
    def _parents(self) -> "HTTPRouteSpec":
        sections: dict[tuple[str, str, str, str], list[str]] = {}
        for index, p in enumerate(self.parent_refs):
            named = sections.setdefault((p.group, p.kind, p.name, p.namespace or ""), [])
            section = p.section_name or ""
            if section in named or (named and (not section or "" in named)):
                message = "sectionName must be set and unique when parentRefs has several references to the same parent"
                raise rule_error("duplicate", message, "parentRefs", index)
            named.append(section)
        if sum(len(rule.matches) for rule in self.rules) > _MAX_MATCHES:
            raise rule_error("range", f"a route can have at most {_MAX_MATCHES} matches in all its rules", "rules")
        return self


class HTTPRoute(Resource):
    """How requests that reach a gateway are routed."""

    api_version: str = "gateway.networking.k8s.io/v1"
    kind: str = "HTTPRoute"
    spec: HTTPRouteSpec
