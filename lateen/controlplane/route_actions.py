"""What a VirtualService rule does with a request, piece by piece: rewrite, redirect, direct response, retries, fault, cors, headers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta

from google.protobuf import any_pb2

from lateen.controlplane import matchers
from lateen.controlplane.findings import TranslationError
from lateen.controlplane.protos import boolean, duration, packed, percent, runtime_percent, uint32
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.extensions.filters.common.fault.v3 import fault_pb2 as common_fault
from lateen.envoyapi.envoy.extensions.filters.http.cors.v3 import cors_pb2
from lateen.envoyapi.envoy.extensions.filters.http.fault.v3 import fault_pb2
from lateen.envoyapi.envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from lateen.envoyapi.envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2
from lateen.envoyapi.envoy.type.matcher.v3 import regex_pb2
from lateen.mesh import virtualservice as vs

HeaderValueOption = base_pb2.HeaderValueOption
RegexRewrite = regex_pb2.RegexMatchAndSubstitute
CORS = "envoy.filters.http.cors"
FAULT = "envoy.filters.http.fault"
_DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
_HOST_HEADERS = frozenset({"host", ":authority"})
REDIRECT_CODES = {
    301: rc.RedirectAction.MOVED_PERMANENTLY,
    302: rc.RedirectAction.FOUND,
    303: rc.RedirectAction.SEE_OTHER,
    307: rc.RedirectAction.TEMPORARY_REDIRECT,
    308: rc.RedirectAction.PERMANENT_REDIRECT,
}
_GRPC_STATUS = {
    name: number
    for number, name in enumerate(
        [
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ]
    )
}


# Rewrite


def apply_rewrite(action: rc.RouteAction, rewrite: vs.HTTPRewrite, match: rc.RouteMatch) -> None:
    """Rewrite authority and path. A prefix match replaces the prefix, an exact or regex match the whole path."""
    if rewrite.authority:
        action.host_rewrite_literal = rewrite.authority
    if rewrite.uri_regex_rewrite is not None:
        pair = rewrite.uri_regex_rewrite
        action.regex_rewrite.CopyFrom(regex_rewrite(pair.match or "", pair.rewrite or ""))
    elif rewrite.uri:
        rewrite_path(action, rewrite.uri, match)


def rewrite_path(action: rc.RouteAction, uri: str, match: rc.RouteMatch) -> None:
    """Replace the matched prefix, or the whole path when there is no prefix."""
    prefix = match.prefix
    if not prefix:
        action.regex_rewrite.CopyFrom(regex_rewrite(r"^.*$", _literal(uri)))
    elif uri == "/" and not prefix.endswith("/"):  # `/foo` to `/` would make `//bar` of `/foo/bar`
        flags = "(?i)" if match.HasField("case_sensitive") and not match.case_sensitive.value else ""
        action.regex_rewrite.CopyFrom(regex_rewrite(f"{flags}^{re2_quote(prefix)}(/?)(.*)", r"/\2"))
    else:
        action.prefix_rewrite = uri


def regex_rewrite(pattern: str, substitution: str) -> regex_pb2.RegexMatchAndSubstitute:
    """An RE2 substitution on the path without its query."""
    groups = re.findall(r"\\([0-9])", substitution.replace("\\\\", ""))
    compiled_groups = _group_count(pattern)
    if any(int(number) > compiled_groups for number in groups):
        raise TranslationError(f"rewrite {substitution!r} names a group that {pattern!r} does not have")
    return regex_pb2.RegexMatchAndSubstitute(pattern=matchers.regex(pattern), substitution=substitution)


def _group_count(pattern: str) -> int:
    """Capturing groups of an RE2 pattern; other kinds of `(?` do not capture, except names."""
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "", pattern)
    return len(re.findall(r"\((?!\?)|\(\?P?<", bare))


def re2_quote(text: str) -> str:
    """Escape what RE2 would read as an operator."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)


def _literal(text: str) -> str:
    return text.replace("\\", "\\\\")


# Redirect and direct response


def redirect(spec: vs.HTTPRedirect, port: int) -> rc.RedirectAction:
    """A redirect made by the proxy; the query is kept."""
    code = spec.redirect_code or 301
    if code not in REDIRECT_CODES:
        raise TranslationError(f"redirectCode {code} is not one of {', '.join(map(str, REDIRECT_CODES))}")
    result = rc.RedirectAction(response_code=REDIRECT_CODES[code])
    if spec.authority:
        result.host_redirect = spec.authority
    if spec.scheme:
        result.scheme_redirect = spec.scheme
    uri = spec.uri or ""
    if spec.prefix_rewrite or uri.startswith("%PREFIX()%"):
        result.prefix_rewrite = spec.prefix_rewrite or uri.removeprefix("%PREFIX()%")
    elif uri:
        result.path_redirect = uri
    if spec.port:
        result.port_redirect = spec.port
    elif spec.derive_port == "FROM_REQUEST_PORT":  # routes are made for one port, so the request's is known
        result.port_redirect = port
    return result


def direct_response(spec: vs.HTTPDirectResponse) -> rc.DirectResponseAction:
    """An answer made by the proxy."""
    result = rc.DirectResponseAction(status=spec.status)
    body = spec.body
    if body is not None and body.bytes_ is not None:
        result.body.inline_bytes = body.bytes_
    elif body is not None and body.string is not None:
        result.body.inline_string = body.string
    return result


# Retries


def default_retry(mesh_default: vs.HTTPRetry | None, *, hashed: bool) -> rc.RetryPolicy | None:
    """What applies when a rule has no `retries`: the mesh's policy, else Istio's own."""
    return retry_policy(mesh_default, hashed=hashed) if mesh_default is not None else _base_retry(hashed=hashed)


def _base_retry(*, hashed: bool) -> rc.RetryPolicy:
    policy = rc.RetryPolicy(retry_on=_DEFAULT_RETRY_ON, num_retries=uint32(2), host_selection_retry_max_attempts=5)
    if not hashed:  # a consistent hash would pick the same host again and again
        _avoid_previous_hosts(policy)
    return policy


def _avoid_previous_hosts(policy: rc.RetryPolicy) -> None:
    predicate = policy.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
    predicate.typed_config.CopyFrom(packed(previous_hosts_pb2.PreviousHostsPredicate()))


def retry_policy(spec: vs.HTTPRetry, *, hashed: bool) -> rc.RetryPolicy | None:
    """An explicit policy; no or negative attempts switch retries off."""
    if spec.attempts is None or spec.attempts <= 0:
        return None
    policy = _base_retry(hashed=hashed or spec.retry_ignore_previous_hosts is False)
    policy.num_retries.value = spec.attempts
    if spec.retry_on:
        policy.retry_on, codes = _retry_on(spec.retry_on)
        policy.retriable_status_codes.extend(codes)
    if spec.per_try_timeout is not None:
        policy.per_try_timeout.CopyFrom(duration(spec.per_try_timeout))
    if spec.backoff is not None:
        policy.retry_back_off.base_interval.CopyFrom(duration(spec.backoff))
    if spec.retry_remote_localities:
        policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
        config = previous_priorities_config_pb2.PreviousPrioritiesConfig(update_frequency=2)
        policy.retry_priority.typed_config.CopyFrom(packed(config))
    return policy


def _retry_on(text: str) -> tuple[str, list[int]]:
    """Envoy's policies, and bare numbers as retriable status codes."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    codes = [int(word) for word in words if word.isdigit()]
    policies = [word for word in words if not word.isdigit()]
    if codes and "retriable-status-codes" not in policies:
        policies.append("retriable-status-codes")
    return ",".join(policies), codes


# Fault, cors, mirrors, timeouts


def fault(spec: vs.HTTPFaultInjection) -> any_pb2.Any | None:
    """Delay and abort, independently of one another; without a percentage nothing happens."""
    config = fault_pb2.HTTPFault()
    if spec.delay is not None and spec.delay.fixed_delay is not None:
        share = spec.delay.percentage.value if spec.delay.percentage is not None else spec.delay.percent
        config.delay.CopyFrom(
            common_fault.FaultDelay(fixed_delay=duration(spec.delay.fixed_delay), percentage=percent(share or 0))
        )
    if spec.abort is not None:
        config.abort.percentage.CopyFrom(percent(_share(spec.abort.percentage)))
        if spec.abort.grpc_status:
            if spec.abort.grpc_status not in _GRPC_STATUS:
                raise TranslationError(f"grpcStatus {spec.abort.grpc_status!r} is not a gRPC status name")
            config.abort.grpc_status = _GRPC_STATUS[spec.abort.grpc_status]
        elif spec.abort.http_status:
            config.abort.http_status = spec.abort.http_status
        else:
            config.ClearField("abort")
    return packed(config) if config.ByteSize() else None


def _share(value: vs.Percent | None) -> float:
    return value.value or 0 if value is not None else 0


def cors(spec: vs.CorsPolicy) -> any_pb2.Any:
    """Preflights are answered by the proxy; one that does not match is forwarded unless told to ignore it."""
    origins = [matchers.string(origin) for origin in spec.allow_origins]
    config = cors_pb2.CorsPolicy(
        allow_origin_string_match=[o for o in origins if o is not None]
        + [matchers.exact(o) for o in spec.allow_origin],
        allow_methods=",".join(spec.allow_methods),
        allow_headers=",".join(spec.allow_headers),
        expose_headers=",".join(spec.expose_headers),
        forward_not_matching_preflights=boolean(value=spec.unmatched_preflights != "IGNORE"),
        filter_enabled=runtime_percent(100),
    )
    if spec.max_age is not None:
        config.max_age = str(int(spec.max_age.total_seconds()))
    if spec.allow_credentials is not None:
        config.allow_credentials.value = spec.allow_credentials
    return packed(config)


def mirror(cluster: str, share: float) -> rc.RouteAction.RequestMirrorPolicy:
    """A copy of the request, its response thrown away, its host unchanged."""
    return rc.RouteAction.RequestMirrorPolicy(
        cluster=cluster, runtime_fraction=runtime_percent(share), disable_shadow_host_suffix_append=True
    )


def set_timeout(action: rc.RouteAction, timeout: timedelta | None) -> None:
    """Istio's default is no timeout (Envoy's is 15 s). Of a timeout and a gRPC client's own deadline the shorter one holds.

    Beside a timeout this takes `max_grpc_timeout`, as in Istio, deprecated as it is: with its successor, `max_stream_duration`, Envoy
    ignores `timeout` for every request.
    """
    action.timeout.CopyFrom(duration(timeout or timedelta()))
    if timeout:
        action.max_grpc_timeout.CopyFrom(action.timeout)
        action.ClearField("max_stream_duration")
    else:
        action.max_stream_duration.grpc_timeout_header_max.CopyFrom(duration(timedelta()))


# Headers


def header_value(name: str, value: str, *, append: bool) -> base_pb2.HeaderValueOption:
    """One header to add or overwrite."""
    options = base_pb2.HeaderValueOption
    return options(
        header=base_pb2.HeaderValue(key=name, value=value),
        append_action=options.APPEND_IF_EXISTS_OR_ADD if append else options.OVERWRITE_IF_EXISTS_OR_ADD,
        keep_empty_value=True,
    )


def apply_headers(
    target: rc.Route | rc.WeightedCluster.ClusterWeight, headers: vs.Headers | None, *, keep_host: bool = False
) -> str:
    """Header operations of a rule or of one destination; returns the Host that `request.set` asks for, else the empty string."""
    host = ""
    if headers is None:
        return host
    if headers.request is not None:
        for name, value in sorted(headers.request.set.items()):
            if name.lower() in _HOST_HEADERS and not keep_host:
                host = value
            else:
                target.request_headers_to_add.append(header_value(name, value, append=False))
        for name, value in sorted(headers.request.add.items()):
            target.request_headers_to_add.append(header_value(name, value, append=True))
        target.request_headers_to_remove.extend(_removable(headers.request.remove))
    if headers.response is not None:
        for name, value in sorted(headers.response.set.items()):
            target.response_headers_to_add.append(header_value(name, value, append=False))
        for name, value in sorted(headers.response.add.items()):
            target.response_headers_to_add.append(header_value(name, value, append=True))
        target.response_headers_to_remove.extend(_removable(headers.response.remove))
    return host


def _removable(names: Iterable[str]) -> list[str]:
    """Envoy refuses to remove Host and pseudo headers."""
    for name in names:
        if name.startswith(":") or name.lower() == "host":
            raise TranslationError(f"header {name!r} cannot be removed")
    return list(names)
