"""Entry point of `lateen`: the commands' names, options and help texts. What they do stands in the sibling modules."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lateen.cli.choices import choice_of, choices_of
from lateen.cli.exits import EPILOG, CommandError, Exit
from lateen.cli.filters import app as filters_app
from lateen.cli.output import Colour, Format, say

app = typer.Typer(
    name="lateen",
    help="Istio's API on stock Envoy: run, inspect and explain a mesh.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RUN = "Run a mesh"
CHANGE = "Change and check configuration"
INSPECT = "Inspect"
FILTERS = "Filters in Python"
SERVERS = "Servers (what `up` starts, one by one)"

ControlPlaneOption = Annotated[
    str | None,
    typer.Option(
        "--control-plane",
        metavar="URL",
        help="Apply API: unix:///path/api.sock or http://host:port. "
        "Default: $LATEEN_CONTROL_PLANE, else the only mesh on this host.",
    ),
]
FormatOption = Annotated[
    Format,
    typer.Option(
        *("-o", "--output"),
        parser=choice_of(Format),
        metavar=choices_of(Format),
        help="Output format; data goes to stdout.",
    ),
]
ColourOption = Annotated[
    Colour,
    typer.Option(
        "--color",
        parser=choice_of(Colour),
        metavar=choices_of(Colour),
        help="Colour of diagnostics; NO_COLOR is honoured.",
    ),
]
NamespaceOption = Annotated[str | None, typer.Option("-n", "--namespace", help="Only this namespace.")]
FilesOption = Annotated[
    list[Path] | None,
    typer.Option("-f", "--filename", metavar="PATH", help="Ask these manifests, no mesh needs to run. Repeatable."),
]


@app.command(rich_help_panel=RUN, epilog=EPILOG, short_help="Start the mesh described in a directory.")
def up(
    directory: Annotated[Path, typer.Argument(help="Directory of Istio and Kubernetes YAML with a lateen.yaml.")],
    exec_command: Annotated[
        str | None,
        typer.Option(
            "--exec", metavar="CMD", help="Run CMD in a shell when every proxy is in sync; exit with its status."
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="loopback (no root) or netns (root: one network namespace a replica).")
    ] = "loopback",
    timeout: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds to wait until every proxy is in sync.")
    ] = 60.0,
    *,
    stop_with_parent: Annotated[
        bool, typer.Option("--stop-with-parent", help="Also end when the process that started this one ends.")
    ] = False,
    ahead_of_time: Annotated[
        bool, typer.Option("--ahead-of-time", help="Keep machine code of Wasm modules, so that Envoys start at once.")
    ] = False,
    colour: ColourOption = Colour.AUTO,
) -> None:
    """Start the mesh described in DIRECTORY: apps, real Envoys, control plane, CA, ext_authz, rate limits, Redis.

    lateen up envoy-configs/payments

    lateen up envoy-configs/payments --exec 'curl -s $LATEEN_GATEWAY_URL/v1/charge'
    """
    from lateen.cli import running

    running.up(
        directory,
        exec_command=exec_command,
        mode=mode,
        timeout=timeout,
        colour=colour,
        stop_with_parent=stop_with_parent,
        ahead_of_time=ahead_of_time,
    )


@app.command(rich_help_panel=RUN, epilog=EPILOG, short_help="Print the logs of a workload or service.")
def logs(
    workload: Annotated[
        str | None, typer.Argument(help="Workload, replica or service; without it: what there is.")
    ] = None,
    *,
    control_plane: ControlPlaneOption = None,
    container: Annotated[
        str | None, typer.Option("-c", "--container", help="Only this log of the workload: app or envoy.")
    ] = None,
    tail: Annotated[int, typer.Option(min=0, help="Last N lines of each log; 0 for all.")] = 100,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing as lines are written.")] = False,
) -> None:
    """Print the logs of a workload's app and Envoy, or of a service of the mesh.

    lateen logs payments-api-v1 -c envoy -f
    """
    from lateen.cli import logs as command

    command.logs(workload, control_plane=control_plane, container=container, tail=tail, follow=follow)


@app.command("demo-token", rich_help_panel=RUN, epilog=EPILOG, short_help="Print a JWT of the mesh's local issuer.")
def demo_token(
    *,
    subject: Annotated[str, typer.Option("--sub", help="Subject of the token.")] = "alice",
    claims: Annotated[
        list[str] | None,
        typer.Option("--claim", metavar="NAME=VALUE", help="A claim; VALUE may be JSON. Repeatable."),
    ] = None,
    audience: Annotated[str, typer.Option("--aud", help="Audience of the token.")] = "payments-api",
    issuer: Annotated[str | None, typer.Option("--iss", help="Issuer, when lateen.yaml names several.")] = None,
    algorithm: Annotated[str, typer.Option("--alg", help="RS256 or ES256.")] = "RS256",
    ttl: Annotated[int, typer.Option(help="Seconds of validity; negative for a token that has expired.")] = 3600,
    control_plane: ControlPlaneOption = None,
) -> None:
    """Print a JWT signed by the running mesh's local issuer.

    lateen demo-token --sub alice --claim scope=payments:read
    """
    from lateen.cli import running

    running.demo_token(
        subject=subject,
        claims=tuple(claims or ()),
        audience=audience,
        issuer=issuer,
        algorithm=algorithm,
        ttl_seconds=ttl,
        control_plane=control_plane,
    )


@app.command(rich_help_panel=CHANGE, epilog=EPILOG, short_help="Apply resources to the running mesh.")
def apply(
    files: Annotated[
        list[str], typer.Option("-f", "--filename", metavar="FILE", help="File, directory or - for stdin. Repeatable.")
    ],
    *,
    control_plane: ControlPlaneOption = None,
    fmt: FormatOption = Format.TABLE,
    colour: ColourOption = Colour.AUTO,
) -> None:
    """Apply resources to the running mesh; a file with an invalid resource changes nothing.

    lateen apply -f canary.yaml
    """
    from lateen.cli import resources

    resources.apply(tuple(files), control_plane=control_plane, fmt=fmt, colour=colour)


@app.command(rich_help_panel=CHANGE, epilog=EPILOG, short_help="List resources of the running mesh.")
def get(
    kind: Annotated[str, typer.Argument(metavar="KIND[/NAME]", help="vs, destinationrules, HTTPRoute ... or all.")],
    name: Annotated[str | None, typer.Argument(help="Name of one resource.")] = None,
    *,
    namespace: NamespaceOption = None,
    fmt: FormatOption = Format.TABLE,
    control_plane: ControlPlaneOption = None,
) -> None:
    """List the resources of the running mesh, in all namespaces unless -n names one.

    lateen get vs

    lateen get virtualservice/payments-api -n payments -o yaml
    """
    from lateen.cli import resources

    resources.get(kind, name, namespace=namespace, fmt=fmt, control_plane=control_plane)


@app.command(rich_help_panel=CHANGE, epilog=EPILOG, short_help="Delete a resource that was applied.")
def delete(
    kind: Annotated[str, typer.Argument(metavar="KIND[/NAME]", help="As in get.")],
    name: Annotated[str | None, typer.Argument(help="Name of the resource.")] = None,
    *,
    namespace: Annotated[
        str | None, typer.Option("-n", "--namespace", help="Its namespace.", show_default="default")
    ] = None,
    control_plane: ControlPlaneOption = None,
) -> None:
    """Delete a resource that was applied to the running mesh (one from a file goes with its file)."""
    from lateen.cli import resources

    resources.delete(kind, name, namespace=namespace, control_plane=control_plane)


@app.command(rich_help_panel=CHANGE, epilog=EPILOG, short_help="Check resources and how they fit together.")
def analyze(
    paths: Annotated[list[Path] | None, typer.Argument(help="Files and directories; none: the running mesh.")] = None,
    *,
    fmt: FormatOption = Format.TABLE,
    threshold: Annotated[
        str, typer.Option("--failure-threshold", help="error, warning or info: findings from here on exit with 1.")
    ] = "error",
    suppress: Annotated[
        list[str] | None,
        typer.Option("-S", "--suppress", metavar="CODE[=KIND/NS/NAME]", help="Leave findings out. Repeatable."),
    ] = None,
    control_plane: ControlPlaneOption = None,
    colour: ColourOption = Colour.AUTO,
) -> None:
    """Check resources, each in itself and how they fit together.

    Exits with 3 when a resource is invalid in itself, with 1 when findings reach the threshold.

    lateen analyze envoy-configs/payments
    """
    from lateen.cli import analyze as command

    command.analyze(
        tuple(paths or ()),
        fmt=fmt,
        threshold=threshold,
        suppress=tuple(suppress or ()),
        control_plane=control_plane,
        colour=colour,
    )


@app.command(
    "proxy-status", rich_help_panel=INSPECT, epilog=EPILOG, short_help="Show whether proxies are in sync, and why not."
)
def proxy_status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME[.NS]]", help="Only this proxy or workload.")] = None,
    *,
    fmt: FormatOption = Format.TABLE,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Print again whenever something changes.")] = False,
    control_plane: ControlPlaneOption = None,
) -> None:
    """Show whether each proxy runs the configuration it should, and why not.

    SYNCED: acknowledged. STALE 3s: sent, not yet acknowledged. NACK: refused by Envoy, which keeps the last good
    state; the reason and the YAML it came from follow below the table. NOT SENT: asked for, nothing to send yet.
    Columns show only the xDS types in use: CDS clusters, EDS endpoints, LDS listeners, RDS routes, SDS secrets.
    Exits with 1 when a proxy has refused something.
    """
    from lateen.cli import proxystatus

    proxystatus.proxy_status(name, fmt=fmt, watch=watch, control_plane=control_plane)


@app.command(rich_help_panel=INSPECT, epilog=EPILOG, short_help="Show everything that applies to a workload.")
def describe(
    workload: Annotated[str, typer.Argument(help="NAME, NAMESPACE/NAME or NAME.NAMESPACE.")],
    *,
    files: FilesOption = None,
    fmt: FormatOption = Format.TABLE,
    control_plane: ControlPlaneOption = None,
) -> None:
    """Show a workload: its services and mutual TLS, the policies it is under, and the plugins in its proxy's chains.

    Of each plugin: which module runs (the first digits of its sha256), READY, PENDING or FAILED, and what line is to blame.

    lateen describe payments/payments-api
    """
    from lateen.cli import describe as command

    command.workload(workload, files=tuple(files or ()), fmt=fmt, control_plane=control_plane)


explain_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, epilog=EPILOG)
authz_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, epilog=EPILOG)
app.add_typer(
    explain_app,
    name="explain",
    rich_help_panel=INSPECT,
    help="Explain where a request goes, and why it is allowed or denied.",
)
app.add_typer(
    authz_app, name="authz", rich_help_panel=INSPECT, help="Show what applies to a workload, and issuers' keys."
)

app.add_typer(
    filters_app,
    name="filter",
    rich_help_panel=FILTERS,
    help="Write Envoy HTTP filters in Python: new, test, run, build, publish.",
)

ExtAuthzOption = Annotated[
    list[str] | None,
    typer.Option(
        "--extauthz", metavar="URL", help="HTTP address of a replica; default: those of the mesh. Repeatable."
    ),
]


@explain_app.command("authz", epilog=EPILOG, short_help="Whether a request would be allowed, and why.")
def explain_authz(
    method: Annotated[str | None, typer.Argument(help="HTTP method; none: a TCP connection.")] = None,
    path: Annotated[str | None, typer.Argument(help="Path, with its query if any.")] = None,
    *,
    target: Annotated[str, typer.Option("--to", metavar="WORKLOAD", help="NAME, NAMESPACE/NAME or NAME.NAMESPACE.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="WORKLOAD|IDENTITY", help="Workload, or spiffe://TD/ns/NS/sa/SA.")
    ] = None,
    headers: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME=VALUE", help="A request header. Repeatable.")
    ] = None,
    token: Annotated[str | None, typer.Option("--token", metavar="JWT", help="As Authorization: Bearer.")] = None,
    plaintext: Annotated[bool, typer.Option("--plaintext", help="Without mutual TLS: no identity.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the workload or its Service; 0: the first.")] = 0,
    files: FilesOption = None,
    fmt: FormatOption = Format.TABLE,
    control_plane: ControlPlaneOption = None,
) -> None:
    """Say whether a request would be allowed, which rule decides, and why others do not match.

    The running mesh is asked, or with -f the manifests. Exits with 0 when it is allowed, with 1 when it is denied.

    lateen explain authz --from orders/orders --to payments/payments-api POST /v1/charge -H x-tenant=acme
    """
    from lateen.cli import explain as command

    command.authz(
        method,
        path,
        source=source,
        target=target,
        files=tuple(files or ()),
        headers=tuple(headers or ()),
        token=token,
        plaintext=plaintext,
        port=port,
        fmt=fmt,
        control_plane=control_plane,
    )


@explain_app.command("route", epilog=EPILOG, short_help="Where a request would go, and which rule says so.")
def explain_route(
    method: Annotated[str, typer.Argument(help="HTTP method.")],
    url: Annotated[str, typer.Argument(help="http://HOST:PORT/PATH, as the client calls it.")],
    *,
    source: Annotated[
        str, typer.Option("--from", metavar="WORKLOAD", help="Who calls, or the gateway that is called from outside.")
    ],
    headers: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME=VALUE", help="A request header. Repeatable.")
    ] = None,
    files: FilesOption = None,
    fmt: FormatOption = Format.TABLE,
    control_plane: ControlPlaneOption = None,
) -> None:
    """Say where a proxy would send a request: each rule in order, why it does not match, then subset and endpoints.

    The running mesh is asked, or with -f the manifests. Exits with 1 when the request gets nowhere.

    lateen explain route GET http://payments-api.payments:8080/v1/charge --from orders -H x-test-cohort=canary
    """
    from lateen.cli import routing as command

    command.route(method, url, source, tuple(headers or ()), tuple(files or ()), fmt, control_plane)


@explain_app.command("denial", epilog=EPILOG, short_help="Why a request was denied, by its x-lateen-denial id.")
def explain_denial(
    denial_id: Annotated[str, typer.Argument(metavar="ID", help="The x-lateen-denial header of the answer.")],
    *,
    extauthz_urls: ExtAuthzOption = None,
    fmt: FormatOption = Format.TABLE,
    control_plane: ControlPlaneOption = None,
) -> None:
    """Say why a request was denied: every replica of ext_authz is asked for the id.

    lateen explain denial 4f1d0c6a8e2b7d35
    """
    from lateen.cli import explain as command

    command.denial(denial_id, urls=tuple(extauthz_urls or ()), fmt=fmt, control_plane=control_plane)


@authz_app.command("check", epilog=EPILOG, short_help="List what applies to a workload, in evaluation order.")
def authz_check(
    workload: Annotated[str, typer.Argument(help="NAME, NAMESPACE/NAME or NAME.NAMESPACE.")],
    *,
    files: FilesOption = None,
    fmt: FormatOption = Format.TABLE,
    control_plane: ControlPlaneOption = None,
) -> None:
    """List the RequestAuthentications and AuthorizationPolicies that apply to a workload, in the order they are asked.

    lateen authz check payments/payments-api
    """
    from lateen.cli import authz as command

    command.check(workload, files=tuple(files or ()), fmt=fmt, control_plane=control_plane)


@authz_app.command("keys", epilog=EPILOG, short_help="Show how it stands with the keys of token issuers.")
def authz_keys(
    *,
    extauthz_urls: ExtAuthzOption = None,
    fmt: FormatOption = Format.TABLE,
    control_plane: ControlPlaneOption = None,
) -> None:
    """Show every source of keys at every replica: OK, STALE (old keys serve, refreshing fails), FAILING, WAITING.

    Exits with 1 when a source has no keys: tokens of its issuer get 401.
    """
    from lateen.cli import authz as command

    command.keys(urls=tuple(extauthz_urls or ()), fmt=fmt, control_plane=control_plane)


@app.command(rich_help_panel=INSPECT, short_help="Print versions.")
def version(fmt: FormatOption = Format.TABLE) -> None:
    """Print the versions of Lateen, of the Envoy it found and of Python."""
    from lateen.cli import version as command

    command.version(fmt)


SERVER_COMMANDS = {
    "controlplane": ("lateen.controlplane", "The xDS management server."),
    "agent": ("lateen.agent", "Keys, certificates and SDS beside Envoys."),
    "extauthz": ("extauthz", "The external authorization service."),
    "ratelimit-service": ("ratelimit", "The rate limit service."),
    "ca-service": ("ca", "The certificate authority."),
}


def _become(module: str) -> Callable[[list[str] | None], None]:
    """A command that becomes the server: its own process image and its own `--help`, as `python -m MODULE` is."""

    def command(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        import os

        os.execv(sys.executable, [sys.executable, "-P", "-m", module, *(arguments or ())])  # noqa: S606

    return command


for _name, (_module, _help) in SERVER_COMMANDS.items():
    app.command(
        _name,
        rich_help_panel=SERVERS,
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
        short_help=_help,
    )(_become(_module))


def _open_missing_streams() -> None:
    """Called without stdin, stdout or stderr (`2>&-`): nothing else that is opened may take their numbers."""
    import os

    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
            setattr(sys, name, os.fdopen(number, mode))


def main() -> None:
    """Run the command line; every way out has a documented exit code."""
    _open_missing_streams()
    try:
        app(prog_name="lateen")
    except CommandError as error:
        say(f"error: {error.message}")
        if error.hint:
            say(f"help: {error.hint}")
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(Exit.OK)
    except Exception as error:  # noqa: BLE001  (the last line of defence: a bug gets its own exit code)
        if isinstance(error, OSError) and error.filename:  # a disk, directory or permission of the user's
            say(f"error: {error.strerror}: {error.filename}")
            sys.exit(Exit.USAGE)
        traceback.print_exc()
        say("error: this is a bug in lateen; please report it with the lines above")
        sys.exit(Exit.BUG)


if __name__ == "__main__":
    main()
