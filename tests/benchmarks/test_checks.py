"""What is measured is what it says: requests that are allowed, and tokens that are really verified."""

import asyncio

import pytest

from benchmarks.checks import Bench, request_for, unindexed
from lateen.envoyapi.envoy.service.auth.v3 import external_auth_pb2
from lateen.fetching import http_client
from lateen.jwks.keeper import KeyKeeper


def test_a_request_that_is_denied_is_not_measured() -> None:
    async def run() -> None:
        async with http_client() as client:
            bench = Bench(KeyKeeper(client), unindexed(10))
            bench.check(request_for(9))
            with pytest.raises(AssertionError):
                bench.check(request_for(10))

    asyncio.run(run())


def test_requests_are_whole() -> None:
    request = external_auth_pb2.CheckRequest.FromString(request_for(3, "a.b.c"))
    assert request.attributes.request.http.path.startswith("/v1/service-3/")
    assert request.attributes.request.http.headers["authorization"] == "Bearer a.b.c"
