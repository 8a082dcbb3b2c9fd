"""Fields that are accepted but not translated yet. This table is the one place to edit when a translation arrives.

Kind id -> path -> what to say. A path is written as in the documents, with `[]` for list items and `<>` for map values; it covers all
below it. The loader gives one warning (LTN0110) for each occurrence; `docs/supported-fields.md` is generated from it.
"""

from collections.abc import Iterator, Mapping

from lateen.mesh.shape import aliases_of
from lateen.mesh.spec import Spec
from lateen.mesh.yaml_source import Path

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


def later_fields(kind_id: str, resource: Spec) -> Iterator[tuple[Path, str]]:
    """Where `resource` uses a field of the table, and what to say."""
    table = LATER.get(kind_id)
    if table:
        yield from _below(resource, "", (), table)


def _below(value: object, pattern: str, path: Path, table: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    if isinstance(value, Spec):
        aliases = aliases_of(type(value))
        for name in aliases:
            if value.has(name):
                alias = aliases[name]
                below = f"{pattern}.{alias}" if pattern else alias
                if below in table:
                    yield (*path, alias), table[below]
                else:
                    yield from _below(getattr(value, name), below, (*path, alias), table)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _below(item, f"{pattern}[]", (*path, index), table)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, Spec):
                yield from _below(item, f"{pattern}<>", (*path, str(key)), table)
