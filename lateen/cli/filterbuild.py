"""Building for `lateen filter build`, `run` and `publish`: what goes in, what is said about it."""

import ast
import difflib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from filters.sdk.filter import HANDLERS
from filters.toolchain.binary import MalformedModuleError
from filters.toolchain.build import BuildError, find_sources
from filters.toolchain.build import build as build_filter
from filters.toolchain.inspection import inspect_module, render_modules
from filters.toolchain.shim import Limits
from filters.toolchain.sources import ALL, PREFIX, staged
from lateen.cli.exits import CommandError, Exit
from lateen.cli.output import say

MIB = 1024 * 1024
LIKENESS = 0.8
PROXY_WASM = frozenset(
    {"on_request_headers", "on_request_body", "on_request_trailers"}
    | {"on_response_headers", "on_response_body", "on_response_trailers"}
)
"""What others call these callbacks."""


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


def _check_output(output: Path) -> None:
    """CommandError, before anything is built, if the module could not be written there or would take a source's place."""
    if output.is_dir():
        raise CommandError(Exit.USAGE, f"--output: {output} is a directory", f"write {output / 'NAME.wasm'}")
    if not is_module(output.name):
        raise CommandError(
            Exit.USAGE, f"--output: {output} does not end in .wasm", f"write {output.with_suffix('.wasm')}"
        )
    if not output.parent.is_dir():
        raise CommandError(Exit.USAGE, f"--output: there is no directory {output.parent}")
    if not os.access(output.parent, os.W_OK):
        raise CommandError(Exit.USAGE, f"--output: {output.parent} cannot be written to")


def misspelt(source: Path) -> Iterator[str]:
    """Methods whose names are nearly those of handlers: Envoy would never call them."""
    for path in find_sources(source)[1].values():
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):  # the build says so
            continue
        for kind in ast.walk(tree):
            for item in kind.body if isinstance(kind, ast.ClassDef) and kind.bases else ():
                if not isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) or item.name in HANDLERS:
                    continue
                meant = difflib.get_close_matches(item.name, HANDLERS, 1, LIKENESS) or [
                    name for name in HANDLERS if item.name.startswith(f"{name}_") and item.name in PROXY_WASM
                ]
                if meant:
                    yield f"{path}:{item.lineno}: nothing calls {item.name}, did you mean {meant[0]}?"


def stop_cleanly() -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, so that nothing is left behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def build(source: str, output: Path, options: Options, *, brief: bool = False) -> Path:
    """Build `source` into `output`, whole or not at all, and say what was built, or (`brief`) how long that took.

    CommandError says why it was not.
    """
    if is_module(source):
        raise CommandError(Exit.USAGE, f"{source} is built already")
    _check_output(output)
    try:
        with staged(source) as path:
            for line in misspelt(path):
                say(f"warning: {line}")
            built = build_filter(path, seed=options.seed, limits=Limits(options.cpu, options.memory))
    except (BuildError, MalformedModuleError) as error:
        raise CommandError(Exit.INVALID, str(error)) from None
    for warning in built.warnings:
        say(f"warning: {warning}")
    temporary = output.with_name(output.name + ".part")
    try:
        temporary.write_bytes(built.linked.module)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    seconds = built.componentize_seconds + built.link_seconds
    if brief:
        say(f"built in {seconds:.1f} s")
    else:
        say(f"{output}: {len(built.linked.module) / MIB:.1f} MiB, built in {seconds:.1f} s, seed {built.seed}")
        say(render_modules(built.linked.manifest))
    return output
