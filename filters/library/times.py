"""Moments of a configuration."""

from datetime import datetime


def parse_time(text: str) -> float:
    """RFC 3339 with a time zone, in seconds since 1970; ValueError if it is not that."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time: write 2026-12-31T00:00:00Z") from None
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write 2026-12-31T00:00:00Z")
    return found.timestamp()
