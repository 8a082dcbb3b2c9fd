"""Rendering of a command's value: tables, JSON, YAML, names. Pure: text out, nothing printed here but by `emit`."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TextIO


class Format(StrEnum):
    """The values of `-o`."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class Colour(StrEnum):
    """The values of `--color`."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


def wants_colour(choice: Colour, stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to colour text on `stream`: the flag, then NO_COLOR and FORCE_COLOR, then whether it is a terminal."""
    if choice is not Colour.AUTO:
        return choice is Colour.ALWAYS
    if environ.get("NO_COLOR"):
        return False
    return bool(environ.get("FORCE_COLOR")) or stream.isatty()


def render_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns aligned by spaces, never wrapped or cut, so that `awk` and `grep` can read them."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def render_data(value: object, fmt: Format) -> str:
    """`value`, anything that JSON can hold, as indented JSON or as YAML."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if fmt is Format.YAML:
        import yaml

        # PyYAML knows neither tuples nor enumerations, JSON takes them for lists and strings.
        return yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True).rstrip("\n")
    return text


def emit(text: str) -> None:
    """Data goes to stdout, one final newline."""
    if text:
        sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """Talk goes to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
