"""Fields that are accepted but not translated yet. This table is the one place to edit when a translation arrives.

Kind id -> path -> what to say. A path is written as in the documents, with `[]` for list items and `<>` for map values; it covers all
below it. The loader gives one warning (LTN0110) for each occurrence; `docs/supported-fields.md` is generated from it.
"""

from collections.abc import Mapping

NOT_YET = "has no effect yet"

LATER: Mapping[str, Mapping[str, str]] = {
    "EnvoyFilter": {
        "spec": "EnvoyFilter has no effect yet: Lateen's own resources cover rate limits and authorization"
    },
    "WasmPlugin": {"spec": "WasmPlugin has no effect yet"},
    "Telemetry": {"spec": "Telemetry has no effect yet: metrics and access logs are always on"},
    "ProxyConfig": {"spec": "ProxyConfig has no effect yet"},
    "WorkloadGroup": {"spec.probe": "health checks of WorkloadGroup have no effect yet"},
}
