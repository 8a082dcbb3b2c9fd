"""VirtualService match blocks: which apply to a client and listener, and what they ask of a request."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from lateen.controlplane import matchers
from lateen.controlplane.findings import TranslationError
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.type.matcher.v3 import metadata_pb2, string_pb2, value_pb2
from lateen.mesh.spec import StringMatch
from lateen.mesh.virtualservice import HTTPMatchRequest

MESH = "mesh"
_IGNORED_KEYS = frozenset({"uri", "scheme", "method", "authority"})
_CLAIM_PREFIX = "@request.auth.claims"
_VERIFIED_CLAIMS = ("envoy.filters.http.ext_authz", "payload")  # where ext_authz leaves what it verified


@dataclasses.dataclass(frozen=True, slots=True)
class Client:
    """The caller's side of a match: static, so decided when routes are made and not per request."""

    gateway: str  # `mesh`, or `ns/name` of the gateway
    port: int
    namespace: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


def applies(match: HTTPMatchRequest, client: Client, own_namespace: str) -> bool:
    """Whether a block is for this gateway (or mesh), listener port and client workload."""
    if match.gateways and client.gateway not in {qualified_gateway(g, own_namespace) for g in match.gateways}:
        return False
    if match.port and match.port != client.port:
        return False
    if client.gateway != MESH:
        return True  # source conditions select sidecars only
    if match.source_namespace and match.source_namespace != client.namespace:
        return False
    return all(client.labels.get(key) == value for key, value in match.source_labels.items())


def qualified_gateway(name: str, namespace: str) -> str:
    """`ns/name`; `mesh` stays."""
    return name if name == MESH or "/" in name else f"{namespace}/{name}"


def translate_match(match: HTTPMatchRequest | None) -> rc.RouteMatch:
    """All conditions of one block; None, like an empty block, matches everything."""
    if match is None:
        return rc.RouteMatch(prefix="/")
    result = _path(match)
    for name, value in sorted(match.headers.items()):
        if name.startswith(_CLAIM_PREFIX):
            result.dynamic_metadata.append(_claim(name, value))
        elif name not in _IGNORED_KEYS:
            result.headers.append(matchers.header(name, value))
    for name, value in sorted(match.without_headers.items()):
        if name.startswith(_CLAIM_PREFIX):
            result.dynamic_metadata.append(_claim(name, value, invert=True))
        else:
            result.headers.append(matchers.header(name, value, without=True))
    for pseudo, condition in ((":method", match.method), (":authority", match.authority), (":scheme", match.scheme)):
        if condition is not None:
            result.headers.append(matchers.header(pseudo, condition))
    result.query_parameters.extend(matchers.query(n, v) for n, v in sorted(match.query_params.items()))
    return result


def _path(match: HTTPMatchRequest) -> rc.RouteMatch:
    uri = match.uri
    if uri is None or (uri.exact is None and uri.prefix is None and uri.regex is None):
        return rc.RouteMatch(prefix="/")
    if uri.regex is not None:  # RE2 on the path without the query; ignoreUriCase does not reach it
        return rc.RouteMatch(safe_regex=matchers.regex(uri.regex))
    result = rc.RouteMatch(path=uri.exact) if uri.exact is not None else rc.RouteMatch(prefix=uri.prefix or "/")
    if match.ignore_uri_case:
        result.case_sensitive.value = False
    return result


def is_catch_all(match: rc.RouteMatch) -> bool:
    """Whether nothing gets past this match, so that later routes are unreachable."""
    every_path = match.prefix == "/" or match.safe_regex.regex in {".*", "/.*"}
    return every_path and not (match.headers or match.query_parameters or match.dynamic_metadata)


def claim_path(name: str) -> tuple[str, ...]:
    """`@request.auth.claims.a.b` or `@request.auth.claims[a][b]` as ("a", "b")."""
    rest = name.removeprefix(_CLAIM_PREFIX)
    if rest.startswith("."):
        parts = tuple(rest[1:].split("."))
    else:
        parts = tuple(re.findall(r"\[([^\[\]]+)\]", rest))
        if "".join(f"[{part}]" for part in parts) != rest:
            parts = ()
    if not parts or not all(parts):
        raise TranslationError(f"header {name!r} does not name a claim: write {_CLAIM_PREFIX}.NAME or [NAME]")
    return parts


def _claim(name: str, match: StringMatch, *, invert: bool = False) -> metadata_pb2.MetadataMatcher:
    """A verified JWT claim: equal to the value, or a list that has it as a member."""
    filter_name, root = _VERIFIED_CLAIMS
    path = [metadata_pb2.MetadataMatcher.PathSegment(key=key) for key in (root, *claim_path(name))]
    matcher = matchers.string(match)
    value = value_pb2.ValueMatcher(present_match=True) if matcher is None else _string_or_member(matcher)
    return metadata_pb2.MetadataMatcher(filter=filter_name, path=path, value=value, invert=invert)


def _string_or_member(matcher: string_pb2.StringMatcher) -> value_pb2.ValueMatcher:
    single = value_pb2.ValueMatcher(string_match=matcher)
    member = value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=single))
    return value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=[single, member]))
