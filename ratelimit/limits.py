"""The limits of every workload, as the control plane sent them, and the matching of Envoy's descriptors to them. Pure.

A descriptor belongs to a limit when it starts with that limit's own first entry and has exactly its keys, in order. Values that a
limit leaves open (a tenant, a client address) become part of the counter's key; long ones are hashed, so keys stay short.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lateen.envoyapi.envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from lateen.envoyapi.lateen.v1alpha1 import workload_pb2
from ratelimit.window import UNIT_SECONDS

MAX_VALUE_LENGTH = 64
SEPARATOR = "\x1f"


class UnusableLimitsError(ValueError):
    """A WorkloadLimits message that this service cannot enforce; the text says which limit and why."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit, ready to be counted."""

    policy: str
    name: str
    keys: tuple[str, ...]
    fixed: Mapping[int, str]
    requests_per_unit: int
    unit: str
    unlimited: bool
    shadow: bool
    failure_mode: str

    @property
    def identifier(self) -> str:
        """`namespace/policy/limit`."""
        return f"{self.policy}/{self.name}"

    def counter_key(self, entries: Sequence[tuple[str, str]]) -> str | None:
        """The counter that a descriptor means, or None when it is not one of this limit's."""
        if len(entries) != len(self.keys):
            return None
        open_values = []
        for index, (key, value) in enumerate(entries):
            if key != self.keys[index]:
                return None
            wanted = self.fixed.get(index)
            if wanted is None:
                open_values.append(_short(value))
            elif wanted != value:
                return None
        return SEPARATOR.join((self.identifier, *open_values))


def _short(value: str) -> str:
    """`value` itself when it is short and plain, else a digest that starts with a character no plain value starts with."""
    if len(value) <= MAX_VALUE_LENGTH and SEPARATOR not in value and not value.startswith("#"):
        return value
    return "#" + hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def parse_limits(message: workload_pb2.WorkloadLimits) -> Mapping[str, Limit]:
    """The limits of one workload by identifier; UnusableLimitsError when one of them cannot be enforced as written."""
    limits: dict[str, Limit] = {}
    for entry in message.limits:
        limit = Limit(
            policy=entry.policy,
            name=entry.name,
            keys=tuple(e.key for e in entry.entries),
            fixed={index: e.value for index, e in enumerate(entry.entries) if not e.any_value},
            requests_per_unit=entry.requests_per_unit,
            unit=entry.unit,
            unlimited=entry.unlimited,
            shadow=entry.shadow,
            failure_mode=entry.failure_mode,
        )
        if limit.unit not in UNIT_SECONDS:
            reason = f"unit {limit.unit!r} is not one of {', '.join(UNIT_SECONDS)}"
            raise UnusableLimitsError(f"{limit.identifier}: {reason}")
        if limit.fixed.get(0) != limit.identifier:
            raise UnusableLimitsError(f"{limit.identifier}: the first entry does not name the limit")
        if limit.identifier in limits:
            raise UnusableLimitsError(f"{limit.identifier}: named twice")
        limits[limit.identifier] = limit
    return limits


@dataclass(slots=True)
class LimitTable:
    """The limits of every workload; replaced workload by workload, each in one step."""

    _by_target: dict[str, Mapping[str, Limit]] = field(default_factory=dict)

    def update(self, changed: Mapping[str, bytes], removed: Collection[str]) -> Mapping[str, str]:
        """Take over what the control plane sent; returns the reason for each workload that had to be refused.

        A refused workload keeps the limits it had.
        """
        reasons: dict[str, str] = {}
        for target, data in changed.items():
            try:
                self._by_target[target] = parse_limits(workload_pb2.WorkloadLimits.FromString(data))
            except ValueError as error:
                reasons[target] = str(error)
            except Exception as error:  # noqa: BLE001  (protobuf's DecodeError; the sender is told)
                reasons[target] = f"cannot be decoded: {error}"
        for target in removed:
            self._by_target.pop(target, None)
        return reasons

    def knows(self, target: str) -> bool:
        """Whether limits for this workload have arrived."""
        return target in self._by_target

    def __len__(self) -> int:
        return len(self._by_target)

    def match(
        self, target: str, descriptors: Iterable[ratelimit_pb2.RateLimitDescriptor]
    ) -> list[tuple[Limit, str] | None]:
        """For each descriptor its limit and counter key, or None when no limit of this workload means it.

        A limit is a budget of its policy: every workload that the policy selects draws on the same counters.
        """
        limits = self._by_target.get(target, {})
        found: list[tuple[Limit, str] | None] = []
        for descriptor in descriptors:
            entries = [(entry.key, entry.value) for entry in descriptor.entries]
            limit = limits.get(entries[0][1]) if entries else None
            key = limit.counter_key(entries) if limit else None
            found.append((limit, key) if limit and key is not None else None)
        return found
