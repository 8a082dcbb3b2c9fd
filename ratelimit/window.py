"""Fixed windows: which one a moment lies in, and when it ends. Pure.

A window starts at a multiple of its length since the epoch, as in Envoy's reference service, so that replicas agree on it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

UNIT_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a unit: `[start, start + length)` in seconds since the epoch."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first second that is no longer part of the window."""
        return self.start + self.length

    def remaining(self, now: datetime) -> float:
        """Seconds until the window ends, never negative."""
        return max(0.0, self.end - now.timestamp())


def window_at(unit: str, now: datetime) -> Window:
    """The window of `unit` (second, minute, hour, day) around `now`; KeyError for another unit."""
    length = UNIT_SECONDS[unit]
    seconds = int(now.astimezone(UTC).timestamp())
    return Window(start=seconds - seconds % length, length=length)
