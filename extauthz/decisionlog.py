"""The decision log: one JSON line a decision on standard error, without secrets, bounded in number.

Denials, AUDIT and dry-run results are always in it; of what was allowed all, a share, or nothing.
"""

import random
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

import structlog

from extauthz.decide import Decision, Verdict
from extauthz.metrics import Metrics
from lateen.policy.request import CheckInput

# Of dry-run policies: there are none, or no DENY rule among them matched.
_NOTHING_TO_SAY: Final = ("", str(Verdict.ALLOW))
LINES_PER_SECOND: Final = 1000
_MAX_TARGET: Final = 512


class LogMode(StrEnum):
    """Which decisions to log."""

    DENIED = "denied"
    ALL = "all"
    SAMPLED = "sampled"


class DecisionLog:
    """Writes decisions; over `limit` lines in a second they are counted and dropped: a flood of denials must not fill a disk."""

    def __init__(
        self,
        metrics: Metrics,
        mode: LogMode = LogMode.DENIED,
        *,
        rate: float = 0.01,
        limit: int = LINES_PER_SECOND,
        chance: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rate` is the share of allowed requests that `sampled` logs."""
        self._metrics = metrics
        self._rate = {LogMode.DENIED: 0.0, LogMode.SAMPLED: rate, LogMode.ALL: 1.0}[mode]
        self._limit = limit
        self._chance = chance
        self._monotonic = monotonic
        self._second = 0.0
        self._lines = 0
        self._log = structlog.get_logger("extauthz.decisions")

    def wants(self, decision: Decision) -> bool:
        """Whether this decision is logged."""
        if decision.verdict is not Verdict.ALLOW or decision.audit is not None:
            return True
        if decision.dry_run not in _NOTHING_TO_SAY:
            return True
        return self._rate > 0 and self._chance() < self._rate

    def write(self, target: str, shown: CheckInput, decision: Decision, facts: Mapping[str, Any]) -> None:
        """One line; `shown` is the request as it may be shown."""
        if not self._within_limit():
            self._metrics.log_dropped()
            return
        fields: dict[str, object] = {
            "target": target[:_MAX_TARGET],
            "verdict": str(decision.verdict),
            **facts,
            "principal": shown.principal,
            "source_ip": shown.source_ip,
            "method": shown.method,
            "path": shown.path,
            "host": shown.host,
            "headers": dict(shown.headers),
            "request_principal": _request_principal(shown),
            "audit": f"{decision.audit.origin} rule {decision.audit.index}" if decision.audit is not None else "",
            "dry_run": decision.dry_run,
        }
        self._log.info("decision", **{name: value for name, value in fields.items() if value not in ("", None, {})})

    def _within_limit(self) -> bool:
        now = self._monotonic()
        if now - self._second >= 1.0:
            self._second, self._lines = now, 0
        self._lines += 1
        return self._lines <= self._limit


def _request_principal(request: CheckInput) -> str:
    if request.claims is None:
        return ""
    return f"{request.claims.issuer}/{request.claims.subject}"[:_MAX_TARGET]
