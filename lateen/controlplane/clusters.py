"""Services as clusters: outbound by port and subset, inbound to the application, and the built-in ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from datetime import timedelta

from lateen.addresses import is_address
from lateen.controlplane import names
from lateen.controlplane.cluster_tls import Target, apply_tls
from lateen.controlplane.endpoints import load_assignment
from lateen.controlplane.protos import address, ads, duration, metadata, packed
from lateen.controlplane.proxy import Mode
from lateen.controlplane.scope import Scope
from lateen.controlplane.traffic_policies import (
    EffectivePolicy,
    apply_connection_pool,
    apply_load_balancer,
    apply_outlier_detection,
)
from lateen.controlplane.validation import validate
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.endpoint.v3 import endpoint_pb2
from lateen.envoyapi.envoy.extensions.clusters.dynamic_forward_proxy.v3 import cluster_pb2 as dfp_cluster
from lateen.envoyapi.envoy.extensions.common.dynamic_forward_proxy.v3 import dns_cache_pb2
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
    merged = scope.rule(service.hostname)
    subsets = merged.rule.spec.subsets if merged is not None else ()
    for port in service.ports:
        if port.protocol == Protocol.UDP:
            continue
        with scope.findings.guard(merged.rule.key if merged is not None else service.origin, "spec.trafficPolicy"):
            yield _service_cluster(scope, service, port, None)
        seen: set[str] = set()
        for index, subset in enumerate(subsets):
            if subset.name in seen or merged is None:
                continue
            seen.add(subset.name)
            with scope.findings.guard(merged.rule.key, f"spec.subsets[{index}]"):
                yield _service_cluster(scope, service, port, subset)


def _service_cluster(scope: Scope, service: Service, port: ServicePort, subset: dr.Subset | None) -> OutboundCluster:
    name = names.outbound_cluster(service.hostname, port.number, subset.name if subset else "")
    merged = scope.rule(service.hostname)
    policy = scope.policy(service.hostname, port.number, subset.name if subset else "")
    origins = (service.origin, *(merged.sources if merged is not None else ()))
    endpoints = _usable(scope, service, scope.view.endpoints(service, port, subset.labels if subset else {}))
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
        keepalive=scope.view.mesh.tcp_keepalive,
    )
    if scope.mode == Mode.NONE and service.external:
        _bind_anywhere(cluster)
    target = Target(service, port, subset.name if subset else "", policy)
    apply_tls(cluster, scope, target, endpoints)
    if merged is not None:
        validate(cluster)
    return OutboundCluster(cluster, None if inline else assignment, origins)


def _usable(scope: Scope, service: Service, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
    """Endpoints that need no DNS, unless the service is resolved by DNS: Envoy refuses the whole assignment for one name in it."""
    if service.resolution in {Resolution.DNS, Resolution.DNS_ROUND_ROBIN}:
        return endpoints
    result = [endpoint for endpoint in endpoints if _needs_no_dns(endpoint.address)]
    for endpoint in endpoints if len(result) < len(endpoints) else ():
        if not _needs_no_dns(endpoint.address):
            scope.findings.add(
                service.origin, f"endpoint {endpoint.address!r} is not an IP address, use resolution DNS"
            )
    return result


def _needs_no_dns(address: str) -> bool:
    return address.startswith("unix://") or is_address(address)


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
