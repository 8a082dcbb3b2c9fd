"""Workloads: one a replica, from WorkloadEntries, and from Pods that have an address."""

from collections.abc import Mapping
from dataclasses import dataclass, field

WORKLOAD_NAME_LABEL = "service.istio.io/workload-name"
TLS_MODE_LABEL = "security.istio.io/tlsMode"
GATEWAY_NAME_LABEL = "gateway.networking.k8s.io/gateway-name"


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
    tls_mode: str = "istio"
