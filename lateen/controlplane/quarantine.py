"""Resources of the mesh that Envoy refused: their version before stays in effect, so that everything else can move on.

An Envoy resource may hold the rules of many: one VirtualService that Envoy refuses would hold back every later change of that route
configuration. So the one to blame is set aside until it changes; the refusal stays visible all the while.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lateen.controlplane.blobs import Blob
from lateen.mesh.loader import Located
from lateen.mesh.metadata import ResourceKey

MAX_QUARANTINED = 1_000


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A version of a resource that is set aside, the Envoy resource that was refused because of it, and Envoy's words."""

    located: Located
    refused: Blob
    accepted: Blob | None
    message: str


class Quarantine:
    """Remembers for each resource the version before the present one, and which present ones are set aside."""

    def __init__(self) -> None:
        """Begin with nothing set aside."""
        self._held: dict[ResourceKey, Quarantined] = {}
        self._present: dict[ResourceKey, Located] = {}
        self._before: dict[ResourceKey, Located] = {}

    def admit(self, resources: Sequence[Located]) -> tuple[Located, ...]:
        """The resources to build from: instead of those set aside their version before, if there was one."""
        now = {located.resource.key: located for located in resources}
        for key, held in list(self._held.items()):
            present = now.get(key)
            if present is None or present.resource != held.located.resource:
                del self._held[key]
        for key, located in self._present.items():
            if key not in now:
                self._before.pop(key, None)
            elif now[key] is not located and now[key].resource != located.resource and key not in self._held:
                self._before[key] = located
        self._present = {key: located for key, located in now.items() if key not in self._held}
        if not self._held:
            return tuple(resources)
        chosen = ((located.resource.key, located) for located in resources)
        replaced = (self._before.get(key) if key in self._held else located for key, located in chosen)
        return tuple(located for located in replaced if located is not None)

    def hold(self, key: ResourceKey, refused: Blob, accepted: Blob | None, message: str) -> bool:
        """Set the present version of `key` aside; False when it is already, is unknown, or too many are."""
        present = self._present.get(key)
        if present is None or key in self._held or len(self._held) >= MAX_QUARANTINED:
            return False
        self._held[key] = Quarantined(present, refused, accepted, message)
        return True

    @property
    def refusals(self) -> tuple[Quarantined, ...]:
        """What is set aside, in the order it happened."""
        return tuple(self._held.values())
