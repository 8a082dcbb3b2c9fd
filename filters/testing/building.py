"""From a filter's class to its module: builds are kept from run to run, by what goes into them."""

import fcntl
import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import filters.sdk
import lateen_filter
from filters.sdk.filter import HttpFilter
from filters.toolchain import sources
from filters.toolchain.build import COMPONENTIZE_VERSION, BuildError, build, find_sources

MOST_KEPT = 6


def module_of(kind: type[HttpFilter], source: Path | str | None, cache: Path) -> Path:
    """The .wasm with `kind`: built from `source` (see `lateen filter build`; None: where the class is defined), or `source` itself."""
    source = source_of(kind) if source is None else source
    if str(source).endswith(".wasm"):
        return Path(source)
    cache.mkdir(parents=True, exist_ok=True)
    with sources.staged(str(source)) as path:
        target = cache / f"{_digest(path)}.wasm"
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # test processes side by side build once
            if not target.exists():
                built = build(path)
                temporary = target.with_suffix(".part")
                temporary.write_bytes(built.linked.module)
                temporary.replace(target)
            target.touch()
            for old in sorted(cache.glob("*.wasm"), key=lambda item: item.stat().st_mtime)[:-MOST_KEPT]:
                old.unlink()
    return target


def source_of(kind: type[HttpFilter]) -> Path:
    """The directory of a class's file if that is a filter's project, else the file."""
    file = Path(inspect.getfile(kind)).resolve()
    if file.name.startswith("test_") or file.name == "conftest.py":
        raise BuildError(
            f"{kind.__name__} is defined in {file.name}: a module is built from source files, so put it in a file of its own"
        )
    try:
        name, files = find_sources(file.parent)
    except BuildError:
        return file
    return file.parent if name == file.stem and files[name].resolve() == file else file


def _digest(source: Path) -> str:
    digest = hashlib.sha256(COMPONENTIZE_VERSION.encode())
    for path in (*sorted(find_sources(source)[1].values()), *_own()):
        digest.update(str(path.name).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def _own() -> Iterator[Path]:
    """What goes into every module, or decides how it is linked."""
    root = Path(str(filters.sdk.__file__)).parent.parent
    for directory in (root / "sdk", root / "toolchain", root / "library", Path(str(lateen_filter.__file__)).parent):
        yield from sorted(path for path in directory.rglob("*.py") if "testing" not in path.parts)
