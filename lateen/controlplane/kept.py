"""What the control plane keeps over a restart: files of its own (0600), written whole or not at all, with resources as JSON in them."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from lateen.mesh.loader import Located, load_text


def write_kept(file: Path, content: object) -> None:
    """Replace the file by `content` as JSON; blocking, one at a time. OSError when that fails: the file is as before."""
    new = file.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        json.dump(content, opened)
    new.replace(file)


def told(located: Located) -> dict[str, Any]:
    """A resource and the file it came from, as JSON."""
    return {"file": located.source.file, "resource": located.resource.to_dict()}


def revived(entry: dict[str, Any]) -> Located | None:
    """The inverse of `told`; None if it is not valid any more. KeyError or TypeError for what `told` never wrote."""
    loaded = load_text(json.dumps(entry["resource"]), entry["file"]).resources
    return replace(loaded[0]) if loaded else None
