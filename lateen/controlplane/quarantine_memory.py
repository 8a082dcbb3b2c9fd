"""What is set aside, kept in a file: after a restart the version before stays in effect, though its YAML is long gone."""

import json
from pathlib import Path
from typing import Any

import structlog

from lateen.controlplane.blobs import Blob
from lateen.controlplane.kept import revived, told, write_kept
from lateen.controlplane.quarantine import Quarantine, Quarantined


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
                located, earlier = revived(entry["set_aside"]), entry["before"]
                before = None if earlier is None else revived(earlier)
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
                "set_aside": told(held.located),
                "before": None if (before := quarantine.before(held.located.resource.key)) is None else told(before),
                "type_url": held.refused.type_url,
                "name": held.refused.name,
                "message": held.message,
            }
            for held in quarantine.refusals
            if held.alone
        ]
        if entries == self._saved:
            return
        try:
            write_kept(self._file, entries)
            self._saved = entries
        except OSError as error:
            self._log.error("what is set aside cannot be saved, a restart will forget it", error=str(error))
