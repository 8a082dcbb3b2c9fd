"""Fields that are accepted but not translated yet. This table is the one place to edit when a translation arrives.

Kind id -> path -> why, as the end of "... has no effect yet". A path is written as in the documents, with `[]` for list items and `<>`
for map values, and covers all below it; `**.name` is a field of that name at any depth. The loader gives one warning (LTN0110) for each
occurrence; `docs/supported-fields.md` is generated from the table, and a test looks for fields that nothing reads and that are not here.
"""

from collections.abc import Iterator, Mapping

from lateen.mesh.shape import aliases_of
from lateen.mesh.spec import Spec
from lateen.mesh.yaml_source import Path

_TRAFFIC_POLICY = {
    "**.zoneAwareLbSetting": "",
    "**.outlierDetectionHttpErrorCodes": "",
    "**.tunnel": "",
    "**.budgetInterval": "",
}

LATER: Mapping[str, Mapping[str, str]] = {
    "VirtualService": {
        "spec.http[].fault.delay.exponentialDelay": "use fixedDelay",
        "spec.http[].fault.abort.http2Error": "use httpStatus or grpcStatus",
        "spec.tcp[].match[].sourceSubnet": "Istio does not implement it either",
    },
    "DestinationRule": _TRAFFIC_POLICY,
    "IstioGateway": {"spec.servers[].defaultEndpoint": "Istio does not implement it either"},
    "WorkloadGroup": {"spec.probe": "replicas are not probed"},
    "Sidecar": {
        "spec.ingress": "inbound listeners follow the Services",
        "spec.egress[].bind": "the proxy listens on addresses of its own choice",
        "spec.egress[].captureMode": "the runner decides how traffic is captured",
        "spec.inboundConnectionPool": "",
        "spec.outboundTrafficPolicy.egressProxy": "",
    },
    "Gateway": {
        "spec.listeners[].tls.options": "",
        "spec.infrastructure.parametersRef": "",
        "spec.allowedListeners": "ListenerSet is not supported",
        "spec.tls.backend": "",
    },
    "WorkloadEntry": {"spec.network": "every endpoint is taken to be reachable directly"},
    "GatewayClass": {"spec.parametersRef": ""},
    "EnvoyFilter": {"spec": "rate limits and authorization have resources of their own"},
    "WasmPlugin": {"spec.verificationKey": "Istio does not implement it either: pin the module with sha256"},
    "TrafficExtension": {"spec.wasm.verificationKey": "Istio does not implement it either: pin the module with sha256"},
    "Telemetry": {"spec": "metrics and access logs are always on"},
    "ProxyConfig": {"spec": ""},
    "MeshConfig": {
        "**.outlierDetectionHttpErrorCodes": "",
        "extensionProviders[].zipkin": "",
        "extensionProviders[].lightstep": "",
        "extensionProviders[].datadog": "",
        "extensionProviders[].stackdriver": "",
        "extensionProviders[].opencensus": "",
        "extensionProviders[].skywalking": "",
        "extensionProviders[].opentelemetry": "",
        "extensionProviders[].prometheus": "metrics are always on",
        "extensionProviders[].envoyFileAccessLog": "",
        "extensionProviders[].envoyHttpAls": "",
        "extensionProviders[].envoyTcpAls": "",
        "extensionProviders[].envoyOtelAls": "",
        "extensionProviders[].sds": "",
        "defaultProviders": "",
        "inboundTrafficPolicy": "",
        "enableTracing": "",
        "enableEnvoyAccessLogService": "",
        "enablePrometheusMerge": "",
        "defaultConfig.concurrency": "",
        "defaultConfig.configPath": "",
        "defaultConfig.binaryPath": "",
        "defaultConfig.serviceCluster": "",
        "defaultConfig.drainDuration": "",
        "defaultConfig.terminationDrainDuration": "",
        "defaultConfig.discoveryAddress": "",
        "defaultConfig.proxyAdminPort": "",
        "defaultConfig.statusPort": "",
        "defaultConfig.controlPlaneAuthPolicy": "",
        "defaultConfig.statNameLength": "",
        "defaultConfig.tracing": "",
        "defaultConfig.proxyMetadata": "",
        "defaultConfig.runtimeValues": "",
        "defaultConfig.extraStatTags": "",
        "defaultConfig.proxyStatsMatcher": "",
        "defaultConfig.readinessProbe": "",
        "defaultConfig.holdApplicationUntilProxyStarts": "",
        "defaultConfig.caCertificatesPem": "",
        "defaultConfig.image": "",
        "defaultConfig.privateKeyProvider": "",
        "defaultConfig.proxyHeaders": "",
        "defaultConfig.envoyAccessLogService": "",
        "defaultConfig.envoyMetricsService": "",
        "defaultConfig.proxyBootstrapTemplatePath": "",
        "defaultConfig.interceptionMode": "",
        "defaultConfig.zipkinAddress": "",
        "defaultConfig.fileFlushInterval": "",
        "defaultConfig.fileFlushMinSizeKb": "",
        "defaultConfig.statsCompression": "",
        "defaultConfig.statsEvictionInterval": "",
        "defaultConfig.sampling": "",
        "tlsDefaults": "",
        "caCertificates": "",
        "ca": "",
        "verifyCertificateAtClient": "",
        "serviceSettings": "",
        "serviceScopeConfigs": "",
        "discoverySelectors": "",
        "configSources": "",
        "inboundClusterStatName": "",
        "outboundClusterStatName": "",
        "proxyListenPort": "",
        "proxyInboundListenPort": "",
        "proxyHttpPort": "",
        "ingressClass": "",
        "ingressService": "",
        "ingressSelector": "",
        "ingressControllerMode": "",
        "hboneIdleTimeout": "",
    },
}


def later_note(kind_id: str, pattern: str) -> str | None:
    """What the table says of the field at `pattern` (None: translated)."""
    table = LATER.get(kind_id, {})
    name = pattern.rpartition(".")[2]
    note = table.get(pattern, table.get(f"**.{name}"))
    if note is None:
        return None
    return f"{name} has no effect yet{': ' if note else ''}{note}"


def later_fields(kind_id: str, resource: Spec) -> Iterator[tuple[Path, str]]:
    """Where `resource` uses a field of the table, and what to say."""
    if kind_id in LATER:
        yield from _below(resource, "", (), kind_id)


def _below(value: object, pattern: str, path: Path, kind_id: str) -> Iterator[tuple[Path, str]]:
    if isinstance(value, Spec):
        aliases = aliases_of(type(value))
        for name in aliases:
            if value.has(name):
                alias = aliases[name]
                below = f"{pattern}.{alias}" if pattern else alias
                note = later_note(kind_id, below)
                if note is not None:
                    yield (*path, alias), note
                else:
                    yield from _below(getattr(value, name), below, (*path, alias), kind_id)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _below(item, f"{pattern}[]", (*path, index), kind_id)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, Spec):
                yield from _below(item, f"{pattern}<>", (*path, str(key)), kind_id)
