"""Gateway API: which routes attach to which listeners, and why the others do not (the facts behind a Gateway's status)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lateen.mesh.services import Service, ServicePort

if TYPE_CHECKING:
    from lateen.mesh import gatewayapi
    from lateen.mesh.httproute import HTTPRoute


@dataclass(frozen=True)
class AttachedRoute:
    """A route on one listener; `hostnames` is the intersection with the listener's (`*` when neither names any)."""

    route: HTTPRoute
    hostnames: tuple[str, ...]


@dataclass(frozen=True)
class ListenerStatus:
    """One listener. Not accepted: `reason` is the Gateway API's condition reason. `reason` may also tell of unresolved references."""

    listener: gatewayapi.Listener
    index: int
    accepted: bool
    reason: str = ""
    message: str = ""
    routes: tuple[AttachedRoute, ...] = ()


@dataclass(frozen=True)
class GatewayStatus:
    """A Gateway's listeners in the order of its spec."""

    gateway: gatewayapi.Gateway
    listeners: tuple[ListenerStatus, ...]

    @property
    def accepted(self) -> tuple[ListenerStatus, ...]:
        """The listeners that work."""
        return tuple(listener for listener in self.listeners if listener.accepted)


@dataclass(frozen=True)
class BackendResolution:
    """What a backendRef means: a service and its port, or the reason (Gateway API's) why its share of traffic gets 500."""

    service: Service | None
    port: ServicePort | None
    reason: str = ""
    message: str = ""
