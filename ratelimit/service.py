"""One call, bytes in and bytes out: what any gRPC server in front of this service calls."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from lateen.clock import Clock
from lateen.envoyapi.envoy.service.ratelimit.v3 import rls_pb2
from ratelimit.answer import Counted, answer
from ratelimit.limits import Limit, LimitTable
from ratelimit.metrics import Metrics
from ratelimit.store import CounterStore, StoreError
from ratelimit.window import Window, window_at

MAX_DESCRIPTORS = 100
MAX_OVER_LIMIT = 50_000


class CallError(Exception):
    """A call that gets an error instead of an answer; `code` is the gRPC status's name."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Hit:
    """A descriptor that some limit means: what to count, where, and how much."""

    limit: Limit
    key: str
    window: Window
    hits: int


class RateLimits:
    """Decides `ShouldRateLimit` calls.

    An error, never an OK, is the answer to what cannot be counted: Envoy's filter then applies the policy's failure mode.
    Counters known to be over their limit are remembered until their window ends and cost no Redis call.
    """

    def __init__(self, table: LimitTable, store: CounterStore, clock: Clock, metrics: Metrics) -> None:
        self._table = table
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._over: OrderedDict[tuple[str, int], int] = OrderedDict()

    async def should_rate_limit(self, target: str, peer: str | None, data: bytes) -> bytes:
        """The encoded RateLimitResponse for an encoded RateLimitRequest.

        `target` is the caller's `x-lateen-target`, `peer` the SPIFFE id of its certificate. Raises CallError.
        """
        started = time.perf_counter()
        request = _decode(data)
        self._check_caller(target, peer)
        now = self._clock.now()
        wanted = [
            match
            and Hit(*match, window_at(match[0].unit, now), descriptor.hits_addend.value or request.hits_addend or 1)
            for match, descriptor in zip(
                self._table.match(target, request.descriptors), request.descriptors, strict=True
            )
        ]
        counted = await self._count(wanted)
        for item in counted:
            if item:
                self._metrics.decision(item.limit.policy, item.limit.name, item.verdict)
        self._metrics.call_seconds.observe(time.perf_counter() - started)
        return answer(counted, now).SerializeToString()

    def _check_caller(self, target: str, peer: str | None) -> None:
        namespace = target.partition("/")[0]
        if peer is None or f"/ns/{namespace}/sa/" not in peer:
            self._metrics.refused.inc()
            raise CallError("PERMISSION_DENIED", f"{peer or 'an unauthenticated caller'} may not count for {target!r}")
        if not self._table.knows(target):
            self._metrics.refused.inc()
            raise CallError("FAILED_PRECONDITION", f"no limits known for {target!r}")

    async def _count(self, wanted: Sequence[Hit | None]) -> list[Counted | None]:
        """The count of each descriptor, in order; what memory knows to be over is not asked of the store."""
        counts = [None if hit is None else self._known_count(hit) for hit in wanted]
        unknown = [
            (index, hit) for index, (hit, count) in enumerate(zip(wanted, counts, strict=True)) if hit and count is None
        ]
        for (index, hit), total in zip(unknown, await self._add([hit for _, hit in unknown]), strict=True):
            counts[index] = total
            if total > hit.limit.requests_per_unit:
                self._remember(hit, total)
        return [
            None if hit is None or count is None else Counted(hit.limit, hit.window, count)
            for hit, count in zip(wanted, counts, strict=True)
        ]

    def _known_count(self, hit: Hit) -> int | None:
        """The count when no store is needed: the limit is not one, or its counter is known to be over."""
        if hit.limit.unlimited:
            return 0
        known = self._over.get((hit.key, hit.window.start))
        if known is None or known <= hit.limit.requests_per_unit:  # the limit was raised since
            return None
        self._metrics.remembered.inc()
        return known

    async def _add(self, hits: Sequence[Hit]) -> list[int]:
        try:
            totals = await self._store.add([(hit.key, hit.window, hit.hits) for hit in hits])
        except StoreError as error:
            self._metrics.store_up.set(0)
            for mode in {hit.limit.failure_mode for hit in hits}:
                self._metrics.store_failures.labels(failure_mode=mode).inc()
            raise CallError("UNAVAILABLE", str(error)) from error
        self._metrics.store_up.set(1)
        return totals

    def _remember(self, hit: Hit, total: int) -> None:
        self._over[hit.key, hit.window.start] = total
        while len(self._over) > MAX_OVER_LIMIT:
            self._over.popitem(last=False)


def _decode(data: bytes) -> rls_pb2.RateLimitRequest:
    try:
        request = rls_pb2.RateLimitRequest.FromString(data)
    except DecodeError as error:
        raise CallError("INVALID_ARGUMENT", "not a RateLimitRequest") from error
    if len(request.descriptors) > MAX_DESCRIPTORS:
        raise CallError("INVALID_ARGUMENT", f"more than {MAX_DESCRIPTORS} descriptors")
    return request
