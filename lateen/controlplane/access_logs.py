"""Access logs as MeshConfig asks for them: Istio's fields, and which policy denied a request."""

from __future__ import annotations

import json

from lateen.controlplane.protos import packed, struct
from lateen.envoyapi.envoy.config.accesslog.v3 import accesslog_pb2
from lateen.envoyapi.envoy.config.core.v3 import substitution_format_string_pb2 as format_pb2
from lateen.envoyapi.envoy.extensions.access_loggers.file.v3 import file_pb2
from lateen.mesh.meshconfig import AccessLogEncoding, MeshConfig

_DECISION = "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:lateen:{})%"
TEXT_FORMAT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% '
    '%BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" '
    '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% '
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%"
    f" {_DECISION.format('policy')} {_DECISION.format('denial_id')}\n"
)
JSON_FIELDS: dict[str, object] = {
    "start_time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "route_name": "%ROUTE_NAME%",
    "downstream_peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "upstream_peer": "%UPSTREAM_PEER_URI_SAN%",
    "verdict": _DECISION.format("verdict"),
    "policy": _DECISION.format("policy"),
    "rule": _DECISION.format("rule"),
    "denial_id": _DECISION.format("denial_id"),
}


def access_logs(mesh: MeshConfig, *, unmatched_only: bool = False) -> list[accesslog_pb2.AccessLog]:
    """The file access log, if the mesh has one; `unmatched_only` is for listeners: connections that no filter chain takes."""
    if not mesh.access_log_file or (unmatched_only and mesh.disable_envoy_listener_log):
        return []
    config = file_pb2.FileAccessLog(path=mesh.access_log_file, log_format=log_format(mesh))
    log = accesslog_pb2.AccessLog(name="envoy.access_loggers.file", typed_config=packed(config))
    if unmatched_only:
        log.filter.response_flag_filter.flags.append("NR")
    return [log]


def log_format(mesh: MeshConfig) -> format_pb2.SubstitutionFormatString:
    """Text or JSON, of the mesh's own format or Istio's default."""
    custom = mesh.access_log_format
    if mesh.access_log_encoding == AccessLogEncoding.JSON:
        fields = _json_fields(custom) if custom else dict(JSON_FIELDS)
        return format_pb2.SubstitutionFormatString(json_format=struct(fields))
    text = custom or TEXT_FORMAT
    result = format_pb2.SubstitutionFormatString()
    result.text_format_source.inline_string = text if text.endswith("\n") else text + "\n"
    return result


def _json_fields(text: str) -> dict[str, object]:
    """The mesh's JSON format; one that is not an object falls back to the default (the loader has told the author)."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return dict(JSON_FIELDS)
    return parsed if isinstance(parsed, dict) else dict(JSON_FIELDS)
