"""Texts with variables: `user {header:x-user|nobody} on {path}`."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from filters.library.credentials import check_header

VARIABLE = re.compile(r"\{\{|\}\}|\{([a-z_]+)(?::([^{}|]{1,200}))?(?:\|([^{}]{0,200}))?\}|[{}]")
LONGEST = 4096


class Variable(NamedTuple):
    """`{name:argument|default}`."""

    name: str
    argument: str
    default: str


class Template(NamedTuple):
    """A text, parsed."""

    parts: tuple[str | Variable, ...]

    @property
    def variable(self) -> Variable | None:
        """The variable, if the text is nothing else."""
        first = self.parts[0] if len(self.parts) == 1 else None
        return first if isinstance(first, Variable) else None

    def render(self, look_up: Callable[[str, str], str | None]) -> str:
        """The text; `look_up(name, argument)` gives values, None where there is none: then the default stands there."""
        texts = []
        for part in self.parts:
            if isinstance(part, str):
                texts.append(part)
            else:
                value = look_up(part.name, part.argument)
                texts.append(part.default if value is None else value)
        return "".join(texts)


def parse_template(text: str, known: Mapping[str, bool]) -> Template:
    """Parse a text; ValueError if it has a variable that is not `known` (name -> whether it takes an argument)."""
    if len(text) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    parts: list[str | Variable] = []
    end = 0
    for match in VARIABLE.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        found = match.group()
        if found in ("{{", "}}"):
            parts.append(found[0])
            continue
        name, argument, default = match.groups()
        if name not in known:
            names = ", ".join(f"{{{each}:...}}" if takes else f"{{{each}}}" for each, takes in known.items())
            raise ValueError(f"no such variable in {text!r} at {match.start()} (known: {names}; braces are doubled)")
        if known[name] != (argument is not None):
            raise ValueError(f"{{{name}}} in {text!r} {'needs an' if known[name] else 'takes no'} argument")
        if name.endswith("header"):
            check_header(f"{{{name}:...}} in {text!r}", argument)
        parts.append(Variable(name, argument or "", default or ""))
    parts.append(text[end:])
    return Template(tuple(_joined(parts)))


def _joined(parts: Sequence[str | Variable]) -> list[str | Variable]:
    """Neighbouring texts as one, empty ones left out."""
    joined: list[str | Variable] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part:
            joined.append(part)
    return joined
