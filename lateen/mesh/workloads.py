"""Workloads: one a replica, from WorkloadEntries, and from Pods that have an address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lateen.mesh.kubernetes import Pod
from lateen.mesh.workload import Endpoint, WorkloadEntry

WORKLOAD_NAME_LABEL = "service.istio.io/workload-name"
TLS_MODE_LABEL = "security.istio.io/tlsMode"
LOCALITY_LABEL = "istio-locality"
NETWORK_LABEL = "topology.istio.io/network"
GATEWAY_NAME_LABEL = "gateway.networking.k8s.io/gateway-name"
MUTUAL_TLS = "istio"
PLAINTEXT = "disabled"


@dataclass(frozen=True)
class Workload:
    """One replica. `key` (`namespace/workload name`) names its policies: it is the `x-lateen-target` of its proxy.

    Replicas of one workload name share the key while they share labels and service account; a replica that differs from the
    first of its siblings has a key of its own, `namespace/name`.
    """

    name: str
    namespace: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    service_account: str = "default"
    ports: Mapping[str, int] = field(default_factory=dict)
    workload_name: str = ""
    key: str = ""
    locality: str = ""
    network: str = ""
    weight: int = 1
    tls_mode: str = MUTUAL_TLS
    from_pod: bool = False
    healthy: bool = True

    @property
    def is_gateway(self) -> bool:
        """Whether this is a replica of a Gateway API gateway."""
        return GATEWAY_NAME_LABEL in self.labels


def workloads_of(entries: Iterable[WorkloadEntry], pods: Iterable[Pod]) -> tuple[Workload, ...]:
    """All workloads by namespace and name, with their keys. A Pod does not replace a WorkloadEntry of its name."""
    found: dict[tuple[str, str], Workload] = {}
    for pod in pods:
        workload = _from_pod(pod)
        if workload is not None:
            found[workload.namespace, workload.name] = workload
    for entry in entries:
        workload = _from_entry(entry)
        found[workload.namespace, workload.name] = workload
    return with_keys(found[name] for name in sorted(found))


def tls_mode(spec: Endpoint, labels: Mapping[str, str]) -> str:
    """Whether the address takes part in mutual TLS: its label says so, else whether it has a service account (as in Istio)."""
    return labels.get(TLS_MODE_LABEL, MUTUAL_TLS if spec.service_account else PLAINTEXT)


def locality_of(locality: str | None, labels: Mapping[str, str]) -> str:
    """`region/zone/subzone`; the label writes dots because a label cannot hold a slash."""
    return locality or labels.get(LOCALITY_LABEL, "").replace(".", "/")


def _from_entry(entry: WorkloadEntry) -> Workload:
    spec = entry.spec
    # Istio merges both label sets, and those of the metadata win.
    labels = dict(sorted({**spec.labels, **entry.metadata.labels}.items()))
    return Workload(
        name=entry.name,
        namespace=entry.namespace,
        address=spec.address or "",
        labels=labels,
        service_account=spec.service_account or "default",
        ports=dict(sorted(spec.ports.items())),
        workload_name=labels.get(WORKLOAD_NAME_LABEL, entry.name),
        locality=locality_of(spec.locality, labels),
        network=spec.network or labels.get(NETWORK_LABEL, ""),
        weight=spec.weight or 1,
        tls_mode=tls_mode(spec, labels),
        healthy=_healthy(entry.status, "Healthy"),
    )


def _from_pod(pod: Pod) -> Workload | None:
    address = pod.status.get("podIP")
    if not isinstance(address, str) or not address:
        return None
    labels = dict(sorted(pod.metadata.labels.items()))
    ports = {port.name: port.container_port for c in pod.spec.containers for port in c.ports if port.name}
    return Workload(
        name=pod.name,
        namespace=pod.namespace,
        address=address,
        labels=labels,
        service_account=pod.spec.service_account_name or pod.spec.service_account or "default",
        ports=dict(sorted(ports.items())),
        workload_name=labels.get(WORKLOAD_NAME_LABEL, pod.name),
        locality=locality_of(None, labels),
        network=labels.get(NETWORK_LABEL, ""),
        tls_mode=labels.get(TLS_MODE_LABEL, PLAINTEXT),
        from_pod=True,
        healthy=_healthy(pod.status, "Ready"),
    )


def _healthy(status: Mapping[str, object], condition: str) -> bool:
    """False only when a health check says so: without one, a replica counts as healthy."""
    conditions = status.get("conditions")
    found = (
        [c for c in conditions if isinstance(c, dict) and c.get("type") == condition]
        if isinstance(conditions, list)
        else []
    )
    return all(c.get("status") != "False" for c in found)


def with_keys(workloads: Iterable[Workload]) -> tuple[Workload, ...]:
    """Give each workload its key. Two workloads with one key always have equal namespace, labels and service account."""
    ordered = tuple(workloads)
    first: dict[tuple[str, str], Workload] = {}
    for workload in ordered:
        first.setdefault((workload.namespace, workload.workload_name), workload)

    def key(workload: Workload) -> str:
        name = (workload.namespace, workload.workload_name)
        if _policy_traits(workload) == _policy_traits(first[name]):
            return "/".join(name)
        own = f"{workload.namespace}/{workload.name}"
        # Another workload may bear the name of this replica; its key must stay its own.
        return own if (workload.namespace, workload.name) not in first else f"{own}~{workload.workload_name}"

    return tuple(replace(workload, key=key(workload)) for workload in ordered)


def _policy_traits(workload: Workload) -> tuple[object, ...]:
    return (workload.labels, workload.service_account)
