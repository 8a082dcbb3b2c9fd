"""CUSTOM policies: external authorizers (`extensionProviders`), each asked about the requests that its rules choose. Pure.

For every provider two filters: an rbac that only notes in dynamic metadata whether a rule matches, and an ext_authz that is enabled by that
note. A provider that cannot be asked (unknown, of another kind, without a service) denies what its rules choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from lateen.controlplane import names
from lateen.controlplane.findings import TranslationError
from lateen.controlplane.matchers import regex
from lateen.controlplane.native_rbac import DENY, Step, rules_of
from lateen.controlplane.protos import duration
from lateen.envoyapi.envoy.config.core.v3 import base_pb2, config_source_pb2, grpc_service_pb2, http_uri_pb2
from lateen.envoyapi.envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2 as http_authz
from lateen.envoyapi.envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as network_authz
from lateen.envoyapi.envoy.type.matcher.v3 import metadata_pb2, string_pb2
from lateen.envoyapi.envoy.type.v3 import http_status_pb2
from lateen.mesh.meshconfig import EnvoyExtAuthzGrpc, EnvoyExtAuthzHttp, ExtAuthzRequestBody
from lateen.mesh.services import Service
from lateen.mesh.view import MeshView
from lateen.policy.rules import CompiledRule

_DEFAULT_TIMEOUT: Final = timedelta(seconds=600)
_FORBIDDEN: Final = "403"
_LEAST_BODY: Final = 1


@dataclass(frozen=True, slots=True)
class Asking:
    """One provider of a workload: the rules that choose, and whom to ask (None: deny, for the reason given)."""

    provider: str
    choose: Step
    http: http_authz.ExtAuthz | None
    network: network_authz.ExtAuthz | None
    problem: str = ""


def askings(
    view: MeshView, rules: Iterable[CompiledRule], trust_domains: Sequence[str], *, http: bool
) -> tuple[Asking, ...]:
    """The providers that a workload's CUSTOM rules name, in the order of the rules."""
    by_provider: dict[str, list[CompiledRule]] = {}
    for rule in rules:
        by_provider.setdefault(rule.provider, []).append(rule)
    return tuple(_asking(view, name, some, trust_domains, http=http) for name, some in by_provider.items())


def provider_services(view: MeshView) -> Iterator[tuple[Service, int]]:
    """The services of all authorizers of the mesh, each with its port."""
    for provider in view.mesh.extension_providers:
        config = provider.envoy_ext_authz_grpc or provider.envoy_ext_authz_http
        if config is not None and (service := _service(view, config.service)) is not None:
            yield service, config.port


def provider_problem(view: MeshView, name: str, *, http: bool = True) -> str:
    """Why a provider cannot be asked; nothing when it can."""
    provider = view.mesh.provider(name) if name else None
    if provider is None:
        return f'the mesh has no extension provider "{name}"' if name else "a CUSTOM policy needs a provider"
    config = provider.envoy_ext_authz_grpc or provider.envoy_ext_authz_http
    if config is None:
        return f'extension provider "{name}" is no external authorizer'
    service = _service(view, config.service)
    if service is None:
        return f'extension provider "{name}": there is no service "{config.service}"'
    if all(port.number != config.port for port in service.ports):
        return f'extension provider "{name}": service "{service.hostname}" has no port {config.port}'
    if (config.status_on_error or _FORBIDDEN) not in _STATUSES:
        return (
            f'extension provider "{name}": statusOnError "{config.status_on_error}" is no status that Envoy can answer'
        )
    if isinstance(config, EnvoyExtAuthzHttp) and not (config.path_prefix or "/").startswith("/"):
        return f'extension provider "{name}": pathPrefix "{config.path_prefix}" does not begin with a slash'
    if not http and provider.envoy_ext_authz_grpc is None:
        return f'extension provider "{name}" speaks HTTP and cannot be asked about a TCP connection'
    return ""


_STATUSES: Final = frozenset(str(number) for number in http_status_pb2.StatusCode.values() if number)


def _service(view: MeshView, name: str) -> Service | None:
    """`[namespace/]host`; without a namespace the first service of that host."""
    namespace, slash, host = name.rpartition("/")
    found = [s for s in view.services_named(host) if not slash or s.namespace == namespace]
    return found[0] if found else None


def _asking(
    view: MeshView, name: str, rules: Sequence[CompiledRule], trust_domains: Sequence[str], *, http: bool
) -> Asking:
    problem = provider_problem(view, name, http=http)
    chosen = rules_of(DENY, rules, trust_domains, http=http)
    if problem:
        return Asking(name, Step(f"custom.{name}", chosen), None, None, problem)
    prefix = f"istio_ext_authz_{name}_"
    choose = Step(f"custom.{name}", None, chosen, prefix)
    return Asking(
        name,
        choose,
        http=_http(view, name, prefix) if http else None,
        network=None if http else _network(view, name, prefix),
    )


def _enabled(filter_name: str, prefix: str) -> metadata_pb2.MetadataMatcher:
    result = metadata_pb2.MetadataMatcher(filter=filter_name)
    result.path.add(key=f"{prefix}shadow_engine_result")
    result.value.string_match.exact = "denied"
    return result


def _cluster(view: MeshView, config: EnvoyExtAuthzGrpc | EnvoyExtAuthzHttp) -> tuple[str, str]:
    """The host asked, and the cluster behind it."""
    service = _service(view, config.service)
    if service is None:
        raise TranslationError(f'there is no service "{config.service}"')
    return service.hostname, names.outbound_cluster(service.hostname, config.port)


def _grpc(view: MeshView, config: EnvoyExtAuthzGrpc) -> grpc_service_pb2.GrpcService:
    host, cluster = _cluster(view, config)
    return grpc_service_pb2.GrpcService(
        envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=cluster, authority=host),
        timeout=duration(config.timeout or _DEFAULT_TIMEOUT),
    )


def _http(view: MeshView, name: str, prefix: str) -> http_authz.ExtAuthz:
    provider = view.mesh.provider(name)
    result = http_authz.ExtAuthz(
        transport_api_version=config_source_pb2.V3,
        filter_enabled_metadata=_enabled("envoy.filters.http.rbac", prefix),
        stat_prefix=f"custom.{name}",
        include_peer_certificate=True,
        include_tls_session=True,
    )
    if provider is not None and provider.envoy_ext_authz_grpc is not None:
        grpc = provider.envoy_ext_authz_grpc
        result.grpc_service.CopyFrom(_grpc(view, grpc))
        _common(result, grpc)
    elif provider is not None and provider.envoy_ext_authz_http is not None:
        http = provider.envoy_ext_authz_http
        result.http_service.CopyFrom(_http_service(view, http))
        shown = http.include_request_headers_in_check or http.include_headers_in_check
        if shown:  # Envoy refuses a list that is there and empty
            result.allowed_headers.CopyFrom(_patterns(shown))
        _common(result, http)
    return result


def _common(result: http_authz.ExtAuthz, config: EnvoyExtAuthzGrpc | EnvoyExtAuthzHttp) -> None:
    result.failure_mode_allow = config.fail_open
    result.clear_route_cache = config.clear_route_cache
    result.status_on_error.code = int(config.status_on_error or _FORBIDDEN)  # type: ignore[assignment]  # an int at run time
    body = config.include_request_body_in_check
    if body is not None:
        result.with_request_body.CopyFrom(_body(body))


def _body(body: ExtAuthzRequestBody) -> http_authz.BufferSettings:
    return http_authz.BufferSettings(
        max_request_bytes=max(body.max_request_bytes or 0, _LEAST_BODY),
        allow_partial_message=body.allow_partial_message,
        pack_as_bytes=body.pack_as_bytes,
    )


def _http_service(view: MeshView, config: EnvoyExtAuthzHttp) -> http_authz.HttpService:
    host, cluster = _cluster(view, config)
    result = http_authz.HttpService(
        server_uri=http_uri_pb2.HttpUri(
            uri=f"http://{host}:{config.port}", cluster=cluster, timeout=duration(config.timeout or _DEFAULT_TIMEOUT)
        ),
        path_prefix=config.path_prefix or "",
    )
    for key, value in sorted(config.include_additional_headers_in_check.items()):
        result.authorization_request.headers_to_add.append(base_pb2.HeaderValue(key=key, value=value))
    answer = result.authorization_response
    if config.headers_to_upstream_on_allow:
        answer.allowed_upstream_headers.CopyFrom(_patterns(config.headers_to_upstream_on_allow))
    if config.headers_to_downstream_on_deny:
        answer.allowed_client_headers.CopyFrom(_patterns(config.headers_to_downstream_on_deny))
    if config.headers_to_downstream_on_allow:
        answer.allowed_client_headers_on_success.CopyFrom(_patterns(config.headers_to_downstream_on_allow))
    return result


def _patterns(names_: Sequence[str]) -> string_pb2.ListStringMatcher:
    return string_pb2.ListStringMatcher(patterns=map(_pattern, names_))


def _pattern(name: str) -> string_pb2.StringMatcher:
    """A header name: exact, `abc*`, `*abc`, or `*` for all; without regard to case."""
    if name == "*":
        return string_pb2.StringMatcher(safe_regex=regex(".*"))
    if name.startswith("*"):
        return string_pb2.StringMatcher(suffix=name[1:], ignore_case=True)
    if name.endswith("*"):
        return string_pb2.StringMatcher(prefix=name[:-1], ignore_case=True)
    return string_pb2.StringMatcher(exact=name, ignore_case=True)


def _network(view: MeshView, name: str, prefix: str) -> network_authz.ExtAuthz:
    provider = view.mesh.provider(name)
    result = network_authz.ExtAuthz(
        stat_prefix=f"custom.{name}",
        transport_api_version=config_source_pb2.V3,
        filter_enabled_metadata=_enabled("envoy.filters.network.rbac", prefix),
        include_peer_certificate=True,
        include_tls_session=True,
    )
    if provider is not None and provider.envoy_ext_authz_grpc is not None:
        result.grpc_service.CopyFrom(_grpc(view, provider.envoy_ext_authz_grpc))
        result.failure_mode_allow = provider.envoy_ext_authz_grpc.fail_open
    return result
