"""Two workers of one Envoy, each with a virtual machine of its own: what they share, and what they do not."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from filters.toolchain.local_envoy import Chain, Placed
from tests.filters.envoy.envoys import FilterEnvoy

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(600)]
REQUESTS, CLIENTS = 400, 8


@pytest.fixture(scope="module")
def two_workers(module: Path) -> Iterator[FilterEnvoy]:
    running = FilterEnvoy(module, [Chain([Placed("cases", {})], name="closed")], concurrency=2)
    yield running
    running.stop()


def _worked(envoy: FilterEnvoy) -> list[int]:
    """Connections that each worker has had."""
    text = httpx.get(f"http://{envoy.admin}/stats?filter=worker_.*downstream_cx_total", timeout=5).text
    return [int(line.rpartition(": ")[2]) for line in text.splitlines() if "127.0.0.1" in line]


def test_compare_and_set_loses_no_update(two_workers: FilterEnvoy) -> None:
    """Beginning with the very first, which both workers may want to make."""

    def count(_: int) -> int:
        answer = two_workers.request("/counted")
        assert answer.status_code == 200, answer.text
        return int(answer.json()[0])

    with ThreadPoolExecutor(CLIENTS) as pool:
        counted = list(pool.map(count, range(REQUESTS)))
    assert sorted(counted) == list(range(1, REQUESTS + 1))
    assert len([number for number in _worked(two_workers) if number > 20]) == 2
