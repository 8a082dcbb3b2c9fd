"""`lateen filter`: filters in Python, from a first file to a running Envoy."""

import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lateen.cli.exits import EPILOG, CommandError, Exit
from lateen.cli.output import emit, say

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
MIB = 1024 * 1024
SourceArgument = Annotated[Path, typer.Argument(help="A Python file, a package, or a directory with one filter.")]
SeedOption = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Build the same bytes again; else random.")]
MemoryOption = Annotated[int, typer.Option(min=32, max=1024, help="MiB of memory a VM may use.")]
CpuOption = Annotated[int, typer.Option("--cpu", min=1, max=10_000, help="Milliseconds a callback may take.")]

NEW_FILTER = '''"""{title}: an HTTP filter for Envoy."""

from lateen_filter import FilterConfig, HttpFilter, Request, Response


class {name}(HttpFilter):
    """Answers requests under one path itself, and marks the responses to all others."""

    class Config(FilterConfig):
        path: str = "/maintenance"
        message: str = "back soon"

    config: Config

    async def on_request(self, request: Request) -> Response | None:
        if request.path.startswith(self.config.path):
            return Response(503, self.config.message + "\\n", {{"retry-after": "60"}})
        return None

    async def on_response(self, request: Request, response: Response) -> None:
        response.headers["x-filtered-by"] = "{title}"
'''
NEW_TEST = '''"""The filter can be imported and configured as plain Python."""

import pytest
from lateen_filter import ConfigError, HttpFilter

from {module} import {name}


def test_defaults() -> None:
    assert issubclass({name}, HttpFilter)
    assert {name}.Config().path == "/maintenance"


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such field"):
        {name}.Config(pth="/x")
'''


@app.command(short_help="Start a filter: a file, a test, nothing else.")
def new(directory: Annotated[Path, typer.Argument(help="Where; its name becomes the filter's.")]) -> None:
    """Write a filter that works and a test of it.

    lateen filter new maintenance
    """
    title = directory.name
    if not re.fullmatch(r"[a-z][a-z0-9-]*", title):
        raise CommandError(
            Exit.USAGE, f"{title!r} is no name for a filter", "use lower-case letters, digits and dashes"
        )
    if directory.exists() and any(directory.iterdir()):
        raise CommandError(Exit.USAGE, f"{directory} is not empty")
    module = title.replace("-", "_")
    name = "".join(part.capitalize() for part in title.split("-"))
    (directory / "tests").mkdir(parents=True)
    (directory / f"{module}.py").write_text(NEW_FILTER.format(title=title, name=name))
    (directory / "tests" / f"test_{module}.py").write_text(NEW_TEST.format(module=module, name=name))
    say(f"{directory}/{module}.py\n{directory}/tests/test_{module}.py\nnext: lateen filter run {directory}")


@app.command(epilog=EPILOG, short_help="Build a filter into one .wasm file.")
def build(
    source: SourceArgument,
    *,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: the filter's name + .wasm.")] = None,
    seed: SeedOption = None,
    memory: MemoryOption = 128,
    cpu: CpuOption = 100,
) -> None:
    """Build a filter into one Proxy-Wasm module for stock Envoy.

    lateen filter build maintenance -o maintenance.wasm
    """
    built = _build(source, output or Path(f"{source.stem}.wasm"), seed=seed, memory=memory, cpu=cpu)
    emit(str(built))


@app.command(epilog=EPILOG, short_help="Build a filter and run it in a local Envoy; built again on save.")
def run(
    source: SourceArgument,
    *,
    name: Annotated[str | None, typer.Option(help="Which filter, if there are several.")] = None,
    config: Annotated[str, typer.Option(metavar="JSON", help="Its configuration; @FILE reads a file.")] = "{}",
    upstream: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where requests go; else Envoy answers itself.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where Envoy listens.")] = 8080,
    memory: MemoryOption = 128,
    cpu: CpuOption = 100,
) -> None:
    """Build a filter and run it in a local Envoy, until Ctrl-C. Saving a file builds and starts it anew.

    lateen filter run maintenance --config '{"message": "tomorrow"}' --upstream localhost:3000
    """
    from lateen.cli import filterrun

    settings = filterrun.Settings(name, filterrun.read_config(config), filterrun.parse_upstream(upstream), port)
    with tempfile.TemporaryDirectory(prefix="lateen-filter-") as directory:
        module = Path(directory, "filter.wasm")
        filterrun.run(source, module, settings, lambda: _build(source, module, seed=None, memory=memory, cpu=cpu))


@app.command(short_help="Show what a module holds.")
def inspect(
    module: Annotated[Path, typer.Argument(help="A .wasm file.")],
    *,
    fmt: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """Show the filters of a module with their configuration, imports, exports and sizes.

    lateen filter inspect maintenance.wasm
    """
    import json

    from filters.toolchain.binary import MalformedModuleError
    from filters.toolchain.inspection import inspect_module, render_inspection

    try:
        found = inspect_module(module.read_bytes())
    except (OSError, MalformedModuleError) as error:
        raise CommandError(Exit.INVALID, f"{module}: {error}") from None
    emit(json.dumps(found.to_dict(), indent=2) if fmt == "json" else render_inspection(found))


def _build(source: Path, output: Path, *, seed: int | None, memory: int, cpu: int) -> Path:
    from filters.toolchain.binary import MalformedModuleError
    from filters.toolchain.build import BuildError
    from filters.toolchain.build import build as build_filter
    from filters.toolchain.inspection import render_modules
    from filters.toolchain.shim import Limits

    try:
        built = build_filter(source, seed=seed, limits=Limits(cpu, memory))
    except (BuildError, MalformedModuleError) as error:
        raise CommandError(Exit.INVALID, str(error)) from None
    for warning in built.warnings:
        say(f"warning: {warning}")
    temporary = output.with_suffix(".part")
    temporary.write_bytes(built.linked.module)
    temporary.replace(output)
    say(
        f"{output}: {len(built.linked.module) / MIB:.1f} MiB, built in "
        f"{built.componentize_seconds + built.link_seconds:.1f} s, seed {built.seed}"
    )
    say(render_modules(built.linked.manifest))
    return output
