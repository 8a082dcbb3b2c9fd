"""A log that failures cannot flood: a few lines each period, then one that counts the rest."""

import structlog

from lateen.clock import Clock


class FailureLog:
    """Warnings, at most `limit` in each `period` seconds."""

    def __init__(self, clock: Clock, limit: int = 20, period: float = 10.0) -> None:
        self._clock = clock
        self._limit = limit
        self._period = period
        self._started = clock.monotonic()
        self._written = 0
        self._suppressed = 0
        self._log = structlog.get_logger()

    def warning(self, event: str, **fields: str) -> bool:
        """Log it, or count it; says which."""
        now = self._clock.monotonic()
        if now - self._started >= self._period:
            if self._suppressed:
                self._log.warning("failures not logged", count=self._suppressed)
            self._started, self._written, self._suppressed = now, 0, 0
        if self._written >= self._limit:
            self._suppressed += 1
            return False
        self._written += 1
        self._log.warning(event, **fields)
        return True
