"""Results as text for people and as values for JSON. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.statistics import Spread


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; the first column is a name, the others are figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark: what it compares with what, tables, remarks, and the same as a value."""

    name: str
    title: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)


def render_table(table: Table) -> str:
    """Aligned columns."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]

    def render(line: Sequence[str]) -> str:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([render(lines[0]), "  ".join("-" * width for width in widths), *map(render, lines[1:])])


def render_section(section: Section) -> str:
    """Title, tables, remarks."""
    parts = [f"== {section.title}", *(render_table(table) for table in section.tables)]
    if section.notes:
        parts.append("\n".join(f"- {note}" for note in section.notes))
    return "\n\n".join(parts)


def number(value: float) -> str:
    """Three significant digits or all before the point, with thousands apart."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 or size == 0 else 3
    return f"{value:,.{digits}f}"


def with_range(value: Spread) -> str:
    """`0.52 (0.48-0.55)`: median and range."""
    return f"{number(value.median)} ({number(value.low)}..{number(value.high)})"
