"""What is set aside, kept in a file: after a restart the version before stays in effect, though its YAML is long gone."""

import json
import os
from pathlib import Path
from typing import Any

import structlog

from lateen.controlplane.blobs import Blob
from lateen.controlplane.quarantine import Quarantine, Quarantined
from lateen.mesh.loader import Located, load_text


class QuarantineMemory:
    """A file (0600) of those that are alone to blame; the undecided are looked for anew."""

    def __init__(self, file: Path) -> None:
        """The file need not exist; one that is damaged is reported and counts as empty."""
        self._file = file
        self._saved: list[dict[str, Any]] = []
        self._log = structlog.get_logger()

    def restore(self, quarantine: Quarantine) -> None:
        """Set aside again what was; blocking."""
        try:
            saved = json.loads(self._file.read_text())
            for entry in saved:
                located, before = _revive(entry["set_aside"]), _revive(entry["before"])
                if located is not None:
                    refused = Blob(entry["type_url"], entry["name"], "", b"", (located.resource.key,))
                    quarantine.restore(Quarantined(located, refused, None, entry["message"], alone=True), before)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._log.error("what was set aside cannot be read", file=str(self._file), error=str(error))
            return
        self._saved = saved

    def save(self, quarantine: Quarantine) -> None:
        """Write what is set aside if it has changed; blocking (a small file), one at a time."""
        entries = [
            {
                "set_aside": _told(held.located),
                "before": _told(quarantine.before(held.located.resource.key)),
                "type_url": held.refused.type_url,
                "name": held.refused.name,
                "message": held.message,
            }
            for held in quarantine.refusals
            if held.alone
        ]
        if entries == self._saved:
            return
        new = self._file.with_suffix(".new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(entries, file)
            new.replace(self._file)
            self._saved = entries
        except OSError as error:
            self._log.error("what is set aside cannot be saved, a restart will forget it", error=str(error))


def _told(located: Located | None) -> dict[str, Any] | None:
    return None if located is None else {"file": located.source.file, "resource": located.resource.to_dict()}


def _revive(entry: dict[str, Any] | None) -> Located | None:
    if entry is None:
        return None
    loaded = load_text(json.dumps(entry["resource"]), entry["file"]).resources
    return loaded[0] if loaded else None
