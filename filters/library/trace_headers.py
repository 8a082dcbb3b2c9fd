"""traceparent and tracestate, read and written by the rules of W3C Trace Context (level 1, and level 2's random flag)."""

import re
from collections.abc import Sequence
from typing import NamedTuple

MOST_MEMBERS = 32
LONG_MEMBER = 128
"""Members longer than this go first when a tracestate has to be shortened (3.3.1.5)."""
SAMPLED, RANDOM = 1, 2
PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
KEY = re.compile(r"[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}")
VALUE = re.compile(r"[ -+\--<>-~]{0,255}[!-+\--<>-~]")


class Parent(NamedTuple):
    """A traceparent that is valid."""

    trace_id: str
    """32 lower-case hexadecimal digits, not all 0."""
    span_id: str
    """16 of them: the caller's span."""
    flags: int
    """SAMPLED and RANDOM; other bits mean nothing in version 00 and are not passed on."""

    @property
    def sampled(self) -> bool:
        return bool(self.flags & SAMPLED)

    def render(self) -> str:
        """As a header, in version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse_parent(values: Sequence[str]) -> Parent | None:
    """The one valid traceparent among a request's headers; None if there is none, or several (3.2)."""
    match = PARENT.fullmatch(values[0].strip(" \t")) if len(values) == 1 else None
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Parent(trace_id, span_id, int(flags, 16) & (SAMPLED | RANDOM))


def parse_state(values: Sequence[str]) -> list[tuple[str, str]] | None:
    """Members of all tracestate headers in order; None if they are not valid: then they are dropped as a whole (3.3.1).

    Of two with the same key the first stays, which is the newer one.
    """
    members: dict[str, str] = {}
    for part in ",".join(values).split(","):
        member = part.strip(" \t")
        if not member:
            continue  # empty members are allowed
        key, equals, value = member.partition("=")
        if not equals or not KEY.fullmatch(key) or not VALUE.fullmatch(value):
            return None
        members.setdefault(key, value)
        if len(members) > MOST_MEMBERS:
            return None
    return list(members.items())


def render_state(members: Sequence[tuple[str, str]], longest: int) -> str:
    """As one header of at most `longest` characters: long members go first, then the last ones."""
    kept = [f"{key}={value}" for key, value in members]
    size = sum(map(len, kept)) + len(kept) - 1
    for place in range(len(kept) - 1, -1, -1):
        if size > longest and len(kept[place]) > LONG_MEMBER:
            size -= len(kept.pop(place)) + 1
    while kept and size > longest:
        size -= len(kept.pop()) + 1
    return ",".join(kept)


def with_member(members: Sequence[tuple[str, str]], key: str, value: str) -> list[tuple[str, str]]:
    """The members with one's own in front, as who changes one must put it (3.5)."""
    return [(key, value), *(member for member in members if member[0] != key)][:MOST_MEMBERS]


def samples(trace_id: str, percent: float) -> bool:
    """The same decision for a trace everywhere: by the last 56 bits of its id, which are random (level 2, 3.2.2.3.2)."""
    return int(trace_id[-14:], 16) < percent / 100 * (1 << 56)
