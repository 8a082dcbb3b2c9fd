"""Endpoints of clusters: addresses, weights, priorities by locality, and whether a peer speaks mutual TLS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lateen.controlplane import locality
from lateen.controlplane.protos import address, struct, uint32
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from lateen.mesh.destinationrule import LocalityLoadBalancerSetting
from lateen.mesh.services import Endpoint

MTLS_MATCH = {"tlsMode": "istio"}
_Group = tuple[int, str]


def load_assignment(
    cluster: str,
    endpoints: Sequence[Endpoint],
    *,
    own_locality: str = "",
    client_labels: Mapping[str, str] | None = None,
    setting: LocalityLoadBalancerSetting | None = None,
    ejecting: bool = False,
) -> endpoint_pb2.ClusterLoadAssignment:
    """The endpoints of one cluster; failover only works where failing endpoints are ejected, as in Istio."""
    ranks = _priorities(endpoints, own_locality, client_labels or {}, setting, ejecting=ejecting)
    weights = _distribution(endpoints, own_locality, setting)
    groups: dict[_Group, list[Endpoint]] = {}
    for endpoint, rank in zip(endpoints, ranks, strict=True):
        if weights is None or endpoint.locality in weights:
            groups.setdefault((rank if weights is None else 0, endpoint.locality), []).append(endpoint)
    result = endpoint_pb2.ClusterLoadAssignment(cluster_name=cluster)
    for (rank, name), members in sorted(groups.items()):
        total = sum(max(e.weight, 1) for e in members) if weights is None else weights[name]
        group = result.endpoints.add(priority=rank, load_balancing_weight=uint32(total))
        if name:
            group.locality.CopyFrom(locality.message(name))
        group.lb_endpoints.extend(_endpoint(e) for e in sorted(members, key=lambda e: (e.address, e.port)))
    return result


def _active(setting: LocalityLoadBalancerSetting | None) -> LocalityLoadBalancerSetting | None:
    return setting if setting is not None and setting.enabled is not False else None


def _priorities(
    endpoints: Sequence[Endpoint],
    own: str,
    labels: Mapping[str, str],
    setting: LocalityLoadBalancerSetting | None,
    *,
    ejecting: bool,
) -> list[int]:
    active = _active(setting)
    if active is None or not ejecting:
        return [0] * len(endpoints)
    if active.failover_priority:
        raw = {str(i): locality.label_rank(active.failover_priority, labels, own, e) for i, e in enumerate(endpoints)}
        ranks = locality.without_gaps(raw)
        return [ranks[str(i)] for i in range(len(endpoints))]
    if not own:
        return [0] * len(endpoints)
    by_name = locality.by_failover(own, [e.locality for e in endpoints], active.failover)
    return [by_name[e.locality] for e in endpoints]


def _distribution(
    endpoints: Sequence[Endpoint], own: str, setting: LocalityLoadBalancerSetting | None
) -> dict[str, int] | None:
    active = _active(setting)
    if active is None or not active.distribute or not own:
        return None
    totals: dict[str, int] = {}
    for endpoint in endpoints:
        totals[endpoint.locality] = totals.get(endpoint.locality, 0) + max(endpoint.weight, 1)
    return locality.by_distribute(own, totals, active.distribute)


def _endpoint(endpoint: Endpoint) -> endpoint_components_pb2.LbEndpoint:
    result = endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=address(endpoint.address, endpoint.port)),
    )
    if endpoint.weight != 1:
        result.load_balancing_weight.value = max(endpoint.weight, 1)
    details = _metadata(endpoint)
    if details.filter_metadata:
        result.metadata.CopyFrom(details)
    return result


def _metadata(endpoint: Endpoint) -> base_pb2.Metadata:
    """Who is behind an address, for transport sockets and telemetry: a client needs no exchange with its peer."""
    result = base_pb2.Metadata()
    if endpoint.tls_mode == "istio":
        result.filter_metadata["envoy.transport_socket_match"].CopyFrom(struct(dict(MTLS_MATCH)))
    workload = endpoint.workload
    if workload is not None:
        labels = workload.labels
        values: dict[str, object] = {
            "workload_name": workload.workload_name or workload.name,
            "workload_namespace": workload.namespace,
            "app": labels.get("app", ""),
            "version": labels.get("version", ""),
        }
        result.filter_metadata["istio"].CopyFrom(struct({k: v for k, v in values.items() if v}))
    return result
