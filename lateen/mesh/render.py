"""A Diagnostic as text, in the manner of rustc: what, where, the line with a caret, and what to do."""

from collections.abc import Iterable

from lateen.mesh.diagnostics import Diagnostic, Severity

_RESET, _BOLD, _BLUE = "\x1b[0m", "\x1b[1m", "\x1b[34m"
_COLOURS = {Severity.ERROR: "\x1b[31m", Severity.WARNING: "\x1b[33m", Severity.INFO: "\x1b[36m"}
_LONGEST_LINE = 160


def render_diagnostic(diagnostic: Diagnostic, *, colour: bool = False) -> str:
    """Several lines of text, without a final newline. Control characters of the file are made visible."""
    paint = _paint if colour else _plain
    tone = _COLOURS[diagnostic.severity]
    lines = [
        f"{paint(f'{diagnostic.severity.value}[{diagnostic.code}]', tone + _BOLD)}{paint(': ' + _safe(diagnostic.message), _BOLD)}"
    ]
    gutter = len(str(diagnostic.line)) if diagnostic.line else 1
    if diagnostic.file:
        place = f"{diagnostic.file}:{diagnostic.line}:{diagnostic.column}" if diagnostic.line else diagnostic.file
        about = " ".join(part for part in (diagnostic.resource, diagnostic.path) if part)
        lines.append(f"{' ' * gutter}{paint('-->', _BLUE)} {_safe(place)}{f' ({_safe(about)})' if about else ''}")
    elif diagnostic.resource:
        lines.append(
            f"{' ' * gutter}{paint('-->', _BLUE)} {_safe(' '.join(p for p in (diagnostic.resource, diagnostic.path) if p))}"
        )
    if diagnostic.source_line and diagnostic.line:
        text, caret = _window(diagnostic.source_line, diagnostic.column)
        lines.append(f"{' ' * gutter} {paint('|', _BLUE)}")
        lines.append(f"{paint(str(diagnostic.line), _BLUE)} {paint('|', _BLUE)} {text}")
        lines.append(f"{' ' * gutter} {paint('|', _BLUE)} {' ' * caret}{paint('^', tone + _BOLD)}")
    if diagnostic.hint:
        lines.append(f"{' ' * gutter} {paint('=', _BLUE)} {paint('help', _BOLD)}: {_safe(diagnostic.hint)}")
    return "\n".join(lines)


def render_diagnostics(diagnostics: Iterable[Diagnostic], *, colour: bool = False) -> str:
    """All of them, with an empty line between, worst first within the order given by file and line."""
    ordered = sorted(diagnostics, key=lambda d: (d.file, d.line, d.column, -d.severity.rank))
    return "\n\n".join(render_diagnostic(d, colour=colour) for d in ordered)


def _paint(text: str, code: str) -> str:
    return f"{code}{text}{_RESET}"


def _plain(text: str, _code: str) -> str:
    return text


def _safe(text: str) -> str:
    """No escape sequence from a file reaches the terminal."""
    return "".join(c if c.isprintable() else "�" for c in text.replace("\t", " "))


def _window(line: str, column: int) -> tuple[str, int]:
    """The part of a long line around `column`, and where the caret goes."""
    caret = max(column - 1, 0)
    if len(line) <= _LONGEST_LINE:
        return _safe(line), min(caret, len(line))
    start = max(0, min(caret - _LONGEST_LINE // 2, len(line) - _LONGEST_LINE))
    return _safe(line[start : start + _LONGEST_LINE]), caret - start
