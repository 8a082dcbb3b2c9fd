"""How each proxy stands, as JSON-ready values: what `lateen proxy-status` and the console show."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pool, json_format, message_factory

from lateen.controlplane.blobs import Blob
from lateen.controlplane.connection import Connection
from lateen.controlplane.culprit import culprits
from lateen.controlplane.metrics import SHORT_NAMES, Metrics
from lateen.controlplane.names import ECDS, SDS
from lateen.controlplane.plugin_keeper import PluginStanding, PluginState
from lateen.controlplane.quarantine import Quarantined
from lateen.controlplane.report import OriginPlace, place_of
from lateen.controlplane.session import SyncState, TypeStatus
from lateen.controlplane.snapshot import Snapshot
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.view import MeshView

_SECRET_FIELDS = ("privateKey", "password", "privateKeyProvider", "sessionTicketKeys", "genericSecret")
_HIDDEN = "[hidden]"


def proxy_status(
    connection: Connection,
    view: MeshView | None,
    now: float,
    quarantined: Sequence[Quarantined] = (),
    plugins: Mapping[ResourceKey, PluginState] | None = None,
    *,
    behind: bool = False,
) -> dict[str, Any]:
    """One proxy, as in GET /v1/proxies. What is `quarantined` counts as refused by every proxy that has the Envoy resource.

    Of several of which one is to blame, the likeliest is named. A proxy is not in sync while something has changed that no
    snapshot has yet (`behind`), nor while one of its `plugins` is pending: what it has instead is only there meanwhile.
    """
    proxy = connection.proxy
    held = connection.snapshot.resources if connection.snapshot is not None else {}
    keys = [key for blob in held.get(ECDS, {}).values() for key in blob.origins]
    own = [state for key in keys if (state := (plugins or {}).get(key)) is not None]
    waits = behind or any(state.standing is PluginStanding.PENDING for state in own)
    aside = [q for q in quarantined if q.refused.name in held.get(q.refused.type_url, {})]
    return {
        "id": proxy.id,
        "name": proxy.name,
        "namespace": proxy.namespace,
        "workload": proxy.workload_name or proxy.name,
        "type": proxy.type.value,
        "identity": str(connection.peer),
        "address": proxy.address,
        "connected_at": connection.connected_at.isoformat(),
        "synced": connection.session.synced and not (connection.session.refusals or aside or connection.error or waits),
        "error": connection.error,
        "plugins": [state.to_dict() for state in own],
        "types": {
            SHORT_NAMES[url]: _type_status(state, view, [q for q in aside if q.refused.type_url == url])
            for url, state in connection.session.status(now).items()
        },
    }


def _type_status(state: TypeStatus, view: MeshView | None, aside: Sequence[Quarantined]) -> dict[str, Any]:
    refused = [(r.blob.name, r.message, place_of(r.blob, r.accepted, view)) for r in state.refusals]
    refused += [(q.refused.name, q.message, OriginPlace.of(q.located)) for q in aside if q.alone]
    undecided = [q for q in aside if not q.alone]
    if undecided:
        likeliest = min(undecided, key=_rank)
        refused.append((likeliest.refused.name, likeliest.message, OriginPlace.of(likeliest.located)))
    errors = [{"message": message, "resource": name, **place.to_dict()} for name, message, place in refused]
    return {
        "status": SyncState.NACK.value if aside else state.status.value,
        "sent": state.sent,
        "acked": state.acked,
        "since": round(state.seconds, 3),
        "error": errors[0] if errors else None,
        "errors": errors,
    }


def _rank(one: Quarantined) -> int:
    """How unlikely it is that this one is to blame."""
    order = culprits(one.refused, one.accepted)
    key = one.located.resource.key
    return order.index(key) if key in order else len(order)


def snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot for reading by people and tools; private keys are hidden."""
    return {
        "version": snapshot.version,
        "resources": {
            SHORT_NAMES.get(url, url): {name: blob_json(blob) for name, blob in named.items()}
            for url, named in snapshot.resources.items()
        },
    }


def blob_json(blob: Blob) -> Any:  # noqa: ANN401 - JSON of whatever message it is
    """One resource as JSON, secrets hidden; what cannot be decoded is described instead."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(blob.type_url.rpartition("/")[2])
        message = message_factory.GetMessageClass(descriptor).FromString(blob.data)
        value = json_format.MessageToDict(message, preserving_proto_field_name=False)
    except (KeyError, TypeError, ValueError, json_format.Error) as error:
        return {"undecodable": str(error), "bytes": len(blob.data)}
    return _hide(value) if blob.type_url == SDS else value


def _hide(value: Any) -> Any:  # noqa: ANN401 - walks any JSON
    if isinstance(value, dict):
        return {key: _HIDDEN if key in _SECRET_FIELDS else _hide(item) for key, item in value.items()}
    return [_hide(item) for item in value] if isinstance(value, list) else value


def update_gauges(metrics: Metrics, connections: Iterable[Connection]) -> None:
    """Count what is refused at present."""
    refused = dict.fromkeys(metrics.refused, 0)
    for connection in connections:
        for refusal in connection.session.refusals:
            refused[refusal.blob.type_url] += 1
    for type_url, gauge in metrics.refused.items():
        gauge.set(refused[type_url])
