"""Options with a fixed set of values: what is wrong with another is said in our words, not in those of a validation library."""

import difflib
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

import typer

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
