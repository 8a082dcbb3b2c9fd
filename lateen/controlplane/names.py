"""Names that users grep for and that other parts rely on: type URLs, clusters, listeners, routes, SNI."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

_PREFIX: Final = "type.googleapis.com/"
CDS: Final = _PREFIX + "envoy.config.cluster.v3.Cluster"
EDS: Final = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS: Final = _PREFIX + "envoy.config.listener.v3.Listener"
RDS: Final = _PREFIX + "envoy.config.route.v3.RouteConfiguration"
SDS: Final = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
ECDS: Final = _PREFIX + "envoy.config.core.v3.TypedExtensionConfig"
WORKLOAD_POLICY: Final = _PREFIX + "lateen.dev.v1alpha1.WorkloadPolicy"
WORKLOAD_LIMITS: Final = _PREFIX + "lateen.dev.v1alpha1.WorkloadLimits"
PUSH_ORDER: Final = (CDS, EDS, LDS, RDS, SDS, ECDS)

PASSTHROUGH: Final = "PassthroughCluster"
BLACK_HOLE: Final = "BlackHoleCluster"
INBOUND_PASSTHROUGH: Final = "InboundPassthroughCluster"

VIRTUAL_OUTBOUND: Final = "virtualOutbound"
VIRTUAL_INBOUND: Final = "virtualInbound"
OUTBOUND_PORT: Final = 15001
INBOUND_PORT: Final = 15006
HTTP_PROXY_ROUTES: Final = "http_proxy"

SDS_IDENTITY: Final = "default"
SDS_ROOTS: Final = "ROOTCA"
SDS_CLUSTER: Final = "sds-grpc"
ADS_CLUSTER: Final = "xds-grpc"

EXT_AUTHZ: Final = ("lateen-extauthz", "istio-system", 9191)
RATE_LIMIT: Final = ("lateen-ratelimit", "istio-system", 8081)
TARGET_HEADER: Final = "x-lateen-target"
PEER_HEADER: Final = "x-lateen-peer"
RATE_LIMIT_DOMAIN: Final = "lateen"
METADATA_NAMESPACE: Final = "lateen"

_CLUSTER_PARTS: Final = 4
_MAPPED_FIRST: Final = 20000
_MAPPED_COUNT: Final = 10000


def outbound_cluster(hostname: str, port: int, subset: str = "") -> str:
    """`outbound|9080|v1|reviews.default.svc.cluster.local`."""
    return f"outbound|{port}|{subset}|{hostname}"


def outbound_sni(hostname: str, port: int, subset: str = "") -> str:
    """The SNI of auto mTLS, which an east-west gateway maps back to the cluster: `outbound_.9080_.v1_.reviews...`."""
    return f"outbound_.{port}_.{subset}_.{hostname}"


def inbound_cluster(port: int) -> str:
    """`inbound|9080||`, also the name of the inbound route configuration."""
    return f"inbound|{port}||"


def parse_cluster(name: str) -> tuple[str, int, str, str] | None:
    """Direction, port, subset and hostname of a cluster named by these functions, else None."""
    parts = name.split("|")
    if len(parts) != _CLUSTER_PARTS or parts[0] not in {"inbound", "outbound"} or not parts[1].isdigit():
        return None
    return parts[0], int(parts[1]), parts[2], parts[3]


def gateway_http_routes(port: int) -> str:
    """`http.80`."""
    return f"http.{port}"


def gateway_https_routes(port: int, server: str, gateway: str, namespace: str) -> str:
    """`https.443.https.my-gateway.my-namespace`."""
    return f"https.{port}.{server}.{gateway}.{namespace}"


def secret_name(namespace: str, name: str, *, ca: bool = False) -> str:
    """`kubernetes-gateway://ns/name`; the CA certificate of the same secret ends in `-cacert`."""
    return f"kubernetes-gateway://{namespace}/{name}{'-cacert' if ca else ''}"


def gateway_bind_port(port: int) -> int:
    """Ports below 1024 of a gateway are bound 8000 higher, as Istio does through the gateway Service's targetPort."""
    return port + 8000 if port < 1024 else port  # noqa: PLR2004 the privileged ports


def assign_ports(keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """A mapped port for each (hostname, port): a stable hash, moved on by collisions in the order of the sorted keys."""
    taken: dict[int, tuple[str, int]] = {}
    result: dict[tuple[str, int], int] = {}
    for key in sorted(set(keys)):
        slot = zlib.crc32(f"{key[0]}:{key[1]}".encode()) % _MAPPED_COUNT
        for step in range(_MAPPED_COUNT):
            port = _MAPPED_FIRST + (slot + step) % _MAPPED_COUNT
            if port not in taken:
                taken[port] = key
                result[key] = port
                break
    return result
