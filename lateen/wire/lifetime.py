"""When a connection must hear or say something: preface, unfinished frames, stalled writing, keepalive, idleness, age, drain."""

import math
from typing import Final

from lateen.wire.frames import ErrorCode, Http2Error
from lateen.wire.limits import Limits

NEVER: Final = math.inf
_DRAIN_SECONDS: Final = 1.0  # for the answer to the PING between the two GOAWAYs


class Lifetime:
    """The times of one connection. All are monotonic seconds; `NEVER` stands for what is not expected."""

    __slots__ = (
        "_age",
        "_limits",
        "acknowledged",
        "configured",
        "drain_until",
        "draining_since",
        "heard",
        "last_call",
        "partial_since",
        "pinged",
        "stalled_since",
        "started",
    )

    def __init__(self, limits: Limits, now: float, age: float | None) -> None:
        """`age` replaces the limit's."""
        self._limits = limits
        self._age = limits.connection_age if age is None else age
        self.started = self.heard = self.last_call = now
        self.configured = False  # the client's SETTINGS were read
        self.acknowledged = False  # the client has acknowledged ours
        self.partial_since = NEVER  # of a frame or header block
        self.stalled_since = NEVER  # the transport takes no bytes
        self.pinged = NEVER  # our PING is not answered
        self.draining_since = NEVER
        self.drain_until = NEVER

    def check(self, now: float) -> None:
        """Raise if the client says nothing, stops halfway, does not read or is gone."""
        limits = self._limits
        if not self.acknowledged and now >= self.started + limits.preface_timeout:
            code = ErrorCode.SETTINGS_TIMEOUT if self.configured else ErrorCode.PROTOCOL_ERROR
            raise Http2Error(code, "no preface and settings in time")
        if now >= self.partial_since + limits.header_timeout:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "a frame or header block took too long")
        if now >= self.stalled_since + limits.send_timeout:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "nothing is read")
        if self.heard >= self.pinged:
            self.pinged = NEVER
        if now >= self.pinged + limits.keepalive_timeout:
            raise Http2Error(ErrorCode.NO_ERROR, "no answer to ping")

    def wants_ping(self, now: float) -> bool:
        """Whether the client was silent for so long that we ask whether it is there."""
        return self.pinged == NEVER and now >= self.heard + self._limits.keepalive_interval

    def is_old(self, now: float, *, idle: bool) -> bool:
        """Whether the client should go: too old a connection, or too long without a call."""
        return now >= self.started + self._age or (idle and now >= self.last_call + self._limits.idle_timeout)

    def drained_enough(self, now: float) -> bool:
        """Whether the client had time to learn of the first GOAWAY."""
        return now >= min(self.draining_since + _DRAIN_SECONDS, self.drain_until)

    def next_check(self, *, idle: bool, draining: int) -> float:
        """When something is due next."""
        limits = self._limits
        return min(
            self.started + limits.preface_timeout if not self.acknowledged else NEVER,
            self.partial_since + limits.header_timeout,
            self.stalled_since + limits.send_timeout,
            self.heard + limits.keepalive_interval if self.pinged == NEVER else self.pinged + limits.keepalive_timeout,
            NEVER if draining else self.started + self._age,
            self.last_call + limits.idle_timeout if idle and not draining else NEVER,
            self.draining_since + _DRAIN_SECONDS if draining == 1 else NEVER,
            self.drain_until,
        )
