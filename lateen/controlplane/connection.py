"""One open ADS stream as the rest of the control plane sees it."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from lateen.controlplane.proxy import Proxy, ProxyType
from lateen.controlplane.session import StreamSession
from lateen.controlplane.snapshot import Snapshot
from lateen.mesh.identity import SpiffeId


@dataclass(eq=False, slots=True)
class Connection:
    """A proxy's (or one of our services') stream: who it is, its session, and the snapshot it was offered last.

    `error` is why its newest snapshot could not be built (its last state stays). `changed_at` is when the change it has not
    acknowledged yet was made. `wake` tells the stream's writer that there may be something to send.
    """

    number: int
    proxy: Proxy
    peer: SpiffeId
    types: frozenset[str]
    session: StreamSession
    connected_at: datetime
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    snapshot: Snapshot | None = None
    error: str = ""
    changed_at: float | None = None
    gate: dict[str, str] = field(default_factory=dict)
    close_reason: str = ""

    @property
    def is_service(self) -> bool:
        """Whether this is one of our own services rather than an Envoy."""
        return self.proxy.type is ProxyType.SERVICE

    def close(self, reason: str) -> None:
        """Have the stream end with a permission error."""
        self.close_reason = reason
        self.wake.set()
