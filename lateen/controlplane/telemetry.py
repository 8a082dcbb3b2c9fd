"""Istio's standard metrics by Envoy's stats access logger: `istio_requests_total` and its siblings, with Istio's labels.

The peer is known without an exchange: a client knows the server from endpoint and cluster metadata, a server knows the client's
certificate. What a side cannot know is `unknown`, as in Istio.
"""

from __future__ import annotations

import dataclasses
import functools

from lateen.controlplane.protos import packed
from lateen.envoyapi.envoy.config.accesslog.v3 import accesslog_pb2
from lateen.envoyapi.envoy.data.accesslog.v3 import accesslog_pb2 as log_data
from lateen.envoyapi.envoy.extensions.access_loggers.stats.v3 import stats_pb2
from lateen.mesh.identity import SpiffeId
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload

_UNKNOWN = "unknown"
_CLUSTER = "lateen"
_PREFIX = (
    "wasmcustom"  # the bootstrap's idle Wasm VM registers it as a custom namespace, so Prometheus sees plain istio_*
)
_MAX_STATS = 5000  # of one scope and kind: labels come from requests, so their number is bounded
_Config = stats_pb2.Config


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """One side of the metrics: the workload of this proxy. `service` is the host it serves on this port, where known."""

    workload: str = _UNKNOWN
    namespace: str = _UNKNOWN
    principal: str = _UNKNOWN
    app: str = _UNKNOWN
    version: str = _UNKNOWN
    service: str = _UNKNOWN
    service_name: str = _UNKNOWN
    service_namespace: str = _UNKNOWN


NOBODY = Peer()
_REMOTE_SERVER = Peer(
    workload="%UPSTREAM_METADATA(istio:workload_name)%",
    namespace="%UPSTREAM_METADATA(istio:workload_namespace)%",
    principal="%UPSTREAM_PEER_URI_SAN%",
    app="%UPSTREAM_METADATA(istio:app)%",
    version="%UPSTREAM_METADATA(istio:version)%",
    service="%CLUSTER_METADATA(istio:host)%",
    service_name="%CLUSTER_METADATA(istio:name)%",
    service_namespace="%CLUSTER_METADATA(istio:namespace)%",
)
_REMOTE_CLIENT = dataclasses.replace(NOBODY, principal="%DOWNSTREAM_PEER_URI_SAN%")


def peer_of(view: MeshView, workload: Workload | None) -> Peer:
    """The labels of a workload."""
    if workload is None:
        return NOBODY
    return Peer(
        workload=workload.workload_name or workload.name,
        namespace=workload.namespace,
        principal=str(SpiffeId(view.trust_domain, workload.namespace, workload.service_account)),
        app=workload.labels.get("app", _UNKNOWN),
        version=workload.labels.get("version", _UNKNOWN),
    )


@functools.lru_cache(maxsize=1024)
def client_logs(own: Peer, *, tcp: bool = False) -> tuple[accesslog_pb2.AccessLog, ...]:
    """Metrics of a proxy that calls (`reporter="source"`)."""
    return _logs("source", own, _REMOTE_SERVER, "unknown", tcp=tcp)


@functools.lru_cache(maxsize=1024)
def server_logs(own: Peer, *, mutual: bool, tcp: bool = False) -> tuple[accesslog_pb2.AccessLog, ...]:
    """Metrics of a proxy that is called (`reporter="destination"`)."""
    return _logs("destination", _REMOTE_CLIENT, own, "mutual_tls" if mutual else "none", tcp=tcp)


def _logs(
    reporter: str, source: Peer, target: Peer, security: str, *, tcp: bool
) -> tuple[accesslog_pb2.AccessLog, ...]:
    labels = _labels(reporter, source, target, security)
    if tcp:
        return _tcp(labels | {"request_protocol": "tcp", "response_flags": "%RESPONSE_FLAGS%"})
    labels |= {
        "request_protocol": "http",
        "response_code": "%RESPONSE_CODE%",
        "response_flags": "%RESPONSE_FLAGS%",
        "grpc_response_status": "%GRPC_STATUS_NUMBER%",
    }
    config = _config()
    config.counters.append(_counter("istio_requests_total", labels))
    for name, value, unit in (
        ("istio_request_duration_milliseconds", "%DURATION%", _Config.Histogram.Milliseconds),
        ("istio_request_bytes", "%BYTES_RECEIVED%", _Config.Histogram.Bytes),
        ("istio_response_bytes", "%BYTES_SENT%", _Config.Histogram.Bytes),
    ):
        config.histograms.add(stat=_stat(name, labels), value_format=value, unit=unit)
    return (accesslog_pb2.AccessLog(name="istio.stats", typed_config=packed(config)),)


def _tcp(labels: dict[str, str]) -> tuple[accesslog_pb2.AccessLog, ...]:
    opened, closed = _config(), _config()
    opened.counters.append(_counter("istio_tcp_connections_opened_total", labels))
    closed.counters.append(_counter("istio_tcp_connections_closed_total", labels))
    closed.counters.append(_counter("istio_tcp_received_bytes_total", labels, "%BYTES_RECEIVED%"))
    closed.counters.append(_counter("istio_tcp_sent_bytes_total", labels, "%BYTES_SENT%"))
    result = []
    # Values of periodic entries are cumulative: bytes are counted at the end only.
    for config, kind in ((opened, log_data.TcpUpstreamConnected), (closed, log_data.TcpConnectionEnd)):
        log = accesslog_pb2.AccessLog(name="istio.stats", typed_config=packed(config))
        log.filter.log_type_filter.types.append(kind)
        result.append(log)
    return tuple(result)


def _config() -> stats_pb2.Config:
    config = stats_pb2.Config()
    config.stats_scope.prefix = _PREFIX
    config.stats_scope.max_counters.value = _MAX_STATS
    config.stats_scope.max_histograms.value = _MAX_STATS
    return config


def _counter(name: str, labels: dict[str, str], value: str = "") -> stats_pb2.Config.Counter:
    result = stats_pb2.Config.Counter(stat=_stat(name, labels))
    if value:
        result.value_format = value
    else:
        result.value_fixed.value = 1
    return result


def _stat(name: str, labels: dict[str, str]) -> stats_pb2.Config.Stat:
    return stats_pb2.Config.Stat(name=name, tags=[_Config.Tag(name=k, value_format=v) for k, v in labels.items()])


def _labels(reporter: str, source: Peer, target: Peer, security: str) -> dict[str, str]:
    return {
        "reporter": reporter,
        "source_workload": source.workload,
        "source_workload_namespace": source.namespace,
        "source_principal": source.principal,
        "source_app": source.app,
        "source_version": source.version,
        "source_canonical_service": source.app if source.app != _UNKNOWN else source.workload,
        "source_canonical_revision": source.version,
        "source_cluster": _CLUSTER,
        "destination_workload": target.workload,
        "destination_workload_namespace": target.namespace,
        "destination_principal": target.principal,
        "destination_app": target.app,
        "destination_version": target.version,
        "destination_service": target.service,
        "destination_service_name": target.service_name,
        "destination_service_namespace": target.service_namespace,
        "destination_canonical_service": target.app,
        "destination_canonical_revision": target.version,
        "destination_cluster": _CLUSTER,
        "connection_security_policy": security,
    }
