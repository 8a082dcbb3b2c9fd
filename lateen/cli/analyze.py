"""`lateen analyze`: diagnostics of files, or of the running mesh."""

from collections.abc import Sequence
from pathlib import Path

from lateen.cli.apiclient import ControlPlane, find_control_plane
from lateen.cli.exits import CommandError, Exit
from lateen.cli.findings import exit_code, print_diagnostics, summary
from lateen.cli.output import Colour, Format, emit, render_data, say
from lateen.mesh.diagnostics import Diagnostic, Severity


def analyze(
    paths: Sequence[Path],
    *,
    fmt: Format,
    threshold: str,
    suppress: Sequence[str],
    control_plane: str | None,
    colour: Colour,
) -> None:
    """Print every finding; the exit code says the worst of them."""
    try:
        level = Severity(threshold)
    except ValueError as error:
        raise CommandError(Exit.USAGE, f"unknown threshold: {threshold}", "one of error, warning, info") from error
    found = analyze_paths(paths) if paths else analyze_running(control_plane)
    diagnostics = [d for d in found if not is_suppressed(d, suppress)]
    if fmt in {Format.JSON, Format.YAML}:
        emit(render_data({"diagnostics": [d.to_dict() for d in diagnostics]}, fmt))
    elif fmt is Format.NAME:
        emit("\n".join(f"{d.code} {d.resource}" for d in diagnostics))
    else:
        print_diagnostics(diagnostics, colour)
        say(summary(diagnostics))
    raise SystemExit(exit_code(diagnostics, level))


def analyze_paths(paths: Sequence[Path]) -> list[Diagnostic]:
    """What the loader and the analyser find in these files and directories.

    What the lateen.yaml of a directory makes at start, its certificates, counts as being there.
    """
    from lateen.controlplane.native_findings import native_findings
    from lateen.controlplane.plugin_findings import file_findings, script_findings
    from lateen.controlplane.plugin_trial import EnvoyTrial
    from lateen.local.source import local_secrets, read_local
    from lateen.mesh.analysis import analyze as analyze_view
    from lateen.mesh.loader import load_paths
    from lateen.mesh.meshconfig import MeshConfig
    from lateen.mesh.view import MeshView

    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise CommandError(Exit.USAGE, f"no such file or directory: {', '.join(missing)}")
    loaded = load_paths(paths)
    local = [read_local(path) for path in paths if path.is_dir()]
    secrets = [secret for spec, _ in local for secret in local_secrets(spec)]
    view = MeshView.build([*loaded.resources, *secrets], loaded.mesh or MeshConfig())
    return [
        *loaded.diagnostics,
        *(d for _, found in local for d in found),
        *analyze_view(view),
        *native_findings(view),
        *file_findings(view),
        *script_findings(view, EnvoyTrial()),
    ]


def analyze_running(control_plane: str | None) -> list[Diagnostic]:
    """What the control plane holds against its present configuration."""
    with ControlPlane(find_control_plane(control_plane)) as api:
        return [Diagnostic.from_dict(d) for d in api.get("/v1/diagnostics")["diagnostics"]]


def is_suppressed(diagnostic: Diagnostic, rules: Sequence[str]) -> bool:
    """Whether a rule `CODE` or `CODE=KIND/NS/NAME` names this finding; what is invalid in itself is never hidden."""
    if diagnostic.invalid:
        return False
    for rule in rules:
        code, _, resource = rule.partition("=")
        if code == diagnostic.code and (not resource or resource == diagnostic.resource):
            return True
    return False
