"""Requests of every kind leave nothing behind in the VM."""

import http.client
import time

import pytest

from tests.filters.envoy.envoys import FilterEnvoy

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(600)]

KINDS = {
    "nothing": ("GET", "/nothing", b""),
    "headers": ("GET", "/headers?a=1", b""),
    "body": ("POST", "/body", b"x" * 20_000),
    "replaced body": ("POST", "/body/replace", b"[1]"),
    "chunks": ("POST", "/chunks/replace", b"x" * 20_000),
    "call": ("GET", "/call/pass", b""),
    "exception": ("GET", "/raise", b""),
    "shared": ("GET", "/shared", b""),
    "metrics": ("GET", "/metrics", b""),
    "properties": ("GET", "/properties", b""),
    "response body": ("GET", "/response/body", b""),
    "response replaced": ("GET", "/response/replace", b""),
}
REPEATED = 60
SPARE = REPEATED // 2
"""Objects that caches may take: less than one for every second request."""


def grown(envoy: FilterEnvoy, listener: str, method: str, path: str, body: bytes) -> int:
    """Objects that REPEATED requests leave behind."""
    connection = http.client.HTTPConnection("127.0.0.1", envoy.ports[listener], timeout=30)

    def request(method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        connection.request(method, path, body or None)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def objects() -> int:
        """Collecting garbage may take longer than a callback may, on a machine that is busy with other things."""
        end = time.monotonic() + 60
        while (found := request("GET", "/objects"))[0] != 200:
            assert time.monotonic() < end
        return int(found[1])

    for _ in range(5):
        request(method, path, body)
    before = objects()
    for _ in range(REPEATED):
        request(method, path, body)
    after = objects()
    connection.close()
    return after - before


@pytest.mark.parametrize("listener", ["closed", "short"])
@pytest.mark.parametrize("kind", KINDS)
def test_requests_leave_no_objects_behind(envoy: FilterEnvoy, kind: str, listener: str) -> None:
    """Twice: what is made once is there after the first round."""
    assert min(grown(envoy, listener, *KINDS[kind]) for _ in range(2)) < SPARE


def test_a_leak_would_be_seen(envoy: FilterEnvoy) -> None:
    assert min(grown(envoy, "short", "GET", "/hoard", b"") for _ in range(2)) >= SPARE
