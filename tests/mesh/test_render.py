"""Diagnostics as text."""

import re

from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.render import render_diagnostic, render_diagnostics

FOUND = Diagnostic(
    code="LTN0104",
    severity=Severity.ERROR,
    message='unknown field "gatways"',
    resource="VirtualService/b/a",
    path="spec.gatways",
    file="dir/x.yaml",
    line=12,
    column=3,
    hint='did you mean "gateways"?',
    source_line="  gatways: [mesh]",
    invalid=True,
)


def test_plain() -> None:
    assert render_diagnostic(FOUND).split("\n") == [
        'error[LTN0104]: unknown field "gatways"',
        "  --> dir/x.yaml:12:3 (VirtualService/b/a spec.gatways)",
        "   |",
        "12 |   gatways: [mesh]",
        "   |   ^",
        '   = help: did you mean "gateways"?',
    ]


def test_colour_adds_nothing_but_colour() -> None:
    coloured = render_diagnostic(FOUND, colour=True)
    assert "\x1b[31m" in coloured
    assert re.sub(r"\x1b\[[0-9]+m", "", coloured) == render_diagnostic(FOUND)


def test_a_file_cannot_write_to_the_terminal() -> None:
    nasty = Diagnostic("LTN0104", Severity.ERROR, "a\x1b[2J", file="x", line=1, column=2, source_line="\tb\x1b]0;x\x07")
    for colour in (False, True):
        text = render_diagnostic(nasty, colour=colour)
        assert "\x1b[2J" not in text
        assert "\x07" not in text
    assert render_diagnostic(nasty).split("\n")[-1].index("^") == 5


def test_long_lines_are_cut_around_the_caret() -> None:
    line = "a" * 300 + "B" + "c" * 300
    shown = render_diagnostic(
        Diagnostic("LTN0106", Severity.ERROR, "m", file="x", line=1, column=301, source_line=line)
    ).split("\n")
    assert len(shown[3]) < 200
    assert shown[3][shown[4].index("^")] == "B"


def test_findings_without_a_place() -> None:
    assert (
        render_diagnostic(Diagnostic("LTN0004", Severity.ERROR, "no such file", file="x"))
        == "error[LTN0004]: no such file\n --> x"
    )
    about = Diagnostic("IST0101", Severity.WARNING, "no host", resource="VirtualService/b/a")
    assert render_diagnostic(about) == "warning[IST0101]: no host\n --> VirtualService/b/a"


def test_order_is_that_of_the_file() -> None:
    second = Diagnostic("LTN0106", Severity.ERROR, "second", file="a", line=2, column=1)
    first = Diagnostic("LTN0106", Severity.INFO, "first", file="a", line=1, column=9)
    assert render_diagnostics([second, first]).index("first") < render_diagnostics([second, first]).index("second")


def test_dictionary_and_back() -> None:
    assert FOUND.to_dict()["severity"] == "error"
    assert list(FOUND.to_dict())[:4] == ["code", "severity", "message", "resource"]
    assert Diagnostic.from_dict(FOUND.to_dict()) == FOUND
