"""VirtualService rules as Envoy routes, for sidecars and gateways alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lateen.controlplane import delegates, route_actions
from lateen.controlplane.destinations import Destinations
from lateen.controlplane.findings import Findings, TranslationError
from lateen.controlplane.protos import FALSE, metadata, uint32
from lateen.controlplane.route_matches import Client, applies, is_catch_all, translate_match
from lateen.controlplane.validation import validate
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.mesh import virtualservice as vs
from lateen.mesh.kinds import ResourceKey

MAX_DIRECT_RESPONSE = 1 << 20
DEFAULT_ROUTE = "default"


@dataclasses.dataclass(frozen=True, slots=True)
class RouteContext:
    """Whose routes are being made: the client side of matches, and where destinations lead."""

    client: Client
    destinations: Destinations
    lookup: delegates.Lookup
    default_retry: vs.HTTPRetry | None = None


def translate_virtual_service(
    virtual_service: vs.VirtualService, context: RouteContext, findings: Findings
) -> list[rc.Route]:
    """The routes of one VirtualService in order; nothing after a catch-all, and a rule that cannot be translated is left out."""
    result: list[rc.Route] = []
    for rule in delegates.rules(virtual_service, context.lookup, findings):
        with findings.guard(rule.origin, rule.path):
            made = list(_rule_routes(rule, context))
            result.extend(made)
            if any(is_catch_all(route.match) for route in made):
                break
    return result


def _rule_routes(rule: delegates.Rule, context: RouteContext) -> list[rc.Route]:
    """One route for each match block that concerns this client, up to the first catch-all."""
    matches: Sequence[vs.HTTPMatchRequest | None] = rule.rule.match or (None,)
    result = []
    for match in matches:
        if match is not None and not applies(match, context.client, rule.namespace):
            continue
        route = _route(rule, match, context)
        validate(route)
        result.append(route)
        if is_catch_all(route.match):
            break
    return result


def _route(rule: delegates.Rule, match: vs.HTTPMatchRequest | None, context: RouteContext) -> rc.Route:
    spec = rule.rule
    route = rc.Route(
        name=".".join(part for part in (spec.name, match.name if match else None) if part),
        match=translate_match(match),
        metadata=metadata([rule.origin]),
    )
    if match is not None and match.stat_prefix:
        route.stat_prefix = match.stat_prefix
    host = route_actions.apply_headers(route, spec.headers)
    if spec.redirect is not None:
        route.redirect.CopyFrom(route_actions.redirect(spec.redirect, context.client.port))
    elif spec.direct_response is not None:
        route.direct_response.CopyFrom(route_actions.direct_response(spec.direct_response))
    elif spec.route:
        _forward(route, rule, context, host)
    else:
        raise TranslationError("rule has neither route nor redirect, directResponse or delegate")
    if spec.fault is not None:
        config = route_actions.fault(spec.fault)
        if config is not None:
            route.typed_per_filter_config[route_actions.FAULT].CopyFrom(config)
    if spec.cors_policy is not None:
        route.typed_per_filter_config[route_actions.CORS].CopyFrom(route_actions.cors(spec.cors_policy))
    return route


def _forward(route: rc.Route, rule: delegates.Rule, context: RouteContext, host: str) -> None:
    spec = rule.rule
    action = route.route
    hashed = _destinations(route, rule, context)
    route_actions.set_timeout(action, spec.timeout)
    if spec.retries is not None:
        retries = route_actions.retry_policy(spec.retries, hashed=hashed)
    else:
        retries = route_actions.default_retry(context.default_retry, hashed=hashed)
    if retries is not None:
        action.retry_policy.CopyFrom(retries)
    if host:
        action.host_rewrite_literal = host
    if spec.rewrite is not None:
        route_actions.apply_rewrite(action, spec.rewrite, route.match)
    _mirrors(action, rule, context)


def _destinations(route: rc.Route, rule: delegates.Rule, context: RouteContext) -> bool:
    """One cluster, or several by weight; says whether any of them balances by a hash of the request."""
    action = route.route
    weighted = [d for d in rule.rule.route if (d.weight or 0) > 0]
    chosen = weighted if len(rule.rule.route) > 1 else list(rule.rule.route)
    if not chosen:
        raise TranslationError("all weights are zero")
    if len(chosen) == 1:
        host = route_actions.apply_headers(route, chosen[0].headers)
        action.cluster = context.destinations.cluster(chosen[0].destination, rule.namespace, rule.origin)
        if host:
            action.host_rewrite_literal = host
    else:
        for item in chosen:
            weight = action.weighted_clusters.clusters.add(
                name=context.destinations.cluster(item.destination, rule.namespace, rule.origin),
                weight=uint32(item.weight or 0),
            )
            host = route_actions.apply_headers(weight, item.headers)
            if host:
                weight.host_rewrite_literal = host
    for item in chosen:
        for policy in context.destinations.hash_policies(item.destination, rule.namespace):
            if policy not in action.hash_policy:
                action.hash_policy.append(policy)
    return bool(action.hash_policy)


def _mirrors(action: rc.RouteAction, rule: delegates.Rule, context: RouteContext) -> None:
    spec = rule.rule
    wanted = [(m.destination, m.percentage.value or 0 if m.percentage else 100) for m in spec.mirrors]
    if spec.mirror is not None:
        if spec.mirror_percentage is not None:
            share = spec.mirror_percentage.value or 0
        else:
            old = spec.mirror_percent if spec.mirror_percent is not None else spec.mirror_percent_old
            share = 100 if old is None else old
        wanted.append((spec.mirror, share))
    for destination, share in wanted:
        if share:
            cluster = context.destinations.cluster(destination, rule.namespace, rule.origin)
            action.request_mirror_policies.append(route_actions.mirror(cluster, share))


def default_route(cluster: str, context: RouteContext, origins: Sequence[ResourceKey] = ()) -> rc.Route:
    """Everything to one service, when no VirtualService says otherwise."""
    route = rc.Route(name=DEFAULT_ROUTE, match=rc.RouteMatch(prefix="/"), metadata=metadata(origins))
    route.route.cluster = cluster
    route_actions.set_timeout(route.route, None)
    route.route.hash_policy.extend(context.destinations.cluster_hash_policies(cluster))
    retries = route_actions.default_retry(context.default_retry, hashed=bool(route.route.hash_policy))
    if retries is not None:
        route.route.retry_policy.CopyFrom(retries)
    return route


def virtual_host(
    name: str, domains: Sequence[str], routes: Sequence[rc.Route], origins: Sequence[ResourceKey] = ()
) -> rc.VirtualHost:
    """A virtual host that tells upstreams which attempt they see."""
    return rc.VirtualHost(
        name=name, domains=domains, routes=routes, include_request_attempt_count=True, metadata=metadata(origins)
    )


def route_configuration(
    name: str, hosts: Sequence[rc.VirtualHost], *, ignore_port: bool = False
) -> route_pb2.RouteConfiguration:
    """Virtual hosts under the name that a listener asks for. Unknown clusters never make Envoy refuse it."""
    return route_pb2.RouteConfiguration(
        name=name,
        virtual_hosts=hosts,
        validate_clusters=FALSE,
        ignore_port_in_host_matching=ignore_port,
        max_direct_response_body_size_bytes=uint32(MAX_DIRECT_RESPONSE),
    )
