"""What one stream knows about one resource type: wanted, held, in flight, refused. Without order or transport."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lateen.controlplane.blobs import Blob

WILDCARD = "*"


class ProtocolViolation(ValueError):  # noqa: N818 - the peer's fault, told to it as the reason its stream ends
    """A request that no honest client sends; the stream ends with it."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A version the client says it holds (`initial_resource_versions`), or `ABSENT`."""

    hash: str


ABSENT = Claimed("")
"""The client has been told that the resource does not exist."""

Holding = Blob | Claimed


@dataclass(frozen=True, slots=True)
class Refusal:
    """A resource the client refused, with its words; not sent again until the resource changes."""

    blob: Blob
    message: str
    at: float
    accepted: Blob | None = None
    """The version the client works with meanwhile."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What separates the client from the snapshot. `absent` names were asked for and do not exist; `gone` ones did."""

    changed: Mapping[str, Blob]
    absent: tuple[str, ...]
    gone: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.changed or self.absent or self.gone)


_NO_DELTA = Delta({}, (), ())


@dataclass(slots=True)
class InFlight:
    """The one push of a type that awaits its answer; names leave `changed` when the client asks for them anew."""

    nonce: str
    version: str
    sent_at: float
    changed: dict[str, Blob]
    removed: set[str]
    resources: int


@dataclass(slots=True)
class TypeState:
    """One type of one stream. `wanted` is the newest state; no history is kept, so a stalled client costs nothing.

    `partial`: a removal cannot be told (state of the world, by name). What the client keeps for that reason, or may keep
    although it asked anew, is `retained`. `lingers`: removals are not urgent, so that they do not count as out of sync.
    `keeps`: nothing is told of what is not there; the client ends its subscription when it needs it no more.
    """

    type_url: str
    max_names: int
    partial: bool = False
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    held: dict[str, Holding] = field(default_factory=dict)
    wanted: Mapping[str, Blob] = field(default_factory=dict)
    version: str = ""
    in_flight: InFlight | None = None
    nonce: str = ""
    refusals: dict[str, Refusal] = field(default_factory=dict)
    retained: set[str] = field(default_factory=set)
    suspects: deque[tuple[str, ...]] = field(default_factory=deque)
    answered: bool = False
    sent_version: str = ""
    acked_version: str = ""
    last_error: str = ""
    since: float = 0.0
    settled: bool = True
    moving_since: float | None = None
    lingers: bool = False
    keeps: bool = False
    gone: tuple[str, ...] = ()
    gone_since: float = 0.0
    _delta: Delta | None = None

    # what the client wants

    def subscribe(self, names: Iterable[str]) -> None:
        """Add names (`*` for all). A name asked for again is sent again: the client has lost it."""
        for name in names:
            if name == WILDCARD:
                self.wildcard = True
            else:
                self.names.add(name)
                self.refusals.pop(name, None)
                kept = self.held.get(name, ABSENT) is not ABSENT or name in self.retained
                self._forget(name)
                if kept:
                    self.retained.add(name)
        if len(self.names) > self.max_names:
            msg = f"more than {self.max_names} names subscribed of {self.type_url}"
            raise ProtocolViolation(msg)
        self._delta = None

    def unsubscribe(self, names: Iterable[str]) -> None:
        """Drop names. What a wildcard still covers is told again, as the protocol asks."""
        for name in names:
            if name == WILDCARD:
                self.wildcard = False
            else:
                self.names.discard(name)
                self._forget(name)
        if not self.wildcard:
            for name in [name for name in self.held if name not in self.names]:
                self._forget(name)
        self._delta = None

    def claim(self, versions: Mapping[str, str]) -> None:
        """Believe what a reconnecting client says it holds."""
        if len(versions) > self.max_names:
            msg = f"more than {self.max_names} initial versions of {self.type_url}"
            raise ProtocolViolation(msg)
        self.held.update({name: Claimed(version) for name, version in versions.items() if self.covers(name)})
        self.answered = self.answered or bool(versions)
        self._delta = None

    def covers(self, name: str) -> bool:
        """Whether the client subscribes to this name."""
        return self.wildcard or name in self.names

    def forget(self, names: Iterable[str]) -> None:
        """Have these sent again although the client holds them (endpoints of a cluster that warms anew)."""
        for name in names:
            if self.held.get(name, ABSENT) is not ABSENT:
                self._forget(name)
        self._delta = None

    def _forget(self, name: str) -> None:
        self.held.pop(name, None)
        self.retained.discard(name)
        if self.in_flight is not None:
            self.in_flight.changed.pop(name, None)
            self.in_flight.removed.discard(name)

    # what it should have

    def offer(self, wanted: Mapping[str, Blob], version: str) -> None:
        """Take the newest state; whatever was wanted before is forgotten."""
        if wanted != self.wanted:  # interned blobs: a comparison of pointers
            self._delta = None
        self.wanted = wanted
        self.version = version

    def delta(self) -> Delta:
        """What is still to be told, refused versions excepted; computed once per change."""
        if self._delta is None:
            self._delta = self._compute()
            self._drop_settled_suspects()
        return self._delta

    def _compute(self) -> Delta:
        changed: dict[str, Blob] = {}
        absent: list[str] = []
        gone: list[str] = []
        for name in list(self.refusals):
            blob = self.wanted.get(name)
            if blob is None or blob.hash != self.refusals[name].blob.hash or not self.covers(name):
                del self.refusals[name]
        candidates = self.wanted.keys() | self.held.keys() | self.names if self.wildcard else self.names
        for name in sorted(candidates):
            blob = self.wanted.get(name)
            held = self.held.get(name)
            if blob is None or blob.awaited:
                if self.keeps or blob is not None:
                    continue
                if held is None:
                    absent.append(name)
                elif held.hash:
                    gone.append(name)
            elif held is not None and held.hash == blob.hash:
                self.held[name] = blob  # what it says it holds is this
            elif name not in self.refusals:
                changed[name] = blob
        return Delta(changed, tuple(absent), tuple(gone)) if changed or absent or gone else _NO_DELTA

    def _drop_settled_suspects(self) -> None:
        changed = self._delta.changed if self._delta else {}
        kept = (tuple(name for name in group if name in changed) for group in self.suspects)
        self.suspects = deque(group for group in kept if group)

    # the push

    def next_group(self) -> Mapping[str, Blob]:
        """The changed resources to send together: all, or while a refusal is narrowed down, one group at a time."""
        changed = self.delta().changed
        if not self.suspects:
            return changed
        suspected = {name for group in self.suspects for name in group}
        fresh = {name: blob for name, blob in changed.items() if name not in suspected}
        return fresh or {name: changed[name] for name in self.suspects[0]}

    def sent(self, in_flight: InFlight) -> None:
        """Remember the push that awaits its answer."""
        self.in_flight = in_flight
        self.nonce = in_flight.nonce
        self.sent_version = in_flight.version
        self.answered = True

    def accept(self) -> tuple[str, ...]:
        """The client took the push in flight. Returns the names that are new to it."""
        assert self.in_flight is not None  # noqa: S101 - the session asks only with a matching nonce
        push, self.in_flight = self.in_flight, None
        new = tuple(name for name in push.changed if self.held.get(name, ABSENT) is ABSENT)
        self.held.update(push.changed)
        self.retained.difference_update(push.changed)
        self._removed(push.removed)
        self.acked_version = push.version
        self._delta = self._delta_after(push)
        if not self.delta().changed and not self.refusals:
            self.last_error = ""
        return new

    def _delta_after(self, push: InFlight) -> Delta | None:
        """The delta without what was just taken; None if it must be computed anew because that is already outdated."""
        delta = self._delta
        outdated = any(self.wanted.get(name) is not blob for name, blob in push.changed.items())
        if delta is None or outdated or any(name in self.wanted for name in push.removed) or self.suspects:
            return None
        return Delta(
            {name: blob for name, blob in delta.changed.items() if name not in push.changed},
            tuple(name for name in delta.absent if name not in push.removed),
            tuple(name for name in delta.gone if name not in push.removed),
        )

    def _removed(self, names: Iterable[str]) -> None:
        for name in names:
            if self.partial and not self.wildcard and self.held.get(name, ABSENT) is not ABSENT:
                self.retained.add(name)
            elif not self.partial:
                self.retained.discard(name)
            if name in self.names:
                self.held[name] = ABSENT
            else:
                self.held.pop(name, None)

    def refuse(self, message: str, now: float) -> Refusal | None:
        """The client refused the push in flight: the guilty resource when it was alone, else smaller groups to try."""
        assert self.in_flight is not None  # noqa: S101 - as above
        push, self.in_flight = self.in_flight, None
        self.last_error = message
        refusal = None
        names = list(push.changed)
        if not push.resources:  # only removals, which cannot be wrong: repeating them would never end
            self._removed(push.removed)
        elif push.resources == 1 and names:
            held = self.held.get(names[0])
            accepted = held if isinstance(held, Blob) else None
            refusal = self.refusals[names[0]] = Refusal(push.changed[names[0]], message, now, accepted)
        else:
            others = [group for group in self.suspects if set(group).isdisjoint(names)]
            self.suspects = deque([*_split(names, message), *others])
        self._delta = None
        return refusal

    def pardon(self) -> None:
        """Try refused resources once more: what they depend on has arrived."""
        if self.refusals:
            self.refusals.clear()
            self._delta = None

    # how it stands

    @property
    def lagging(self) -> bool:
        """Whether the client still works with an older version of something it refused, or cannot be told to drop."""
        if not self.refusals:
            return bool(self.retained)
        return bool(self.retained) or any(self.held.get(name, ABSENT) is not ABSENT for name in self.refusals)

    @property
    def in_sync(self) -> bool:
        """Nothing to send, nothing awaited (refused resources excepted)."""
        delta = self.delta()
        return self.in_flight is None and not (delta.changed or delta.absent or (delta.gone and not self.lingers))

    def settle(self, now: float) -> None:
        """Remember since when it is in sync or not, and since when changes (not mere removals) are on their way."""
        if self.in_sync != self.settled:
            self.settled, self.since = not self.settled, now
        if self.delta().gone != self.gone:
            self.gone, self.gone_since = self.delta().gone, now
        moving = self.in_flight is not None or bool(self.delta().changed)
        if not moving:
            self.moving_since = None
        elif self.moving_since is None:
            self.moving_since = now


def _split(names: list[str], message: str) -> list[tuple[str, ...]]:
    """Smaller groups of a refused push: those the client's message names one by one after the rest, else two halves."""
    if len(names) <= 1:
        return [(name,) for name in names]
    named = [name for name in names if name in message]
    if named and len(named) < len(names):
        return [tuple(name for name in names if name not in named), *((name,) for name in named)]
    half = len(names) // 2
    return [tuple(names[:half]), tuple(names[half:])]
