"""The Envoy side of a RateLimitPolicy: `RateLimit` entries of a virtual host, one a limit. Pure.

Envoy drops a descriptor when one of its actions yields nothing: that is how a limit that does not match, or whose header, claim or
identity is missing, does not apply (envoy/config/route/v3/route_components.proto, message RateLimit).
"""

from collections.abc import Iterable

from google.protobuf.any_pb2 import Any as AnyMessage

from lateen.envoyapi.envoy.config.core.v3 import extension_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2
from lateen.envoyapi.envoy.extensions.rate_limit_descriptors.expr.v3 import expr_pb2
from lateen.envoyapi.envoy.type.matcher.v3 import regex_pb2, string_pb2
from lateen.envoyapi.envoy.type.metadata.v3 import metadata_pb2
from lateen.mesh.ratelimitpolicy import RateLimitPolicy
from lateen.policy.limits import (
    MATCH_KEY,
    MATCH_VALUE,
    CompiledLimit,
    Entry,
    HeaderCondition,
    Source,
    compile_limits,
)

CLAIMS_NAMESPACE = "envoy.filters.http.ext_authz"
CLAIMS_KEY = "payload"

Action = route_components_pb2.RateLimit.Action


def envoy_rate_limits(
    policies: Iterable[RateLimitPolicy], *, claims_namespace: str = CLAIMS_NAMESPACE
) -> list[route_components_pb2.RateLimit]:
    """The `rate_limits` of every virtual host of a workload that `policies` select, in the order given.

    `claims_namespace` is the dynamic metadata namespace in which the filter that verified the token left its claims.
    """
    return [_rate_limit(limit, claims_namespace) for policy in policies for limit in compile_limits(policy)]


def stages(policies: Iterable[RateLimitPolicy]) -> frozenset[int]:
    """The stages in use: for each of them the listener needs a rate limit filter with that stage's failure mode."""
    return frozenset(limit.stage for policy in policies for limit in compile_limits(policy))


def _rate_limit(limit: CompiledLimit, claims_namespace: str) -> route_components_pb2.RateLimit:
    rate_limit = route_components_pb2.RateLimit(
        actions=[_action(entry, limit.conditions, claims_namespace) for entry in limit.entries]
    )
    rate_limit.stage.value = limit.stage
    return rate_limit


def _action(entry: Entry, conditions: tuple[HeaderCondition, ...], claims_namespace: str) -> Action:
    match entry.source:
        case Source.FIXED if entry.key == MATCH_KEY:
            return _match_action(conditions)
        case Source.FIXED:
            return Action(generic_key=Action.GenericKey(descriptor_key=entry.key, descriptor_value=entry.argument))
        case Source.HEADER:
            return Action(request_headers=Action.RequestHeaders(header_name=entry.argument, descriptor_key=entry.key))
        case Source.REMOTE_ADDRESS:
            return Action(remote_address=Action.RemoteAddress())
        case Source.CLAIM:
            return _claim_action(entry, claims_namespace)
        case Source.PATH:
            return _expression("path", "request.url_path")
        case Source.PRINCIPAL:
            return _expression("principal", "connection.uri_san_peer_certificate")


def _match_action(conditions: tuple[HeaderCondition, ...]) -> Action:
    match = Action.HeaderValueMatch(descriptor_key=MATCH_KEY, descriptor_value=MATCH_VALUE)
    for condition in conditions:
        header = match.headers.add(name=condition.name)
        if condition.regex is None:
            header.present_match = condition.present
        else:
            header.string_match.CopyFrom(
                string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=condition.regex))
            )
    return Action(header_value_match=match)


def _claim_action(entry: Entry, claims_namespace: str) -> Action:
    path = [CLAIMS_KEY, *entry.argument.split(".")]
    key = metadata_pb2.MetadataKey(
        key=claims_namespace, path=[metadata_pb2.MetadataKey.PathSegment(key=part) for part in path]
    )
    return Action(metadata=Action.MetaData(descriptor_key=entry.key, metadata_key=key, source=Action.MetaData.DYNAMIC))


def _expression(key: str, text: str) -> Action:
    config = AnyMessage()
    config.Pack(expr_pb2.Descriptor(descriptor_key=key, text=text))
    return Action(
        extension=extension_pb2.TypedExtensionConfig(name="envoy.rate_limit_descriptors.expr", typed_config=config)
    )
