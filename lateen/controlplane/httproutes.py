"""Gateway API HTTPRoutes as Envoy routes: matches by precedence across routes, filters, weighted backends, timeouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from lateen.controlplane import matchers, names, route_actions
from lateen.controlplane.findings import TranslationError
from lateen.controlplane.protos import TRUE, duration, metadata, packed, runtime_percent, uint32
from lateen.controlplane.scope import Scope
from lateen.controlplane.traffic_policies import hash_policy
from lateen.controlplane.validation import validate
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.extensions.filters.http.cors.v3 import cors_pb2
from lateen.envoyapi.envoy.type.matcher.v3 import string_pb2
from lateen.mesh import httproute as api
from lateen.mesh.spec import StringMatch

UNKNOWN_BACKEND = "UnknownService"
_ERROR = 500
_OWN_FIELDS = (
    "action", "request_headers_to_add", "request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove",
    "typed_per_filter_config",
)  # fmt: skip
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PATH_RANK = {
    api.PathMatchType.EXACT: 0,
    api.PathMatchType.PATH_PREFIX: 1,
    api.PathMatchType.REGULAR_EXPRESSION: 2,
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Candidate:
    route: api.HTTPRoute
    index: int
    rule: api.HTTPRouteRule
    match: api.HTTPRouteMatch

    @property
    def rank(self) -> tuple[int, int, int, int, int]:
        """Smaller goes first: exact path, longest path, method, most headers, most query parameters."""
        return (
            _PATH_RANK[self.match.path.type],
            -len(self.match.path.value),
            0 if self.match.method else 1,
            -len(self.match.headers),
            -len(self.match.query_params),
        )


def translate_http_routes(attached: Iterable[api.HTTPRoute], scope: Scope, port: int) -> list[rc.Route]:
    """The routes of all HTTPRoutes of one host name, most specific match first; ties keep the order given (oldest first)."""
    candidates = [
        _Candidate(route, index, rule, match)
        for route in attached
        for index, rule in enumerate(route.spec.rules)
        for match in rule.matches or (api.HTTPRouteMatch(),)
    ]
    result: list[rc.Route] = []
    for candidate in sorted(candidates, key=lambda c: c.rank):  # stable
        path = f"spec.rules[{candidate.index}]"
        with scope.findings.guard(candidate.route.key, path):
            result.append(_route(candidate, scope, port))
    return result


def _route(candidate: _Candidate, scope: Scope, port: int) -> rc.Route:
    key = candidate.route.key
    route = rc.Route(
        name=candidate.rule.name or f"{key.namespace}.{key.name}.{candidate.index}",
        match=translate_match(candidate.match),
        metadata=metadata([key]),
    )
    try:
        _act(route, candidate, scope, port)
        validate(route)
    except TranslationError as error:  # the Gateway API wants an error for what is invalid, not a missing route
        scope.findings.add(key, str(error), f"spec.rules[{candidate.index}]")
        for field in _OWN_FIELDS:
            route.ClearField(field)
        route.direct_response.status = _ERROR
    return route


def translate_match(match: api.HTTPRouteMatch) -> rc.RouteMatch:
    """Path prefixes match whole segments."""
    result = _path(match.path)
    if match.method is not None:
        result.headers.add(name=":method", string_match=matchers.exact(match.method))
    for header in match.headers:
        result.headers.add(name=header.name.lower(), string_match=_string(header.type, header.value))
    for query in match.query_params:
        result.query_parameters.add(name=query.name, string_match=_string(query.type, query.value))
    return result


def _path(path: api.HTTPPathMatch) -> rc.RouteMatch:
    if path.type is api.PathMatchType.EXACT:
        return rc.RouteMatch(path=path.value)
    if path.type is api.PathMatchType.REGULAR_EXPRESSION:
        return rc.RouteMatch(safe_regex=matchers.regex(path.value))
    prefix = path.value.rstrip("/")
    return rc.RouteMatch(path_separated_prefix=prefix) if prefix else rc.RouteMatch(prefix="/")


def _string(kind: api.MatchType, value: str) -> string_pb2.StringMatcher:
    if kind is api.MatchType.REGULAR_EXPRESSION:
        return string_pb2.StringMatcher(safe_regex=matchers.regex(value))
    return matchers.exact(value)


def _act(route: rc.Route, candidate: _Candidate, scope: Scope, port: int) -> None:
    rule = candidate.rule
    redirects = [f.request_redirect for f in rule.filters if f.request_redirect is not None]
    _unknown_filters(rule.filters)
    _headers(route, rule.filters)
    if redirects:
        route.redirect.CopyFrom(_redirect(redirects[0], route.match, port))
    else:
        _forward(route, candidate, scope)
    for item in rule.filters:
        if item.cors is not None:
            route.typed_per_filter_config[route_actions.CORS].CopyFrom(packed(_cors(item.cors)))


def _unknown_filters(filters: Sequence[api.HTTPRouteFilter]) -> None:
    for item in filters:
        if item.extension_ref is not None:
            reference = item.extension_ref
            raise TranslationError(f"ExtensionRef filter {reference.kind}/{reference.name} is not supported")


def _headers(target: rc.Route | rc.WeightedCluster.ClusterWeight, filters: Sequence[api.HTTPRouteFilter]) -> None:
    for item in filters:
        if item.request_header_modifier is not None:
            change = item.request_header_modifier
            for header in change.set:
                target.request_headers_to_add.append(_option(header, append=False))
            for header in change.add:
                target.request_headers_to_add.append(_option(header, append=True))
            target.request_headers_to_remove.extend(change.remove)
        if item.response_header_modifier is not None:
            change = item.response_header_modifier
            for header in change.set:
                target.response_headers_to_add.append(_option(header, append=False))
            for header in change.add:
                target.response_headers_to_add.append(_option(header, append=True))
            target.response_headers_to_remove.extend(change.remove)


def _option(header: api.HTTPHeader, *, append: bool) -> route_actions.HeaderValueOption:
    """Values are literal in the Gateway API, so Envoy's format character is escaped."""
    return route_actions.header_value(header.name, header.value.replace("%", "%%"), append=append)


# Redirect and rewrite


def _redirect(spec: api.HTTPRequestRedirectFilter, match: rc.RouteMatch, port: int) -> rc.RedirectAction:
    result = rc.RedirectAction(response_code=route_actions.REDIRECT_CODES[spec.status_code])
    if spec.hostname:
        result.host_redirect = spec.hostname
    if spec.scheme:
        result.scheme_redirect = spec.scheme
    if spec.port:
        if spec.port != _DEFAULT_PORTS.get(spec.scheme or ""):
            result.port_redirect = spec.port
    elif not spec.scheme and port not in _DEFAULT_PORTS.values():
        result.port_redirect = port
    if spec.path is not None and spec.path.replace_full_path is not None:
        result.path_redirect = spec.path.replace_full_path
    elif spec.path is not None:
        replacement = (spec.path.replace_prefix_match or "").rstrip("/")
        prefix = match.path_separated_prefix or match.prefix
        if replacement:
            result.prefix_rewrite = replacement if prefix != "/" else replacement + "/"
        elif prefix != "/":
            result.regex_rewrite.CopyFrom(_strip_prefix(prefix))
    return result


def _strip_prefix(prefix: str) -> route_actions.RegexRewrite:
    return route_actions.regex_rewrite(f"^{route_actions.re2_quote(prefix)}(/?)(.*)", r"/\2")


def _rewrite(action: rc.RouteAction, spec: api.HTTPURLRewriteFilter, match: rc.RouteMatch) -> None:
    if spec.hostname:
        action.host_rewrite_literal = spec.hostname
    if spec.path is None:
        return
    if spec.path.replace_full_path is not None:
        full = spec.path.replace_full_path.replace("\\", "\\\\")
        action.regex_rewrite.CopyFrom(route_actions.regex_rewrite("^.*$", full))
        return
    replacement = (spec.path.replace_prefix_match or "").rstrip("/")
    prefix = match.path_separated_prefix or match.prefix
    if replacement:
        action.prefix_rewrite = replacement if prefix != "/" else replacement + "/"
    elif prefix != "/":
        action.regex_rewrite.CopyFrom(_strip_prefix(prefix))


# Forwarding


def _forward(route: rc.Route, candidate: _Candidate, scope: Scope) -> None:
    rule, action = candidate.rule, route.route
    backends = [b for b in _backends(candidate, scope) if b[1] > 0]
    if not backends or all(name == UNKNOWN_BACKEND for name, _, _ in backends):
        route.direct_response.status = _ERROR
        return
    if len(backends) == 1:
        action.cluster = backends[0][0]
        _headers(route, backends[0][2].filters)
    else:
        for name, weight, backend in backends:
            share = action.weighted_clusters.clusters.add(name=name, weight=uint32(weight))
            _headers(share, backend.filters)
    action.cluster_not_found_response_code = rc.RouteAction.INTERNAL_SERVER_ERROR
    timeouts = rule.timeouts
    route_actions.set_timeout(action, timeouts.request if timeouts else None)
    for name, _, _ in backends:
        _hash(action, scope, name)
    retries = route_actions.default_retry(scope.view.mesh.default_http_retry_policy, hashed=bool(action.hash_policy))
    if retries is not None:
        action.retry_policy.CopyFrom(retries)
        if timeouts and timeouts.backend_request:
            action.retry_policy.per_try_timeout.CopyFrom(duration(timeouts.backend_request))
    elif timeouts and timeouts.backend_request and not timeouts.request:
        route_actions.set_timeout(action, timeouts.backend_request)
    for item in rule.filters:
        if item.url_rewrite is not None:
            _rewrite(action, item.url_rewrite, route.match)
        if item.request_mirror is not None:
            _mirror(action, item.request_mirror, candidate, scope)


def _hash(action: rc.RouteAction, scope: Scope, cluster: str) -> None:
    parts = names.parse_cluster(cluster)
    if parts is not None:
        policy = hash_policy(scope.policy(parts[3], parts[1], parts[2]).consistent_hash)
        if policy is not None and policy not in action.hash_policy:
            action.hash_policy.append(policy)


def _backends(candidate: _Candidate, scope: Scope) -> Iterator[tuple[str, int, api.HTTPBackendRef]]:
    """Clusters by weight; the share of a backend that does not resolve gets an error."""
    for index, ref in enumerate(candidate.rule.backend_refs):
        path = f"spec.rules[{candidate.index}].backendRefs[{index}]"
        found = scope.view.resolve_backend(candidate.route, ref)
        only_headers = all(f.request_header_modifier or f.response_header_modifier for f in ref.filters)
        if found.service is None or found.port is None:
            scope.findings.add(candidate.route.key, found.message or found.reason or "backend not found", path)
            yield UNKNOWN_BACKEND, ref.weight, ref
        elif not only_headers:
            scope.findings.add(
                candidate.route.key, "filters of a backendRef other than header modifiers are not supported", path
            )
            yield UNKNOWN_BACKEND, ref.weight, ref
        else:
            name = names.outbound_cluster(found.service.hostname, found.port.number)
            yield scope.refer(name, candidate.route.key), ref.weight, ref


def _mirror(action: rc.RouteAction, spec: api.HTTPRequestMirrorFilter, candidate: _Candidate, scope: Scope) -> None:
    ref = api.HTTPBackendRef(**{f: getattr(spec.backend_ref, f) for f in type(spec.backend_ref).model_fields})
    found = scope.view.resolve_backend(candidate.route, ref)
    if found.service is None or found.port is None:
        message = found.message or found.reason or "mirror backend not found"
        scope.findings.add(candidate.route.key, message, f"spec.rules[{candidate.index}].filters")
        return
    share = 100.0
    if spec.percent is not None:
        share = spec.percent
    elif spec.fraction is not None:
        share = 100 * spec.fraction.numerator / spec.fraction.denominator
    cluster = scope.refer(names.outbound_cluster(found.service.hostname, found.port.number), candidate.route.key)
    if share:
        action.request_mirror_policies.append(route_actions.mirror(cluster, share))


# CORS


def _cors(spec: api.HTTPCORSFilter) -> cors_pb2.CorsPolicy:
    origins = [_origin(origin) for origin in spec.allow_origins]
    policy = cors_pb2.CorsPolicy(
        allow_origin_string_match=[o for o in origins if o is not None],
        allow_methods=",".join(spec.allow_methods),
        allow_headers=",".join(spec.allow_headers),
        expose_headers=",".join(spec.expose_headers),
        max_age=str(spec.max_age),
        forward_not_matching_preflights=TRUE,
        filter_enabled=runtime_percent(100),
    )
    if spec.allow_credentials is not None:
        policy.allow_credentials.value = spec.allow_credentials
    return policy


def _origin(origin: str) -> string_pb2.StringMatcher | None:
    if "*" not in origin:
        return matchers.exact(origin)
    pattern = route_actions.re2_quote(origin).replace(r"\*", ".*")
    return matchers.string(StringMatch(regex=pattern))
