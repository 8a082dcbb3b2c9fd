"""What a stream's events mean to people: log lines, metrics and live events, with the YAML origin of what was refused."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from lateen.controlplane.blobs import Blob
from lateen.controlplane.connection import Connection
from lateen.controlplane.culprit import culprits
from lateen.controlplane.events import Events
from lateen.controlplane.metrics import SHORT_NAMES, Metrics, label_of
from lateen.controlplane.names import ECDS, RDS
from lateen.controlplane.session import SERVED, Acked, Event, Nacked, NotServed, Refused
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.loader import Located
from lateen.mesh.view import MeshView


@dataclass(frozen=True, slots=True)
class OriginPlace:
    """The resource of the mesh an Envoy resource was made from, and where it was read."""

    origin: str = ""
    file: str = ""
    line: int = 0

    @classmethod
    def of(cls, located: Located) -> "OriginPlace":
        """Where a resource stands."""
        return cls(str(located.resource.key), located.source.file, located.source.position(()).line)

    def to_dict(self) -> dict[str, str | int]:
        """JSON-ready."""
        return {"origin": self.origin, "file": self.file, "line": self.line}


def place_of(blob: Blob, accepted: Blob | None, view: MeshView | None) -> OriginPlace:
    """Where the likeliest origin of what is wrong in a refused resource stands; `accepted` is the version before it.

    Empty when nothing makes one of several likelier: a route configuration of which no version before is known.
    """
    keys = culprits(blob, accepted)
    if blob.type_url == RDS and accepted is None and len(keys) > 1:
        return OriginPlace()
    for key in keys:
        source = view.source(key) if view is not None else None
        if source is not None:
            return OriginPlace(str(key), source.file, source.position(()).line)
    return OriginPlace(str(keys[0])) if keys else OriginPlace()


class Reporter:
    """Tells the log, the metrics and the listeners what streams do."""

    def __init__(
        self,
        metrics: Metrics,
        events: Events,
        view: Callable[[], MeshView | None],
        plugin_refused: Callable[[ResourceKey, str], None] | None = None,
    ) -> None:
        """`view` gives the newest view, to look origins up in; `plugin_refused` hears what Envoys say of plugins they refuse."""
        self._plugin_refused = plugin_refused
        self._metrics = metrics
        self._events = events
        self._view = view
        self._log = structlog.get_logger()

    @staticmethod
    def known(type_url: str) -> bool:
        """Whether this is a type that somebody is served."""
        return type_url in SERVED

    def opened(self, connection: Connection) -> None:
        """A stream was admitted."""
        self._metrics.connections.labels(connection.proxy.type.value).inc()
        self._log.info(
            "ads stream open",
            proxy=connection.proxy.id,
            identity=str(connection.peer),
            form=connection.session.style.value,
        )

    def closed(self, connection: Connection, reason: str) -> None:
        """A stream that was admitted is over."""
        self._metrics.connections.labels(connection.proxy.type.value).dec()
        self._log.info("ads stream closed", proxy=connection.proxy.id, reason=reason or "ended")

    def on_event(self, connection: Connection, event: Event) -> None:
        """One event of a session."""
        match event:
            case Acked():
                pass
            case Nacked():
                self._metrics.rejects.labels(label_of(event.type_url)).inc()
                self._log.warning(
                    "push refused, looking for the resource that is to blame",
                    proxy=connection.proxy.id,
                    type=SHORT_NAMES[event.type_url],
                    resources=len(event.names),
                    message=event.message,
                )
            case Refused():
                self._refused(connection, event)
            case NotServed():
                self._log.info("type not served", proxy=connection.proxy.id, type=event.type_url[:200])

    def _refused(self, connection: Connection, event: Refused) -> None:
        if event.type_url == ECDS and self._plugin_refused is not None:
            for key in event.blob.origins:
                self._plugin_refused(key, event.message)
        place = place_of(event.blob, event.accepted, self._view())
        short = SHORT_NAMES[event.type_url]
        self._metrics.rejects.labels(label_of(event.type_url)).inc()
        self._log.error(
            "resource refused, its last good version stays",
            proxy=connection.proxy.id,
            type=short,
            resource=event.blob.name,
            origin=place.origin,
            file=place.file,
            line=place.line,
            message=event.message,
        )
        self._events.publish(
            "nack",
            proxy=connection.proxy.id,
            type=short,
            resource=event.blob.name,
            origin=place.origin,
            file=place.file,
            line=place.line,
            message=event.message,
        )
