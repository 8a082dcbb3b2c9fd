"""From counts to Envoy's RateLimitResponse. Pure.

Headers are those of the IETF draft "RateLimit header fields for HTTP": of the limits that applied, the tightest is told.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from lateen.envoyapi.envoy.service.ratelimit.v3 import rls_pb2
from ratelimit.limits import Limit
from ratelimit.window import Window

Code = rls_pb2.RateLimitResponse.Code
UNITS = {
    "second": rls_pb2.RateLimitResponse.RateLimit.Unit.SECOND,
    "minute": rls_pb2.RateLimitResponse.RateLimit.Unit.MINUTE,
    "hour": rls_pb2.RateLimitResponse.RateLimit.Unit.HOUR,
    "day": rls_pb2.RateLimitResponse.RateLimit.Unit.DAY,
}
UNLIMITED_REMAINING = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Counted:
    """A limit that applied to the request: its window and the count in it, the request's own hits included."""

    limit: Limit
    window: Window
    count: int

    @property
    def over(self) -> bool:
        """Whether the count exceeds the limit; an unlimited one is never over."""
        return not self.limit.unlimited and self.count > self.limit.requests_per_unit

    @property
    def remaining(self) -> int:
        """Requests left in the window."""
        if self.limit.unlimited:
            return UNLIMITED_REMAINING
        return max(0, self.limit.requests_per_unit - self.count)

    @property
    def verdict(self) -> str:
        """`within`, `over`, or `shadow`: over, but the limit only watches."""
        if not self.over:
            return "within"
        return "shadow" if self.limit.shadow else "over"


def answer(counted: Sequence[Counted | None], now: datetime) -> rls_pb2.RateLimitResponse:
    """The response to a request: one status a descriptor, in order; None stands for a descriptor that no limit means."""
    response = rls_pb2.RateLimitResponse(overall_code=Code.OK)
    for item in counted:
        status = response.statuses.add(code=Code.OK)
        if item is None:
            continue
        status.limit_remaining = item.remaining
        if item.limit.unlimited:
            continue
        status.current_limit.name = item.limit.identifier
        status.current_limit.requests_per_unit = item.limit.requests_per_unit
        status.current_limit.unit = UNITS[item.limit.unit]
        status.duration_until_reset.FromNanoseconds(int(item.window.remaining(now) * 1e9))
        if item.verdict == "over":
            status.code = Code.OVER_LIMIT
            response.overall_code = Code.OVER_LIMIT
    _add_headers(
        response, [item for item in counted if item and not item.limit.unlimited and not item.limit.shadow], now
    )
    return response


def _add_headers(response: rls_pb2.RateLimitResponse, told: Sequence[Counted], now: datetime) -> None:
    if not told:
        return
    tightest = min(told, key=lambda item: (item.remaining, -item.window.remaining(now)))
    reset = str(math.ceil(tightest.window.remaining(now)))
    headers = {
        "RateLimit-Limit": str(tightest.limit.requests_per_unit),
        "RateLimit-Remaining": str(tightest.remaining),
        "RateLimit-Reset": reset,
    }
    if response.overall_code == Code.OVER_LIMIT:
        headers["Retry-After"] = reset
    for key, value in headers.items():
        response.response_headers_to_add.add(key=key, value=value)
