"""`lateen up` and `lateen demo-token`: the local runner, and the issuer that runs with it."""

import json
from pathlib import Path

from lateen.cli.apiclient import running_mesh
from lateen.cli.exits import CommandError, Exit
from lateen.cli.output import Colour, emit

MODES = ("loopback", "netns")


def up(directory: Path, *, exec_command: str | None, mode: str, timeout: float, colour: Colour) -> None:
    """Run the mesh of `directory` until it is stopped or the command of --exec has ended."""
    from lateen.local.up import run

    if mode not in MODES:
        raise CommandError(Exit.USAGE, f"unknown mode: {mode}", f"one of {', '.join(MODES)}")
    if not directory.is_dir():
        raise CommandError(Exit.USAGE, f"not a directory: {directory}")
    raise SystemExit(run(directory, exec_command=exec_command, mode=mode, timeout=timeout, colour=colour.value))


def demo_token(
    *,
    subject: str,
    claims: tuple[str, ...],
    audience: str,
    issuer: str | None,
    ttl_seconds: int,
    control_plane: str | None,
) -> None:
    """Print a token signed with the key of the running mesh's issuer."""
    from lateen.local.issuer import mint_token

    run = running_mesh(control_plane)
    if not run.issuers:
        raise CommandError(Exit.FINDINGS, f"{run.directory}/lateen.yaml names no issuer", "add one under `issuers:`")
    name = issuer or run.issuers[0]
    if name not in run.issuers:
        raise CommandError(Exit.USAGE, f"unknown issuer: {name}", f"one of {', '.join(run.issuers)}")
    emit(
        mint_token(
            Path(run.issuer_keys),
            issuer=name,
            subject=subject,
            audience=audience,
            ttl_seconds=ttl_seconds,
            claims=dict(parse_claim(claim) for claim in claims),
        )
    )


def parse_claim(text: str) -> tuple[str, object]:
    """`scope=payments:read` as it stands; a value that is a JSON list, object, number or boolean becomes one."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise CommandError(Exit.USAGE, f"not a claim: {text!r}", "write NAME=VALUE")
    if value[:1] in {"[", "{"} or value in {"true", "false"} or value.lstrip("-").isdigit():
        try:
            return name, json.loads(value)
        except ValueError as error:
            raise CommandError(Exit.USAGE, f"{name}: looks like JSON but is not: {error}") from error
    return name, value
