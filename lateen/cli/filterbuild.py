"""Building for `lateen filter build`, `run` and `publish`: what goes in, what is said about it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from filters.toolchain.binary import MalformedModuleError
from filters.toolchain.build import BuildError
from filters.toolchain.build import build as build_filter
from filters.toolchain.inspection import inspect_module, render_modules
from filters.toolchain.shim import Limits
from filters.toolchain.sources import ALL, PREFIX, staged
from lateen.cli.exits import CommandError, Exit
from lateen.cli.output import say

MIB = 1024 * 1024


class Options(NamedTuple):
    """Of a build; memory in MiB, CPU in milliseconds."""

    seed: int | None
    memory: int
    cpu: int


def stem(source: str) -> str:
    """The name a module gets when none is given."""
    if source.startswith(PREFIX):
        names = source.removeprefix(PREFIX)
        return names if "," not in names and names != ALL else "library"
    return Path(source).resolve().stem


def is_module(source: str) -> bool:
    """Whether `source` is built already."""
    return source.endswith(".wasm")


def read_module(path: Path) -> tuple[bytes, Sequence[str]]:
    """A module and the names of its filters; CommandError if it is none."""
    try:
        content = path.read_bytes()
        filters = inspect_module(content).manifest.get("filters", [])
    except OSError as error:
        raise CommandError(Exit.INVALID, f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (MalformedModuleError, ValueError, IndexError) as error:
        raise CommandError(Exit.INVALID, f"{path}: {error}") from None
    return content, [item["name"] for item in filters] if isinstance(filters, list) else []


def build(source: str, output: Path, options: Options, *, brief: bool = False) -> Path:
    """Build `source` into `output`, whole or not at all, and say what was built, or (`brief`) how long that took.

    CommandError says why it was not.
    """
    if is_module(source):
        raise CommandError(Exit.USAGE, f"{source} is built already")
    if not output.parent.is_dir():
        raise CommandError(Exit.USAGE, f"--output: there is no directory {output.parent}")
    try:
        with staged(source) as path:
            built = build_filter(path, seed=options.seed, limits=Limits(options.cpu, options.memory))
    except (BuildError, MalformedModuleError) as error:
        raise CommandError(Exit.INVALID, str(error)) from None
    for warning in built.warnings:
        say(f"warning: {warning}")
    temporary = output.with_suffix(".part")
    temporary.write_bytes(built.linked.module)
    temporary.replace(output)
    seconds = built.componentize_seconds + built.link_seconds
    if brief:
        say(f"built in {seconds:.1f} s")
    else:
        say(f"{output}: {len(built.linked.module) / MIB:.1f} MiB, built in {seconds:.1f} s, seed {built.seed}")
        say(render_modules(built.linked.manifest))
    return output
