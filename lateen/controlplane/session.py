"""One ADS stream without I/O: requests and snapshots in, events and pushes out.

Delta xDS is the canonical form; state of the world is a view of it (responses repeat what the client holds).
Order, as Envoy's documentation of eventual consistency asks: clusters, endpoints, listeners, routes, secrets, extension
configurations. Listeners and routes wait, for at most `GRACE` seconds, until clusters and endpoints are taken. Clusters
and endpoints that are no longer wanted are removed when no listener or route can name them any more: not while an older
one stays in use because its successor was refused, and not in the first `OPENING` seconds of a stream, in which a
reconnecting client is still saying what it holds. Extension configurations are never removed: a listener that drains
still needs its own, and Envoy ends the subscription with the last of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum

from lateen.controlplane.blobs import Blob
from lateen.controlplane.names import CDS, ECDS, EDS, LDS, PUSH_ORDER, RDS, SDS, WORKLOAD_LIMITS, WORKLOAD_POLICY
from lateen.controlplane.typestate import Holding, InFlight, ProtocolViolation, Refusal, TypeState

GRACE = 0.5
"""Seconds that listeners and routes wait for clusters and endpoints to be taken (a cluster may warm for long)."""

OPENING = 1.0
"""Seconds after a stream's first request in which nothing is removed."""

LINGER = 3.0
"""Seconds that a policy nobody needs any more stays: until then a proxy may still ask about it, and would be denied."""

SERVED = (*PUSH_ORDER, WORKLOAD_POLICY, WORKLOAD_LIMITS)
_FIRST = (CDS, EDS)
_THEN = (LDS, RDS)
_FULL_STATE = (CDS, LDS)
_LINGERING = (WORKLOAD_POLICY, WORKLOAD_LIMITS)
_BY_NAME = (EDS, RDS, SDS, ECDS)

Resources = Mapping[str, Mapping[str, Blob]]
"""Type URL, then name, to the resource: what `Snapshot.resources` is."""


class Style(Enum):
    """Which of the two forms of xDS the stream speaks."""

    DELTA = "delta"
    SOTW = "state of the world"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one stream may make us remember."""

    names: int = 20_000
    message_bytes: int = 4 * 1024 * 1024
    error_chars: int = 4_000


@dataclass(frozen=True, slots=True)
class DeltaRequest:
    """A DeltaDiscoveryRequest; `error` is the NACK's message (None: none)."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] | None = None
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SotwRequest:
    """A DiscoveryRequest: `names` is always the whole list."""

    type_url: str
    names: tuple[str, ...] = ()
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Push:
    """A response to send; `removed` has no place in state of the world."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[Blob, ...]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Acked:
    """The client took a push of `changed` resources."""

    type_url: str
    changed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Nacked:
    """The client refused a push of several resources: the guilty ones are being looked for."""

    type_url: str
    names: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The client refused this one resource; its last good version stays, and it is not sent again until it changes."""

    type_url: str
    blob: Blob
    message: str
    accepted: Blob | None = None


@dataclass(frozen=True, slots=True)
class NotServed:
    """The client asks for a type there is nothing of (said once a type)."""

    type_url: str


Event = Acked | Nacked | Refused | NotServed


class SyncState(StrEnum):
    """The word of `proxy-status`."""

    SYNCED = "SYNCED"
    STALE = "STALE"
    NACK = "NACK"
    NOT_SENT = "NOT_SENT"


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """One type of one stream as `proxy-status` shows it; `seconds` is how long it has been so."""

    status: SyncState
    sent: str
    acked: str
    seconds: float
    refusals: tuple[Refusal, ...]
    message: str


class StreamSession:
    """The protocol of one stream: feed `on_request` and `offer`, drain `next_push`, drain it again at `wake_at`."""

    def __init__(self, style: Style, limits: Limits | None = None) -> None:
        """Begin with nothing subscribed, nothing offered."""
        self.style = style
        self.limits = limits or Limits()
        self._types: dict[str, TypeState] = {}
        self._unserved: set[str] = set()
        self._resources: Resources = {}
        self._version = ""
        self._offered = False
        self._nonce = 0
        self._opened: float | None = None
        self.held_back: frozenset[str] = frozenset()

    # events in

    def on_request(self, request: DeltaRequest | SotwRequest, now: float) -> list[Event]:
        """Take a request: a subscription, an ACK or a NACK, or several at once. Stale nonces are never answered."""
        if request.type_url not in SERVED:
            return self._not_served(request.type_url)
        if self._opened is None:
            self._opened = now
        state = self._types.get(request.type_url)
        first = state is None
        if state is None:
            partial = self.style is Style.SOTW and request.type_url not in _FULL_STATE
            state = TypeState(
                request.type_url, self.limits.names, partial, since=now,
                lingers=request.type_url in _LINGERING, keeps=request.type_url == ECDS,
            )  # fmt: skip
            state.offer(self._resources.get(request.type_url, {}), self._version)
            self._types[request.type_url] = state
        if isinstance(request, SotwRequest):
            if request.nonce and not first and request.nonce != state.nonce:
                return []
            events = self._answer(state, request.nonce, request.error, now)
            self._want_exactly(state, request.names, first=first)
        else:
            events = self._answer(state, request.nonce, request.error, now)
            self._want_changes(state, request, first=first)
        self._settle(now)
        return events

    def offer(self, resources: Resources, version: str, now: float) -> None:
        """The newest snapshot; the one before is forgotten, sent or not."""
        self._resources, self._version, self._offered = resources, version, True
        for type_url, state in self._types.items():
            state.offer(resources.get(type_url, {}), version)
        self._settle(now)

    # pushes out

    def next_push(self, now: float) -> Push | None:
        """The next response to send now, or None. It counts as sent; at most one of each type awaits its answer."""
        if not self._offered:
            return None
        for type_url in SERVED:
            state = self._types.get(type_url)
            if state is None or state.in_flight is not None or type_url in self.held_back:
                continue
            if type_url in _THEN and self._must_wait(type_url, now):
                continue
            changed = state.next_group()
            delta = state.delta()
            gone = delta.gone and self._may_remove(state, now)
            removed = (*delta.absent, *delta.gone) if gone else delta.absent
            if changed or removed or (state.wildcard and not state.answered):
                return self._push(state, changed, removed, now)
        return None

    def wake_at(self, now: float) -> float | None:
        """When to ask for pushes again though nothing happens; None when nothing waits for time to pass."""
        times = [at + GRACE for at in self._moving()] if any(self._pending(url) for url in _THEN) else []
        if self._opened is not None and any(self._pending(url) for url in _FIRST):
            times.append(self._opened + OPENING)
        times += [state.gone_since + LINGER for state in self._types.values() if state.lingers and state.gone]
        return min((at for at in times if at > now), default=None)

    # how it stands

    def holds(self, type_url: str, name: str) -> str:
        """The hash of the version the client has taken, or an empty string."""
        state = self._types.get(type_url)
        held: Holding | None = state.held.get(name) if state else None
        return held.hash if held is not None else ""

    def refuses(self, type_url: str, name: str) -> bool:
        """Whether the client has refused the current version."""
        state = self._types.get(type_url)
        return state is not None and name in state.refusals

    def subscribed(self, type_url: str) -> bool:
        """Whether the client wants anything of this type."""
        return type_url in self._types

    @property
    def synced(self) -> bool:
        """Whether a snapshot was offered and the client has taken all of it, refused resources excepted."""
        return (
            self._offered and bool(self._types) and all(s.in_sync and self._was_sent(s) for s in self._types.values())
        )

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What the client refuses at present."""
        return tuple(refusal for state in self._types.values() for refusal in state.refusals.values())

    def status(self, now: float) -> dict[str, TypeStatus]:
        """The state of each subscribed type, by type URL, in push order."""
        return {url: self._type_status(self._types[url], now) for url in SERVED if url in self._types}

    # inside

    def _not_served(self, type_url: str) -> list[Event]:
        if type_url in self._unserved:
            return []
        if len(self._unserved) >= len(SERVED):
            raise ProtocolViolation(f"too many types that are not served, the last one {type_url[:200]!r}")
        self._unserved.add(type_url)
        return [NotServed(type_url)]

    def _answer(self, state: TypeState, nonce: str, error: str | None, now: float) -> list[Event]:
        push = state.in_flight
        if push is None or nonce != push.nonce:
            return []
        if error is None:
            new = state.accept()
            if new and state.type_url == CDS:
                self._pardon()
            return [Acked(state.type_url, len(push.changed), now - push.sent_at)]
        message = error[: self.limits.error_chars] or "refused without a message"
        names = tuple(push.changed)
        refusal = state.refuse(message, now)
        if refusal is None:
            return [Nacked(state.type_url, names, message)]
        return [Refused(state.type_url, refusal.blob, message, refusal.accepted)]

    def _pardon(self) -> None:
        """New clusters may be what refused listeners and routes were waiting for."""
        for type_url in (*_THEN, ECDS):
            state = self._types.get(type_url)
            if state is not None:
                state.pardon()

    @staticmethod
    def _want_changes(state: TypeState, request: DeltaRequest, *, first: bool) -> None:
        if first and not request.subscribe and request.type_url not in _BY_NAME:
            state.subscribe("*")
        if request.unsubscribe:
            state.unsubscribe(request.unsubscribe)
        if request.subscribe:
            state.subscribe(request.subscribe)
        if first and request.initial_versions:
            state.claim(request.initial_versions)

    @staticmethod
    def _want_exactly(state: TypeState, names: tuple[str, ...], *, first: bool) -> None:
        wanted = set(names) - {"*"}
        # An empty list means everything, until names have been given once (the protocol's legacy wildcard).
        implied = (first or (state.wildcard and not state.names)) and state.type_url not in _BY_NAME
        wildcard = "*" in names or (not names and implied)
        gone = [*(state.names - wanted), *(["*"] if state.wildcard and not wildcard else [])]
        new = [*(wanted - state.names), *(["*"] if wildcard and not state.wildcard else [])]
        if gone:
            state.unsubscribe(gone)
        if new:
            state.subscribe(new)

    def _must_wait(self, type_url: str, now: float) -> bool:
        if any(now < at + GRACE for at in self._moving()):
            return True
        return type_url == RDS and LDS in self.held_back and self._pending(LDS)

    def _moving(self) -> Iterable[float]:
        """Since when clusters and endpoints are on their way, removals apart."""
        states = (self._types.get(type_url) for type_url in _FIRST)
        return [state.moving_since for state in states if state is not None and state.moving_since is not None]

    def _pending(self, type_url: str) -> bool:
        state = self._types.get(type_url)
        return state is not None and bool(state.delta())

    def _may_remove(self, state: TypeState, now: float) -> bool:
        """Whether nothing the client uses can still name what is no longer wanted."""
        if state.lingers:
            return now >= state.gone_since + LINGER
        if state.type_url not in _FIRST:
            return True
        if self._opened is None or now < self._opened + OPENING:
            return False
        users = [user for url in _THEN if (user := self._types.get(url)) is not None]
        return all(user.in_sync and not user.lagging for user in users)

    def _push(self, state: TypeState, changed: Mapping[str, Blob], removed: tuple[str, ...], now: float) -> Push:
        self._nonce += 1
        push = InFlight(str(self._nonce), self._version, now, dict(changed), set(removed), len(changed))
        state.sent(push)
        if state.type_url == CDS:
            self._resend_endpoints(changed, state)
        self._settle(now)
        return Push(state.type_url, push.nonce, push.version, self._response(state, push), removed)

    def _resend_endpoints(self, clusters: Mapping[str, Blob], state: TypeState) -> None:
        """A changed cluster warms anew and waits for endpoints that Envoy does not ask for again."""
        endpoints = self._types.get(EDS)
        if endpoints is not None:
            endpoints.forget(name for name in clusters if name in state.held and endpoints.covers(name))

    def _response(self, state: TypeState, push: InFlight) -> tuple[Blob, ...]:
        if self.style is Style.DELTA or (state.partial and not state.wildcard):
            return tuple(push.changed.values())
        held = {name: blob for name, blob in state.held.items() if isinstance(blob, Blob) and name not in push.removed}
        return tuple((held | push.changed).values())

    def _settle(self, now: float) -> None:
        for state in self._types.values():
            state.settle(now)

    @staticmethod
    def _was_sent(state: TypeState) -> bool:
        return state.answered or not state.wildcard

    def _type_status(self, state: TypeState, now: float) -> TypeStatus:
        state.settle(now)
        refusals = tuple(state.refusals.values())
        if refusals:
            status = SyncState.NACK
        elif not self._offered or not self._was_sent(state):
            status = SyncState.NOT_SENT
        else:
            status = SyncState.SYNCED if state.in_sync else SyncState.STALE
        since = min(r.at for r in refusals) if refusals else state.since
        return TypeStatus(
            status, state.sent_version, state.acked_version, max(0.0, now - since), refusals, state.last_error
        )
