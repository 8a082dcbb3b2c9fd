"""Printing of diagnostics, and the exit code they mean."""

import sys
from collections.abc import Iterable, Sequence

from lateen.cli.exits import Exit
from lateen.cli.output import Colour, say, wants_colour
from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.render import render_diagnostics


def exit_code(diagnostics: Iterable[Diagnostic], threshold: Severity) -> Exit:
    """INVALID when a resource is wrong in itself, FINDINGS when something reaches the threshold, else OK."""
    code = Exit.OK
    for diagnostic in diagnostics:
        if diagnostic.invalid:
            return Exit.INVALID
        if diagnostic.severity.rank >= threshold.rank:
            code = Exit.FINDINGS
    return code


def print_diagnostics(diagnostics: Sequence[Diagnostic], colour: Colour) -> None:
    """Every diagnostic in full on stderr, file by file."""
    if diagnostics:
        say(render_diagnostics(diagnostics, colour=wants_colour(colour, sys.stderr)))


def summary(diagnostics: Sequence[Diagnostic]) -> str:
    """`2 errors, 1 warning`, or `no findings`."""
    counts = [
        (sum(d.severity is severity for d in diagnostics), severity.value)
        for severity in sorted(Severity, key=lambda s: -s.rank)
    ]
    return (
        ", ".join(f"{n} {word}{'s' if n != 1 and word != 'info' else ''}" for n, word in counts if n) or "no findings"
    )
