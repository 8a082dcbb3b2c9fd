"""`lateen up` and `lateen demo-token`: the local runner, and the issuer that runs with it."""

import sys
from datetime import timedelta
from pathlib import Path

from lateen.cli.apiclient import running_mesh
from lateen.cli.exits import CommandError, Exit
from lateen.cli.output import Colour, emit, wants_colour
from lateen.clock import SystemClock


def up(
    directory: Path,
    *,
    exec_command: str | None,
    mode: str,
    timeout: float,
    colour: Colour,
    stop_with_parent: bool,
    ahead_of_time: bool = False,
) -> None:
    """Run the mesh of `directory` until it is stopped or the command of --exec has ended."""
    from lateen.local.commands import MODES
    from lateen.local.parent import end_with_parent
    from lateen.local.up import run

    if mode not in MODES:
        raise CommandError(Exit.USAGE, f"unknown mode: {mode}", f"one of {', '.join(MODES)}")
    if not directory.is_dir():
        raise CommandError(Exit.USAGE, f"not a directory: {directory}")
    if stop_with_parent:
        end_with_parent()
    coloured = wants_colour(colour, sys.stderr)
    status = run(
        directory,
        exec_command=exec_command,
        mode=mode,
        timeout=timeout,
        colour=coloured,
        ahead_of_time=ahead_of_time,
    )
    raise SystemExit(status)


def demo_token(
    *,
    subject: str,
    claims: tuple[str, ...],
    audience: str,
    issuer: str | None,
    algorithm: str,
    ttl_seconds: int,
    control_plane: str | None,
) -> None:
    """Print a token signed with the key of the running mesh's issuer."""
    from lateen.local.issuer import ALGORITHMS, IssuerError, MintRequest, mint_token, parse_claims

    if algorithm not in ALGORITHMS:
        raise CommandError(Exit.USAGE, f"cannot sign with {algorithm}", f"one of {', '.join(ALGORITHMS)}")
    run = running_mesh(control_plane)
    if not run.issuers:
        raise CommandError(Exit.FINDINGS, f"{run.directory}/lateen.yaml names no issuer", "add one under `issuers:`")
    name = issuer or run.issuers[0]
    if name not in run.issuers:
        raise CommandError(Exit.USAGE, f"unknown issuer: {name}", f"one of {', '.join(run.issuers)}")
    try:
        request = MintRequest(
            issuer=name,
            subject=subject,
            audience=audience,
            claims=parse_claims(claims),
            ttl=timedelta(seconds=ttl_seconds),
            algorithm=algorithm,
        )
        emit(mint_token(Path(run.issuer_keys), request, SystemClock().now()))
    except ValueError as error:
        raise CommandError(Exit.USAGE, str(error), "write --claim NAME=VALUE") from error
    except IssuerError as error:
        raise CommandError(Exit.FINDINGS, str(error)) from error
