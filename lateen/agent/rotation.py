"""When to ask for a certificate, and with what: a state machine without I/O. Its owner sleeps, asks and tells it the outcome.

Rotation begins at half of the certificate's remaining life (Istio's 50 % with a little jitter, so that proxies started together do
not ask together). A failure is tried again with backoff, at a pace that fits the life left. Whatever happens, what is served stays.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

HALF_LIFE = 0.5
JITTER = 0.01
_BASE_SECONDS = 0.25
_CEILING_SECONDS = 30.0
_FACTOR = 2.0
_TRIES_BEFORE_EXPIRY = 8
_TRIES_BEFORE_TOKEN = 3


class State(StrEnum):
    """What a proxy's identity is worth now."""

    JOINING = "joining"
    SERVING = "serving"
    REFUSED = "refused"
    EXPIRED = "expired"


class Credential(StrEnum):
    """What to authenticate the next request with."""

    TOKEN = "token"  # noqa: S105 - the name of a kind
    CERTIFICATE = "certificate"


@dataclass(slots=True)
class Rotation:
    """The schedule of one proxy's certificates. `unit` arguments are random numbers in [0, 1)."""

    token: str = field(repr=False)
    not_after: datetime | None = None
    due: datetime | None = None
    failures: int = 0
    problem: str = ""
    _certificate_refused: bool = False

    def credential(self, now: datetime) -> Credential | None:
        """With what to ask: the certificate while it is good for that, else an unused token, else nothing.

        A certificate that TLS itself refuses (the authority has a new root, say) looks like an outage: after a few failures a
        token is tried, too.
        """
        if (
            self._valid(now)
            and not self._certificate_refused
            and (self.failures < _TRIES_BEFORE_TOKEN or not self.token)
        ):
            return Credential.CERTIFICATE
        if self.token:
            return Credential.TOKEN
        return Credential.CERTIFICATE if self._valid(now) else None

    def wait(self, now: datetime) -> timedelta | None:
        """How long until the next request; None if only a new token can help."""
        if self.credential(now) is None:
            return None
        return max(timedelta(0), (self.due or now) - now)

    def state(self, now: datetime) -> State:
        """For health and metrics."""
        if self._valid(now):
            return State.SERVING
        if self.not_after is not None:
            return State.EXPIRED
        return State.JOINING if self.token else State.REFUSED

    def offer(self, token: str, now: datetime) -> bool:
        """A token was registered; says whether it should be used at once."""
        self.token = token
        if not token or (self._valid(now) and not self._certificate_refused):
            return False
        self.due, self.failures = now, 0
        return True

    def succeeded(self, used: str, now: datetime, not_after: datetime, unit: float) -> None:
        """A certificate was issued; the token in `used`, if it was one, is spent."""
        self._spend(used)
        self.not_after, self.failures, self.problem, self._certificate_refused = not_after, 0, "", False
        self.due = now + (not_after - now) * (HALF_LIFE + JITTER * (2 * unit - 1))

    def unavailable(self, problem: str, now: datetime, unit: float) -> None:
        """No answer: the same again, later."""
        self._retry(problem, now, unit)

    def refused(self, used: str, problem: str, now: datetime, unit: float) -> None:
        """The credentials were not accepted: the token in `used` is spent; without one it was the certificate."""
        self._spend(used)
        self._certificate_refused = self._certificate_refused or not used
        self._retry(problem, now, unit)

    def _spend(self, used: str) -> None:
        """Forget the token that was used, but not one that was registered meanwhile."""
        if self.token == used:
            self.token = ""

    def _retry(self, problem: str, now: datetime, unit: float) -> None:
        bound = min(_CEILING_SECONDS, _BASE_SECONDS * _FACTOR ** min(self.failures, 16))
        if self.not_after is not None and self._valid(now):
            left = (self.not_after - now).total_seconds()
            bound = min(bound, max(_BASE_SECONDS, left / _TRIES_BEFORE_EXPIRY))
        self.failures += 1
        self.problem = problem
        self.due = now + timedelta(seconds=bound * (0.5 + 0.5 * unit))

    def _valid(self, now: datetime) -> bool:
        return self.not_after is not None and now < self.not_after
