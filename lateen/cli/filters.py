"""`lateen filter`: filters in Python, from a first file to a running Envoy."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lateen.cli.choices import choice_of
from lateen.cli.exits import EPILOG
from lateen.cli.output import Format, emit

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A Python file, a package, a directory with one filter, library:NAME[,NAME] or library:all.",
    ),
]
SeedOption = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Build the same bytes again; else random.")]
MemoryOption = Annotated[int, typer.Option(min=32, max=1024, help="MiB of memory a VM may use.")]
CpuOption = Annotated[int, typer.Option("--cpu", min=1, max=10_000, help="Milliseconds a callback may take.")]


@app.command(epilog=EPILOG, short_help="Start a filter: a file, its tests, nothing else.")
def new(directory: Annotated[Path, typer.Argument(help="Where; its name becomes the filter's.")]) -> None:
    """Write a filter that works, and tests of it that run on both hosts.

    lateen filter new maintenance
    """
    from lateen.cli import filternew

    filternew.new(directory)


@app.command(
    epilog=EPILOG,
    short_help="Run a filter's tests: as plain Python, or in Envoy.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def test(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="The filter's project.")] = Path(),  # noqa: PT028  (no test)
    *,
    envoy: Annotated[bool, typer.Option("--envoy", help="Run them with the built module in a real Envoy.")] = False,  # noqa: PT028
    module: Annotated[Path | None, typer.Option(help="With --envoy, test this .wasm instead of building.")] = None,  # noqa: PT028
) -> None:
    """Run the tests of a filter with pytest. What follows DIRECTORY and -- goes to pytest.

    Without --envoy filters run as plain Python against a fake host with Envoy's semantics, in milliseconds.

    lateen filter test maintenance --envoy -- -k reply -x
    """
    from lateen.cli import filtertest

    raise typer.Exit(filtertest.test(directory, envoy=envoy, module=module, arguments=context.args))


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

    lateen filter build library:request-id,api-key
    """
    from lateen.cli import filterbuild

    filterbuild.stop_cleanly()
    target = output or Path(f"{filterbuild.stem(source)}.wasm")
    emit(str(filterbuild.build(source, target, filterbuild.Options(seed, memory, cpu))))


@app.command(epilog=EPILOG, short_help="Build a filter and run it in a local Envoy; built again on save.")
def run(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="As for build, or a .wasm file.")],
    *,
    name: Annotated[str | None, typer.Option(help="Which filter, if there are several.")] = None,
    config: Annotated[str, typer.Option(metavar="JSON", help="Its configuration; @FILE reads a file (once).")] = "{}",
    upstream: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where requests go; else Envoy answers itself.")
    ] = None,
    cluster: Annotated[
        list[str] | None,
        typer.Option("--cluster", metavar="NAME=HOST:PORT", help="A cluster the filter can call. Repeatable."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where Envoy listens; 0: any free port.")] = 8080,
    memory: MemoryOption = 128,
    cpu: CpuOption = 100,
) -> None:
    """Build a filter and run it in a local Envoy, until Ctrl-C.

    When a file is saved, the filter is built again and takes the place of the one that runs; if it cannot be built, or
    Envoy refuses its configuration, the old one goes on.

    lateen filter run maintenance --config '{"message": "tomorrow"}' --upstream localhost:3000
    """
    from lateen.cli import filterbuild, filterrun

    filterbuild.stop_cleanly()
    settings = filterrun.Settings(
        name,
        filterrun.read_config(config),
        filterrun.parse_upstream(upstream),
        filterrun.parse_clusters(cluster or ()),
        port,
    )
    with tempfile.TemporaryDirectory(prefix="lateen-filter-") as directory:
        filterrun.run(source, Path(directory), settings, filterbuild.Options(None, memory, cpu))


@app.command(epilog=EPILOG, short_help="Put a module where Envoys can fetch it: a directory or an OCI registry.")
def publish(
    module: Annotated[str, typer.Argument(metavar="MODULE", help="A .wasm file, or a SOURCE to build first.")],
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="oci://REGISTRY/REPOSITORY:TAG, oci-dir://DIRECTORY:TAG or a directory."),
    ],
    *,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="The registry speaks HTTP, not HTTPS.")] = False,
    seed: SeedOption = None,
    memory: MemoryOption = 128,
    cpu: CpuOption = 100,
) -> None:
    """Publish a module as an OCI image with one Wasm layer, or as a file, and print where it is, with its sha256.

    Credentials come from ~/.docker/config.json (DOCKER_CONFIG), credential helpers included. What is printed belongs into
    a WasmPlugin: `url` and `sha256`.

    lateen filter publish maintenance.wasm oci://registry.example.com/filters/maintenance:1.0
    """
    from lateen.cli import filterbuild, filterpublish

    filterbuild.stop_cleanly()
    options = filterbuild.Options(seed, memory, cpu)
    emit(filterpublish.publish(module, target, options, plain_http=plain_http))


@app.command(epilog=EPILOG, short_help="Show what a module holds.")
def inspect(
    module: Annotated[Path, typer.Argument(help="A .wasm file.")],
    *,
    fmt: Annotated[
        Format,
        typer.Option("-o", "--output", parser=choice_of(Format), metavar="table|json|yaml", help="Output format."),
    ] = Format.TABLE,
) -> None:
    """Show the filters of a module with their configuration, imports, exports and sizes.

    lateen filter inspect maintenance.wasm
    """
    from lateen.cli import filterinspect

    emit(filterinspect.inspect(module, fmt))
