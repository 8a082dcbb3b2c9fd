"""Services as clusters: outbound by port and subset, inbound to the application, and the built-in ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from datetime import timedelta

from lateen.controlplane import names, tls_contexts
from lateen.controlplane.endpoints import MTLS_MATCH, load_assignment
from lateen.controlplane.protos import address, ads, duration, metadata, packed, struct
from lateen.controlplane.proxy import Mode
from lateen.controlplane.scope import Scope
from lateen.controlplane.traffic_policies import (
    HTTP_OPTIONS,
    EffectivePolicy,
    apply_connection_pool,
    apply_load_balancer,
    apply_outlier_detection,
    speaks_h2,
)
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.core.v3 import base_pb2, proxy_protocol_pb2
from lateen.envoyapi.envoy.config.endpoint.v3 import endpoint_pb2
from lateen.envoyapi.envoy.extensions.clusters.dynamic_forward_proxy.v3 import cluster_pb2 as dfp_cluster
from lateen.envoyapi.envoy.extensions.common.dynamic_forward_proxy.v3 import dns_cache_pb2
from lateen.envoyapi.envoy.extensions.transport_sockets.proxy_protocol.v3 import upstream_proxy_protocol_pb2
from lateen.envoyapi.envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_options
from lateen.mesh import destinationrule as dr
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.services import Endpoint, Protocol, Resolution, Service, ServicePort

CONNECT_TIMEOUT = timedelta(seconds=10)
_DNS_REFRESH = timedelta(seconds=60)
_MAX_DYNAMIC_HOSTS = 1024
_PASSTHROUGH_SOURCE = "127.0.0.6"
_Cluster = cluster_pb2.Cluster


@dataclasses.dataclass(frozen=True, slots=True)
class OutboundCluster:
    """A cluster with what it was made from; `endpoints` is None when they are part of the cluster."""

    cluster: cluster_pb2.Cluster
    endpoints: endpoint_pb2.ClusterLoadAssignment | None
    origins: tuple[ResourceKey, ...]


def service_clusters(scope: Scope, service: Service) -> Iterator[OutboundCluster]:
    """One cluster a port and subset."""
    rule = scope.rule(service.hostname)
    subsets = rule.spec.subsets if rule is not None else ()
    for port in service.ports:
        if port.protocol == Protocol.UDP:
            continue
        yield _service_cluster(scope, service, port, None)
        seen: set[str] = set()
        for index, subset in enumerate(subsets):
            if subset.name in seen or rule is None:
                continue
            seen.add(subset.name)
            with scope.findings.guard(rule.key, f"spec.subsets[{index}]"):
                yield _service_cluster(scope, service, port, subset)


def _service_cluster(scope: Scope, service: Service, port: ServicePort, subset: dr.Subset | None) -> OutboundCluster:
    name = names.outbound_cluster(service.hostname, port.number, subset.name if subset else "")
    rule = scope.rule(service.hostname)
    policy = scope.policy(service.hostname, port.number, subset.name if subset else "")
    origins = (service.origin, rule.key) if rule is not None else (service.origin,)
    endpoints = scope.view.endpoints(service, port, subset.labels if subset else {})
    cluster = _Cluster(name=name, connect_timeout=duration(scope.view.mesh.connect_timeout or CONNECT_TIMEOUT))
    cluster.metadata.CopyFrom(
        metadata(origins, istio={"host": service.hostname, "name": service.name, "namespace": service.namespace})
    )
    setting = _locality_setting(scope, policy)
    assignment = load_assignment(
        name,
        endpoints,
        own_locality=scope.locality,
        client_labels=scope.labels,
        setting=setting,
        ejecting=policy.outlier_detection is not None,
    )
    apply_load_balancer(cluster, policy.load_balancer)
    inline = _apply_resolution(cluster, scope, service, policy, assignment)
    if not inline and setting is not None and setting.distribute and setting.enabled is not False:
        cluster.common_lb_config.locality_weighted_lb_config.SetInParent()
    apply_outlier_detection(cluster, policy.outlier_detection)
    apply_connection_pool(
        cluster,
        policy.connection_pool,
        port.protocol,
        h2_by_default=scope.view.mesh.h2_upgrade_policy == "UPGRADE",
        retry_budget=policy.retry_budget,
    )
    if scope.mode == Mode.NONE and service.external:
        _bind_anywhere(cluster)
    sni = names.outbound_sni(service.hostname, port.number, subset.name if subset else "")
    _apply_tls(cluster, scope, service, port, policy, endpoints, sni)
    return OutboundCluster(cluster, None if inline else assignment, origins)


def _locality_setting(scope: Scope, policy: EffectivePolicy) -> dr.LocalityLoadBalancerSetting | None:
    """The rule's setting replaces the mesh's entirely."""
    balancer = policy.load_balancer
    if balancer is not None and balancer.locality_lb_setting is not None:
        return balancer.locality_lb_setting
    return scope.view.mesh.locality_lb_setting


def _apply_resolution(
    cluster: _Cluster,
    scope: Scope,
    service: Service,
    policy: EffectivePolicy,
    assignment: endpoint_pb2.ClusterLoadAssignment,
) -> bool:
    """How endpoints are found; true when they are part of the cluster (or there are none to push)."""
    wants_passthrough = policy.load_balancer is not None and policy.load_balancer.simple == dr.SimpleLB.PASSTHROUGH
    if service.resolution == Resolution.DYNAMIC_DNS:
        _dynamic_dns(cluster)
        return True
    if service.resolution == Resolution.PASSTHROUGH or wants_passthrough:
        if scope.captures:
            _original_dst(cluster)
            return True
        if not assignment.endpoints:  # nothing is captured, so there is no original destination
            _dynamic_dns(cluster)
            return True
    if service.resolution in {Resolution.DNS, Resolution.DNS_ROUND_ROBIN}:
        cluster.type = _Cluster.STRICT_DNS if service.resolution == Resolution.DNS else _Cluster.LOGICAL_DNS
        if service.resolution == Resolution.DNS_ROUND_ROBIN:
            cluster.lb_policy = _Cluster.ROUND_ROBIN
        cluster.dns_lookup_family = _Cluster.V4_PREFERRED
        cluster.dns_refresh_rate.CopyFrom(duration(scope.view.mesh.dns_refresh_rate or _DNS_REFRESH))
        cluster.respect_dns_ttl = True
        cluster.load_assignment.CopyFrom(assignment)
        return True
    cluster.type = _Cluster.EDS
    cluster.eds_cluster_config.eds_config.CopyFrom(ads())
    return False


def _original_dst(cluster: _Cluster) -> None:
    cluster.type = _Cluster.ORIGINAL_DST
    _clear_balancing(cluster)


def _clear_balancing(cluster: _Cluster) -> None:
    cluster.lb_policy = _Cluster.CLUSTER_PROVIDED
    for field in ("ring_hash_lb_config", "maglev_lb_config", "least_request_lb_config", "round_robin_lb_config"):
        cluster.ClearField(field)


def dns_cache() -> dns_cache_pb2.DnsCacheConfig:
    """The one DNS cache that dynamic clusters and the filter before them share."""
    return dns_cache_pb2.DnsCacheConfig(
        name="lateen",
        dns_lookup_family=_Cluster.V4_PREFERRED,
        max_hosts={"value": _MAX_DYNAMIC_HOSTS},
    )


def _dynamic_dns(cluster: _Cluster) -> None:
    """Resolve the request's own host. In plaintext there is no name to verify, which Envoy wants to be told."""
    config = dfp_cluster.ClusterConfig(dns_cache_config=dns_cache(), allow_insecure_cluster_options=True)
    cluster.cluster_type.name = "envoy.clusters.dynamic_forward_proxy"
    cluster.cluster_type.typed_config.CopyFrom(packed(config))
    _clear_balancing(cluster)


def _bind_anywhere(cluster: _Cluster) -> None:
    """The bootstrap binds upstream connections to the replica's loopback address, from which the outside cannot be reached."""
    cluster.upstream_bind_config.source_address.CopyFrom(address("0.0.0.0", 0).socket_address)  # noqa: S104 a source


def _apply_tls(
    cluster: _Cluster,
    scope: Scope,
    service: Service,
    port: ServicePort,
    policy: EffectivePolicy,
    endpoints: Sequence[Endpoint],
    sni: str,
) -> None:
    """Automatic mutual TLS, unless the DestinationRule says something about TLS."""
    view, http = scope.view, policy.connection_pool.http if policy.connection_pool is not None else None
    h2 = speaks_h2(
        port.protocol, http.h2_upgrade_policy if http else None, h2_by_default=view.mesh.h2_upgrade_policy == "UPGRADE"
    )
    client_protocol = bool(http and http.use_client_protocol) or port.protocol.is_sniffed
    alpn = tls_contexts.mesh_alpn(h2=h2, http=port.protocol.is_http, sniffed=client_protocol)
    known = {e.service_account_identity for e in endpoints if e.service_account_identity}
    aliases = view.mesh.trust_domain_aliases
    sans = tls_contexts.identities(known | set(service.subject_alt_names), view.trust_domain, aliases)
    settings = policy.tls
    if settings is None:
        if view.mesh.enable_auto_mtls is not False and not service.external:
            _auto_mtls(cluster, tls_contexts.socket(tls_contexts.upstream_mesh(sans, sni, alpn)))
    elif settings.mode == dr.TLSmode.ISTIO_MUTUAL:
        context = tls_contexts.upstream_mesh(settings.subject_alt_names or sans, settings.sni or sni, alpn)
        cluster.transport_socket.CopyFrom(tls_contexts.socket(context))
    elif settings.mode in {dr.TLSmode.SIMPLE, dr.TLSmode.MUTUAL}:
        context = tls_contexts.upstream_origination(settings, service.subject_alt_names, scope.namespace, h2=h2)
        cluster.transport_socket.CopyFrom(tls_contexts.socket(context))
        _auto_sni(cluster, settings, service)
    if policy.proxy_protocol is not None:
        _proxy_protocol(cluster, policy.proxy_protocol)


def _auto_mtls(cluster: _Cluster, mutual: base_pb2.TransportSocket) -> None:
    """Mutual TLS to endpoints whose metadata says that they speak it, plaintext to the others."""
    cluster.transport_socket_matches.add(name="tlsMode-istio", match=struct(dict(MTLS_MATCH)), transport_socket=mutual)
    cluster.transport_socket_matches.add(
        name="tlsMode-disabled", match=struct({}), transport_socket=tls_contexts.plaintext()
    )


def _auto_sni(cluster: _Cluster, settings: dr.ClientTLSSettings, service: Service) -> None:
    """Without `sni`, the request's host is the SNI; without SANs, it is what the certificate must name."""
    if settings.sni or HTTP_OPTIONS not in cluster.typed_extension_protocol_options:
        return
    options = http_options.HttpProtocolOptions()
    cluster.typed_extension_protocol_options[HTTP_OPTIONS].Unpack(options)
    options.upstream_http_protocol_options.auto_sni = True
    checked = not settings.insecure_skip_verify
    if checked and not settings.subject_alt_names and not service.subject_alt_names:
        options.upstream_http_protocol_options.auto_san_validation = True
    cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(packed(options))


def _proxy_protocol(cluster: _Cluster, settings: dr.ProxyProtocol) -> None:
    """PROXY protocol inside of the transport sockets that the cluster has."""
    version = proxy_protocol_pb2.ProxyProtocolConfig.V1
    if settings.version == dr.ProxyProtocolVersion.V2:
        version = proxy_protocol_pb2.ProxyProtocolConfig.V2

    def wrapped(inner: base_pb2.TransportSocket) -> base_pb2.TransportSocket:
        outer = upstream_proxy_protocol_pb2.ProxyProtocolUpstreamTransport(
            config=proxy_protocol_pb2.ProxyProtocolConfig(version=version), transport_socket=inner
        )
        return base_pb2.TransportSocket(
            name="envoy.transport_sockets.upstream_proxy_protocol", typed_config=packed(outer)
        )

    for match in cluster.transport_socket_matches:
        match.transport_socket.CopyFrom(wrapped(match.transport_socket))
    if not cluster.transport_socket_matches:
        inner = cluster.transport_socket if cluster.HasField("transport_socket") else tls_contexts.plaintext()
        cluster.transport_socket.CopyFrom(wrapped(inner))


# Built-in clusters


def empty_cluster(name: str, origins: Sequence[ResourceKey] = ()) -> cluster_pb2.Cluster:
    """No endpoints: what a route to an unknown service or subset meets (503, no healthy upstream)."""
    return _Cluster(
        name=name,
        type=_Cluster.STATIC,
        connect_timeout=duration(CONNECT_TIMEOUT),
        metadata=metadata(origins),
        load_assignment=endpoint_pb2.ClusterLoadAssignment(cluster_name=name),
    )


def passthrough_cluster(mode: Mode) -> cluster_pb2.Cluster:
    """Where traffic to unknown hosts goes: the original destination, or, where nothing is captured, the host's DNS name."""
    cluster = _Cluster(name=names.PASSTHROUGH, connect_timeout=duration(CONNECT_TIMEOUT))
    if mode == Mode.REDIRECT:
        _original_dst(cluster)
        apply_connection_pool(cluster, None, Protocol.UNSUPPORTED)
    else:
        _dynamic_dns(cluster)
        _bind_anywhere(cluster)
        apply_connection_pool(cluster, None, Protocol.HTTP)
    return cluster


def inbound_cluster(
    port: int, app_address: str, protocol: Protocol, policy: EffectivePolicy, origins: Sequence[ResourceKey]
) -> cluster_pb2.Cluster:
    """The application beside the proxy, under the connection limits of the service's DestinationRule."""
    name = names.inbound_cluster(port)
    cluster = _Cluster(
        name=name,
        type=_Cluster.STATIC,
        connect_timeout=duration(CONNECT_TIMEOUT),
        metadata=metadata(origins),
        lb_policy=_Cluster.ROUND_ROBIN,
        load_assignment=load_assignment(name, [Endpoint(app_address, port)]),
    )
    apply_connection_pool(cluster, policy.connection_pool, protocol)
    return cluster


def inbound_passthrough_cluster() -> cluster_pb2.Cluster:
    """Captured traffic to a port that no service names."""
    cluster = _Cluster(name=names.INBOUND_PASSTHROUGH, connect_timeout=duration(CONNECT_TIMEOUT))
    _original_dst(cluster)
    cluster.upstream_bind_config.source_address.CopyFrom(address(_PASSTHROUGH_SOURCE, 0).socket_address)
    return cluster
