"""Resources of the mesh that Envoy refused: their version before stays in effect, so that everything else can move on.

An Envoy resource may hold the rules of many: one VirtualService that Envoy refuses would hold back every later change of that route
configuration. So the one to blame is set aside until it changes; the refusal stays visible all the while. If several changed at once, all
of them are set aside and let out again, fewer at a time with every refusal, until the one to blame is alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lateen.controlplane.blobs import Blob
from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.loader import Located
from lateen.mesh.metadata import ResourceKey

MAX_QUARANTINED = 1_000


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A version of a resource that is set aside, the Envoy resource that was refused because of it, and Envoy's words.

    `alone`: nothing else can be to blame. If not, it is one of several.
    """

    located: Located
    refused: Blob
    accepted: Blob | None
    message: str
    alone: bool


class Quarantine:
    """Remembers for each resource the version before the present one, and which present ones are set aside."""

    def __init__(self) -> None:
        """Begin with nothing set aside."""
        self._held: dict[ResourceKey, Quarantined] = {}
        self._present: dict[ResourceKey, Located] = {}
        self._before: dict[ResourceKey, Located] = {}
        self._proven: dict[ResourceKey, Located] = {}
        self._at_once = 1

    def admit(self, resources: Sequence[Located]) -> tuple[Located, ...]:
        """The resources to build from: instead of those set aside their version before, if there was one."""
        now = {located.resource.key: located for located in resources}
        for key, held in list(self._held.items()):
            present = now.get(key)
            if present is None:
                self._before.pop(key, None)
            if present is None or present.resource != held.located.resource:
                del self._held[key]
            elif present is not held.located:
                self._held[key] = replace(held, located=present)  # the same, on another line
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

    def proven(self) -> None:
        """Every proxy has taken the present versions: they are not to blame for what is refused later."""
        self._proven = dict(self._present)

    def hold(
        self, keys: Iterable[ResourceKey], refused: Blob, accepted: Blob | None, message: str, *, tried: bool = False
    ) -> tuple[ResourceKey, ...]:
        """Set aside the present versions of those `keys` that may be to blame. Returns which: none if they are already, or too many are.

        `tried`: an Envoy has refused just these, so that it does not count that others, which need them less, took them.
        """
        new = {
            key: self._present[key]
            for key in keys
            if key in self._present and key not in self._held and (tried or self._may_be_to_blame(key))
        }
        if len(self._held) + len(new) > MAX_QUARANTINED:
            return ()
        for key, present in new.items():
            self._held[key] = Quarantined(present, refused, accepted, message, alone=len(new) == 1)
        self._at_once = max(1, len(new) // 2)
        return tuple(new)

    def _may_be_to_blame(self, key: ResourceKey) -> bool:
        proven = self._proven.get(key)
        return proven is None or proven.resource != self._present[key].resource

    def before(self, key: ResourceKey) -> Located | None:
        """The version that is used while this one is set aside; None: none is known, it is left out."""
        return self._before.get(key)

    def restore(self, held: Quarantined, before: Located | None) -> None:
        """Take over from the run before what was set aside; it stays so while it is the same."""
        key = held.located.resource.key
        if len(self._held) < MAX_QUARANTINED:
            self._held[key] = held
            if before is not None:
                self._before[key] = before

    @property
    def undecided(self) -> tuple[ResourceKey, ...]:
        """Those that are set aside because one of several is to blame."""
        return tuple(key for key, held in self._held.items() if not held.alone)

    def let_out(self) -> tuple[ResourceKey, ...]:
        """Use some of the undecided again: the next push shows whether one of these is to blame. Returns which."""
        some = self.undecided[: self._at_once]
        for key in some:
            del self._held[key]
        return some

    @property
    def refusals(self) -> tuple[Quarantined, ...]:
        """What is set aside, in the order it happened."""
        return tuple(self._held.values())

    def findings(self) -> tuple[Diagnostic, ...]:
        """Those that are certain, as users see mistakes (LTN0306)."""
        return tuple(self._finding(held) for held in self._held.values() if held.alone)

    def _finding(self, held: Quarantined) -> Diagnostic:
        source, key = held.located.source, held.located.resource.key
        place = source.position(())
        known = self._before.get(key) is not None
        return Diagnostic(
            "LTN0306",
            Severity.ERROR,
            f"envoy refuses what becomes of it: {held.message}",
            resource=str(key),
            file=source.file,
            line=place.line,
            column=place.column,
            hint=f"correct it: until then {'its version before is used' if known else 'it is left out'}",
            source_line=source.line_text(place.line),
        )
