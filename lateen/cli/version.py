"""`lateen version`."""

import platform
import re
import subprocess

from lateen import __version__
from lateen.cli.output import Format, emit, render_data, render_table
from lateen.envoy_binary import envoy_path


def version(fmt: Format) -> None:
    """Print versions; a missing Envoy is reported as such, not as a failure."""
    facts = {"lateen": __version__, "envoy": envoy_version(), "python": platform.python_version()}
    if fmt in {Format.JSON, Format.YAML}:
        emit(render_data(facts, fmt))
    elif fmt is Format.NAME:
        emit(__version__)
    else:
        emit(render_table(("COMPONENT", "VERSION"), facts.items()))


def envoy_version() -> str:
    """`1.40.0` of the Envoy that would be run, or why there is none."""
    try:
        path = envoy_path()
        printed = subprocess.run(
            [str(path), "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"not found ({error})"
    found = re.search(r"/(\d+\.\d+\.\d+[^/]*)/", printed)
    return found[1] if found else printed.strip()
