"""The configuration in force and how it changes: files, the apply API and the runner, with persistence of the latter two."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from lateen.controlplane.events import Events
from lateen.controlplane.files import FileChange
from lateen.controlplane.inventory import Inventory, Item, Origin
from lateen.controlplane.kept import revived, told, write_kept
from lateen.controlplane.metrics import Metrics
from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.loader import Loaded, Located
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.metadata import ResourceKey

_GIVEN = (Origin.OVERLAY, Origin.API, Origin.RUNNER)
"""Layers that nobody would give again after a restart."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of an apply; when `refused`, nothing was applied."""

    results: tuple[tuple[ResourceKey, str], ...]
    diagnostics: tuple[Diagnostic, ...]
    refused: bool


class Conflict(Exception):  # noqa: N818 - an answer of the API
    """The resource belongs to another origin; the text says to which."""


class Configuration:
    """Holds the layers and the mesh settings, and tells `changed` (with the metric's trigger) whenever they change."""

    def __init__(
        self,
        inventory: Inventory,
        changed: Callable[[str], None],
        *,
        metrics: Metrics,
        events: Events,
        state_file: Path | None = None,
    ) -> None:
        """Begin with what `inventory` holds; `restore` reads the state file."""
        self.inventory = inventory
        self.mesh = MeshConfig()
        self.file_diagnostics: tuple[Diagnostic, ...] = ()
        self._changed = changed
        self._metrics = metrics
        self._events = events
        self._state_file = state_file
        self._unsaved = False
        self._log = structlog.get_logger()

    # files

    def take_files(self, change: FileChange) -> None:
        """What the file source found."""
        changed = self.inventory.change(Origin.FILE, change.upserts, change.deletes)
        mesh_changed = change.mesh is not None and change.mesh != self.mesh
        if change.mesh is not None:
            self.mesh = change.mesh
        self._log_findings(change)
        self.file_diagnostics = change.diagnostics
        self._metrics.file_errors.set(len(change.broken))
        self.count_diagnostics(change.diagnostics)
        touched = set(change.files)
        found = [d for d in change.diagnostics if d.file in touched]
        self._events.publish(
            "config",
            accepted=not any(d.invalid for d in found),
            files=list(change.files),
            broken=list(change.broken),
            diagnostics=[d.to_dict() for d in found],
        )
        if changed or mesh_changed:
            self._changed("config")

    def count_diagnostics(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Set the gauge of findings."""
        counts = dict.fromkeys(Severity, 0)
        for diagnostic in diagnostics:
            counts[diagnostic.severity] += 1
        for severity, count in counts.items():
            self._metrics.diagnostics.labels(severity.value).set(count)

    def _log_findings(self, change: FileChange) -> None:
        known = set(self.file_diagnostics)
        for diagnostic in change.diagnostics:
            if diagnostic.invalid and diagnostic not in known:
                self._log.error(
                    "configuration refused, its last good version stays",
                    resource=diagnostic.resource,
                    file=diagnostic.file,
                    line=diagnostic.line,
                    column=diagnostic.column,
                    code=diagnostic.code,
                    message=diagnostic.message,
                )

    # the API and the runner

    def apply(self, loaded: Loaded, origin: Origin) -> Applied:
        """All resources of a text, or none: invalid ones and those that belong to another origin refuse the whole."""
        owned = tuple(d for located in loaded.resources if (d := self._owned_elsewhere(located, origin)) is not None)
        diagnostics = (*loaded.diagnostics, *owned)
        if any(d.invalid for d in diagnostics):
            return Applied((), diagnostics, refused=True)
        results: list[tuple[ResourceKey, str]] = []
        upserts: list[Located] = []
        for located in loaded.resources:
            key = located.resource.key
            before = self.inventory.layer(origin).get(key)
            if before is not None and before.resource == located.resource:
                results.append((key, "unchanged"))
            else:
                results.append((key, "created" if before is None else "configured"))
                upserts.append(located)
        changed = self.inventory.change(origin, upserts)
        self._unsaved = self._unsaved or bool(upserts)
        if changed:
            self._changed(origin.value)
        return Applied(tuple(results), diagnostics, refused=False)

    def delete(self, key: ResourceKey, origin: Origin) -> bool:
        """Delete one resource of this origin; False if there is none of that key at all, Conflict if it is another's."""
        if key not in self.inventory.layer(origin):
            item = self._owner_above(key, origin)
            if item is None:
                return False
            raise Conflict(_owner(item))
        changed = self.inventory.change(origin, (), (key,))
        self._unsaved = True
        if changed:
            self._changed(origin.value)
        return True

    def _owned_elsewhere(self, located: Located, origin: Origin) -> Diagnostic | None:
        """Files stay the truth: what they own is refused to the API, and pointed out to the runner."""
        item = self._owner_above(located.resource.key, origin)
        if item is None or (item.origin is Origin.API and origin is Origin.RUNNER):
            return None
        place = located.source.position(())
        refused = origin is Origin.API
        return Diagnostic(
            "LTN0113",
            Severity.ERROR if refused else Severity.WARNING,
            f"{located.resource.key} {_owner(item)}",
            resource=str(located.resource.key),
            file=located.source.file,
            line=place.line,
            column=place.column,
            hint="change it there" if item.origin is Origin.FILE else "choose another name",
            source_line=located.source.line_text(place.line),
            invalid=refused,
        )

    def _owner_above(self, key: ResourceKey, origin: Origin) -> Item | None:
        """The resource of that key in another layer, if it is for that layer to say; an overlay is never in anyone's way."""
        if origin is Origin.OVERLAY:
            return None
        for other in (Origin.FILE, Origin.API, Origin.RUNNER):
            located = self.inventory.layer(other).get(key)
            if located is not None and other is not origin:
                return Item(located, other)
        return None

    # persistence

    def restore(self) -> None:
        """Take over what the API and the runner gave before the last restart; a damaged file is reported and ignored."""
        if self._state_file is None or not self._state_file.exists():
            return
        try:
            saved = json.loads(self._state_file.read_text())
            for origin in _GIVEN:
                located = [revived(entry) for entry in saved.get(origin.value, ())]
                self.inventory.change(origin, [each for each in located if each is not None])
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._log.error(
                "the state of the last run cannot be read, going on without it",
                file=str(self._state_file),
                error=str(error),
            )

    def save(self) -> None:
        """Write the state file if anything has changed; blocking, one at a time."""
        if self._state_file is None or not self._unsaved:
            return
        self._unsaved = False
        state = {
            origin.value: [told(located) for located in self.inventory.layer(origin).values()] for origin in _GIVEN
        }
        try:
            write_kept(self._state_file, state)
        except OSError as error:
            self._log.error("the state cannot be saved, a restart will forget it", error=str(error))


def _owner(item: Item) -> str:
    place = item.located.source.position(())
    if item.origin is Origin.FILE:
        return f"is declared in {item.located.source.file}:{place.line}"
    return f"belongs to the {item.origin.value}"
