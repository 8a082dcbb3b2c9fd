"""Personal data in JSON, redacted in the text itself: whatever is not redacted stays as it is, byte for byte.

Two facts of valid JSON carry this. Between strings there are no backslashes and inside there is no bare quote, so strings with
escapes can be found by a pattern; and once those are set aside, a place is inside a string if an odd number of quotes is before it.
"""

import json
import re
from collections.abc import Sequence

from filters.library.pii_patterns import Finder, Masks, find_all, redact_text, replaced

STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
ESCAPED = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)+"')
"""Strings with at least one escape."""
ESCAPED_KEY = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)+")[ \t\r\n]*:')
SPACE = re.compile(r"[ \t\r\n]*")
SCALAR = re.compile(r"[^\s,\]}]+")
NUMBER = frozenset("0123456789+-.eE")
BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]')
NUL, MARK = "\0", "\ufeff"
CANDIDATE = re.compile("[@0-9]")
"""In everything the finders find, escaped or not."""
LONGEST_GLOB = 64


class UnreadableError(ValueError):
    """A text is no JSON, or nested too deeply."""


def field_pattern(names: Sequence[str]) -> "re.Pattern[str] | None":
    """What finds the names of fields, in any case; a `*` in a name is any 64 characters or fewer."""
    if not names:
        return None
    parts = [rf'[^"\\]{{0,{LONGEST_GLOB}}}'.join(map(re.escape, name.split("*"))) for name in names]
    return re.compile(rf'"(?<!\\")(?:{"|".join(parts)})"[ \t\r\n]*:', re.IGNORECASE)


def redact_json(
    text: str, fields: "re.Pattern[str] | None", finders: Sequence[Finder], custom: Sequence[Finder], masks: Masks
) -> tuple[str, int]:
    """A JSON text with the values of fields and everything found masked, and how much that was.

    `finders` are those of pii_patterns: they look into strings, names of fields and numbers; `custom` ones into strings and names.
    UnreadableError if it is no JSON.
    """
    mark = MARK if text.startswith(MARK) else ""
    text = text.removeprefix(MARK)
    try:
        json.loads(text, parse_int=str, parse_float=str)  # numbers of any length
    except RecursionError:
        raise UnreadableError("nested too deeply") from None
    except ValueError as error:
        raise UnreadableError(f"not JSON: {error}") from None
    text, masked = _redact_fields(text, fields, masks) if fields else (text, 0)
    text, found = _redact_found(text, finders, custom, masks) if finders or custom else (text, 0)
    return mark + text, masked + found


def _redact_fields(text: str, fields: "re.Pattern[str]", masks: Masks) -> tuple[str, int]:
    starts = [match.end() for match in fields.finditer(text)]
    if "\\" in text:
        for match in ESCAPED_KEY.finditer(text):
            key = json.dumps(json.loads(match.group(1)), ensure_ascii=False)
            if fields.fullmatch(key + ":"):
                starts.append(match.end())
        starts.sort()
    changes: list[tuple[int, int, str]] = []
    for start in starts:
        if changes and start < changes[-1][1]:
            continue  # inside a value that is masked already
        start, end = value_span(text, start)  # noqa: PLW2901
        if text[start:end] != "null":
            changes.append((start, end, json.dumps(masks.text)))
    return replaced(text, changes), len(changes)


def value_span(text: str, at: int) -> tuple[int, int]:
    """Where the value that comes next begins and ends."""
    start = _match_end(SPACE, text, at)
    if text[start] == '"':
        return start, _match_end(STRING, text, start)
    if text[start] not in "{[":
        return start, _match_end(SCALAR, text, start)
    depth = 0
    for match in BRACKET.finditer(text, start):
        found = match.group()
        depth += (found in "{[") - (found in "}]")
        if depth == 0:
            return start, match.end()
    raise UnreadableError("a bracket is not closed")


def _match_end(pattern: "re.Pattern[str]", text: str, at: int) -> int:
    match = pattern.match(text, at)
    if match is None:
        raise UnreadableError(f"no value at {at}")
    return match.end()


def _redact_found(text: str, finders: Sequence[Finder], custom: Sequence[Finder], masks: Masks) -> tuple[str, int]:
    changes: list[tuple[int, int, str]] = []
    count = 0
    plain = text
    if custom or "\\" in text:
        # Escapes hide what is looked for and would be torn, a user's pattern may go over quotes: these strings are decoded one by
        # one, and left out of what is searched as a whole. JSON has no NUL, and no finder of ours takes one.
        blanks: list[tuple[int, int, str]] = []
        for match in (STRING if custom else ESCAPED).finditer(text):
            start, end = match.span()
            blanks.append((start, end, f'"{NUL * (end - start - 2)}"'))
            if not custom and not CANDIDATE.search(text, start, end):
                continue
            new, found = redact_text(json.loads(match.group()), (*finders, *custom), masks)
            if found:
                changes.append((start, end, json.dumps(new)))
                count += found
        plain = replaced(text, blanks)
    quotes = at = masked = 0
    for start, end, kind in find_all(plain, finders):
        quotes += plain.count('"', at, start)
        at = start
        mask = json.dumps(masks.of(plain[start:end], kind))
        count += 1
        if quotes % 2:
            changes.append((start, end, mask[1:-1]))
        else:  # a number becomes a string, as a whole
            while start > 0 and plain[start - 1] in NUMBER:
                start -= 1  # noqa: PLW2901
            while end < len(plain) and plain[end] in NUMBER:
                end += 1  # noqa: PLW2901
            if end > masked:
                changes.append((start, end, mask))
                masked = end
    changes.sort()
    return replaced(text, changes), count
