"""Deciding: descriptors to limits, counts to answers, and who may ask."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lateen.envoyapi.envoy.service.ratelimit.v3 import rls_pb2
from lateen.envoyapi.lateen.v1alpha1 import workload_pb2
from ratelimit.limits import LimitTable
from ratelimit.memory_store import MemoryStore
from ratelimit.metrics import Metrics
from ratelimit.service import CallError, RateLimits
from ratelimit.store import StoreError
from ratelimit.window import Window
from tests.fakes.clock import FakeClock

TARGET = "payments/payments-api-v1"
PEER = "spiffe://cluster.local/ns/payments/sa/payments-api"
OK, OVER = rls_pb2.RateLimitResponse.Code.OK, rls_pb2.RateLimitResponse.Code.OVER_LIMIT


def limit(name: str = "per-tenant", requests: int = 5, unit: str = "second", **fields: object) -> workload_pb2.Limit:
    identifier = f"payments/charge/{name}"
    return workload_pb2.Limit(
        policy="payments/charge",
        name=name,
        entries=[
            workload_pb2.LimitEntry(key="policy", value=identifier),
            workload_pb2.LimitEntry(key="header:x-tenant", any_value=True),
        ],
        requests_per_unit=requests,
        unit=unit,
        failure_mode="allow",
        **fields,  # type: ignore[arg-type]  # protobuf checks them
    )


def request(tenant: str = "acme", name: str = "per-tenant", hits: int = 0) -> bytes:
    message = rls_pb2.RateLimitRequest(domain="lateen", hits_addend=hits)
    descriptor = message.descriptors.add()
    descriptor.entries.add(key="policy", value=f"payments/charge/{name}")
    descriptor.entries.add(key="header:x-tenant", value=tenant)
    return message.SerializeToString()


class Play:
    """A service with a clock that tests move."""

    def __init__(self, *limits: workload_pb2.Limit) -> None:
        self.clock, self.metrics, self.table = FakeClock(), Metrics(), LimitTable()
        self.store = MemoryStore(self.clock)
        self.load(*limits)
        self.service = RateLimits(self.table, self.store, self.clock, self.metrics)

    def load(self, *limits: workload_pb2.Limit) -> None:
        message = workload_pb2.WorkloadLimits(target=TARGET, domain="lateen", limits=limits)
        assert self.table.update({TARGET: message.SerializeToString()}, ()) == {}

    async def ask(self, data: bytes, target: str = TARGET, peer: str | None = PEER) -> rls_pb2.RateLimitResponse:
        return rls_pb2.RateLimitResponse.FromString(await self.service.should_rate_limit(target, peer, data))

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def headers(response: rls_pb2.RateLimitResponse) -> dict[str, str]:
    return {h.key: h.value for h in response.response_headers_to_add}


async def test_the_sixth_request_of_a_second_is_over() -> None:
    play = Play(limit())
    answers = [await play.ask(request()) for _ in range(6)]
    assert [a.overall_code for a in answers] == [OK] * 5 + [OVER]
    assert [a.statuses[0].limit_remaining for a in answers] == [4, 3, 2, 1, 0, 0]
    assert headers(answers[0]) == {"RateLimit-Limit": "5", "RateLimit-Remaining": "4", "RateLimit-Reset": "1"}
    assert headers(answers[5])["Retry-After"] == "1"
    assert answers[5].statuses[0].current_limit.name == "payments/charge/per-tenant"


async def test_the_next_second_starts_anew() -> None:
    play = Play(limit(requests=1))
    assert [(await play.ask(request())).overall_code for _ in range(2)] == [OK, OVER]
    play.clock.tick(1)
    assert (await play.ask(request())).overall_code == OK


async def test_tenants_are_counted_apart() -> None:
    play = Play(limit(requests=1))
    assert [(await play.ask(request(t))).overall_code for t in ("acme", "globex", "acme")] == [OK, OK, OVER]


async def test_long_and_hostile_values_are_counted_apart_too() -> None:
    play = Play(limit(requests=1))
    values = ["x" * 5000, "x" * 5001, "a\x1fb", "#" + "0" * 32, "", "ü" * 200]
    assert [(await play.ask(request(v))).overall_code for v in values] == [OK] * len(values)
    assert [(await play.ask(request(v))).overall_code for v in values] == [OVER] * len(values)


async def test_shadow_counts_but_never_refuses() -> None:
    play = Play(limit(requests=1, shadow=True))
    answers = [await play.ask(request()) for _ in range(3)]
    assert [a.overall_code for a in answers] == [OK] * 3
    assert headers(answers[2]) == {}
    labels = {"policy": "payments/charge", "limit": "per-tenant"}
    assert play.metric("lateen_ratelimit_decisions_total", verdict="shadow", **labels) == 2


async def test_unlimited_is_never_over_and_uses_no_store() -> None:
    play = Play(limit(requests=0, unlimited=True))
    play.service._store = Broken()
    assert (await play.ask(request())).statuses[0].limit_remaining == 2**32 - 1


async def test_a_limit_of_zero_refuses_everything() -> None:
    assert (await Play(limit(requests=0)).ask(request())).overall_code == OVER


async def test_hits_addend_counts() -> None:
    play = Play(limit(requests=5))
    assert [(await play.ask(request(hits=3))).overall_code for _ in range(2)] == [OK, OVER]


async def test_several_descriptors_are_answered_in_order_and_the_tightest_is_told() -> None:
    play = Play(limit("wide", 100, "minute"), limit("narrow", 1))
    message = rls_pb2.RateLimitRequest.FromString(request(name="wide"))
    message.descriptors.add().CopyFrom(rls_pb2.RateLimitRequest.FromString(request(name="narrow")).descriptors[0])
    message.descriptors.add().entries.add(key="policy", value="payments/charge/absent")
    first, second = [await play.ask(message.SerializeToString()) for _ in range(2)]
    assert [s.code for s in first.statuses] == [OK, OK, OK]
    assert [s.code for s in second.statuses] == [OK, OVER, OK]
    assert headers(second)["RateLimit-Limit"] == "1"
    assert second.overall_code == OVER


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([("policy", "payments/charge/per-tenant")], id="too short"),
        pytest.param([("policy", "payments/charge/per-tenant"), ("header:x-user", "a")], id="other key"),
        pytest.param([("policy", "payments/charge/other"), ("header:x-tenant", "a")], id="other limit"),
        pytest.param([], id="empty"),
        pytest.param([("policy", "payments/charge/per-tenant"), ("header:x-tenant", "a"), ("x", "y")], id="too long"),
    ],
)
async def test_a_descriptor_that_no_limit_means_is_ok(entries: Sequence[tuple[str, str]]) -> None:
    play = Play(limit(requests=0))
    message = rls_pb2.RateLimitRequest(domain="lateen")
    descriptor = message.descriptors.add()
    for k, v in entries:
        descriptor.entries.add(key=k, value=v)
    answer = await play.ask(message.SerializeToString())
    assert answer.overall_code == OK
    assert not answer.statuses[0].HasField("current_limit")


async def test_what_is_over_is_remembered_until_the_window_ends_or_the_limit_is_raised() -> None:
    play = Play(limit(requests=1, unit="minute"))
    for _ in range(3):
        await play.ask(request())
    assert play.metric("lateen_ratelimit_over_limit_remembered_total") == 1
    play.load(limit(requests=10, unit="minute"))
    assert (await play.ask(request())).overall_code == OK


class Broken:
    """A store that cannot count."""

    async def add(self, hits: Sequence[tuple[str, Window, int]]) -> list[int]:
        if hits:
            raise StoreError("redis: gone")
        return []

    async def ready(self) -> bool:
        return False

    async def close(self) -> None:
        pass


async def test_a_store_that_fails_is_an_error_and_a_metric() -> None:
    play = Play(limit())
    play.service._store = Broken()
    with pytest.raises(CallError, match="redis: gone") as error:
        await play.ask(request())
    assert error.value.code == "UNAVAILABLE"
    assert play.metric("lateen_ratelimit_store_failures_total", failure_mode="allow") == 1
    assert play.metric("lateen_ratelimit_store_failures_total", failure_mode="deny") == 0


@pytest.mark.parametrize(
    ("target", "peer", "code"),
    [
        pytest.param(TARGET, None, "PERMISSION_DENIED", id="no certificate"),
        pytest.param(
            TARGET, "spiffe://cluster.local/ns/orders/sa/orders-svc", "PERMISSION_DENIED", id="other namespace"
        ),
        pytest.param("payments/unknown", PEER, "FAILED_PRECONDITION", id="unknown workload"),
        pytest.param("", PEER, "PERMISSION_DENIED", id="no target"),
    ],
)
async def test_who_may_not_ask_gets_an_error(target: str, peer: str | None, code: str) -> None:
    with pytest.raises(CallError) as error:
        await Play(limit()).ask(request(), target, peer)
    assert error.value.code == code


@given(st.binary(max_size=300))
@settings(max_examples=200)
async def test_any_bytes_are_an_answer_or_a_call_error(data: bytes) -> None:
    try:
        await Play(limit()).ask(data)
    except CallError as error:
        assert error.code == "INVALID_ARGUMENT"  # noqa: PT017


def test_limits_that_cannot_be_enforced_are_refused_and_the_old_ones_stay() -> None:
    play = Play(limit())
    bad = workload_pb2.WorkloadLimits(target=TARGET, limits=[limit(unit="fortnight")])
    reasons = play.table.update({TARGET: bad.SerializeToString(), "x/y": b"\xff\xff"}, ())
    assert "fortnight" in reasons[TARGET]
    assert "decoded" in reasons["x/y"]
    assert play.table.knows(TARGET)
    play.table.update({}, [TARGET])
    assert not play.table.knows(TARGET)


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 4)), min_size=1, max_size=60),
    st.integers(1, 10),
)
@settings(max_examples=100, deadline=None)
async def test_never_more_than_the_limit_within_a_window(steps: list[tuple[float, int]], allowed: int) -> None:
    play = Play(limit(requests=allowed))
    let_through: dict[int, int] = {}
    for seconds, hits in steps:
        play.clock.tick(seconds)
        if (await play.ask(request(hits=hits))).overall_code == OK:
            second = int(play.clock.now().timestamp())
            let_through[second] = let_through.get(second, 0) + hits
    assert all(total <= allowed for total in let_through.values())
