"""What a mistyped name was probably meant to be, and what there is. Pure."""

import difflib
from collections.abc import Iterable
from typing import Final

_MAX_LISTED: Final = 10
_LIKELY: Final = 0.6


def closest(word: str, known: Iterable[str]) -> list[str]:
    """At most three names that `word` may be a mistyped form of, likeliest first; case does not count.

    Of names in parts (`NAMESPACE/NAME`, `NAME.NAMESPACE`) the name alone counts too.
    """
    by_form: dict[str, str] = {}
    for name in sorted(set(known)):
        for form in (name, name.rpartition("/")[2], name.partition(".")[0]):
            by_form.setdefault(form.lower(), name)
    found = difflib.get_close_matches(word.lower(), by_form, n=3, cutoff=_LIKELY)
    return list(dict.fromkeys(by_form[form] for form in found))


def meant(word: str, known: Iterable[str], *, there_are: str = "there are") -> str:
    """`did you mean web or web-v2? there are: a, b, c and 4 more`; empty when nothing is known."""
    names = sorted(set(known))
    if not names:
        return ""
    close = closest(word, names)
    question = f"did you mean {' or '.join(close)}? " if close else ""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"{question}{there_are}: {', '.join(names[:_MAX_LISTED])}{more}"
