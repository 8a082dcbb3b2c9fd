"""Options read: what is wrong with one is said in our words, not in those of a validation library."""

import difflib
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TypeVar

import typer

from lateen.cli.exits import CommandError, Exit

Choice = TypeVar("Choice", bound=StrEnum)


def choices_of(kind: type[StrEnum]) -> str:
    """The values, as help shows them."""
    return "|".join(kind)


def choice_of(kind: type[Choice]) -> Callable[[str], Choice]:
    """The parser of an option of this kind."""

    def parse(text: str) -> Choice:
        if text in set(kind):
            return kind(text)
        close = difflib.get_close_matches(text, list(kind), n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(kind)}{hint}")

    return parse


def request_headers(given: Sequence[str]) -> dict[str, str]:
    """Headers given as NAME=VALUE, names in lower case, several values of a name joined as a request joins them. CommandError."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        key = name.strip().lower()
        if not equals or not key:
            raise CommandError(Exit.USAGE, f"not a header: {text!r}", "write --header NAME=VALUE")
        found[key] = f"{found[key]},{value}" if key in found else value
    return found
