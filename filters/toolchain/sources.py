"""What can be built besides a path: `library:NAME[,NAME]` and `library:all`, the ready-made filters in one module."""

import importlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filters.toolchain.build import BuildError

PREFIX = "library:"
ALL = "all"


@contextmanager
def staged(source: str) -> Iterator[Path]:
    """The path to build for `source`; a temporary one for the library. BuildError for a filter the library does not have."""
    if not source.startswith(PREFIX):
        yield Path(source)
        return
    catalog = _catalog()
    names = source.removeprefix(PREFIX).split(",")
    chosen = sorted(catalog) if names == [ALL] else names
    unknown = [name for name in chosen if name not in catalog]
    if unknown or not chosen:
        raise BuildError(
            f"the library has no filter {', '.join(unknown) or '(none)'}; it has: {', '.join(sorted(catalog))}"
        )
    with tempfile.TemporaryDirectory(prefix="lateen-library-") as directory:
        path = Path(directory, "library_filters.py")
        path.write_text(_entry([catalog[name] for name in dict.fromkeys(chosen)]))
        yield path


def _entry(places: list[str]) -> str:
    """A module that imports classes by their import path, `package.module:Class` or `package.module.Class`."""
    lines = []
    for place in places:
        module, _, name = place.replace(":", ".").rpartition(".")
        lines.append(f"from {module} import {name} as {name}")
    return "\n".join(["import lateen_filter", *lines, ""])


def _catalog() -> Mapping[str, str]:
    try:
        library = importlib.import_module("filters.library")
    except ImportError:
        return {}
    found: Mapping[str, str] = library.catalog()
    return found
