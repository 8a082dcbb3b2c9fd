"""The service on both transports, with a real client: who the caller is, which target it asks for, what errors become, health."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from lateen.envoyapi.envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc
from lateen.envoyapi.grpc.health.v1 import health_pb2, health_pb2_grpc
from lateen.wire.transport import Transport, rpc_server
from ratelimit.handlers import LIMITS, handlers
from tests.fakes.pki import FixedIdentity, TestAuthority
from tests.ratelimit.test_service import PEER, TARGET, Play, limit, request

NAME = "lateen-ratelimit.istio-system.svc"
OK, OVER = rls_pb2.RateLimitResponse.Code.OK, rls_pb2.RateLimitResponse.Code.OVER_LIMIT


@dataclass
class Running:
    """A server, and channels to it."""

    authority: TestAuthority
    address: str
    play: Play

    def channel(self, identity: str = PEER) -> grpc.aio.Channel:
        return self.authority.channel(self.address, identity, NAME)

    async def ask(
        self,
        metadata: Sequence[tuple[str, str]] = (("x-lateen-target", TARGET),),
        data: bytes = b"",
        identity: str = PEER,
    ) -> int | grpc.StatusCode:
        """The overall code of the answer, or the status of the call."""
        async with self.channel(identity) as channel:
            try:
                answer: rls_pb2.RateLimitResponse = await rls_pb2_grpc.RateLimitServiceStub(channel).ShouldRateLimit(
                    rls_pb2.RateLimitRequest.FromString(data or request()),
                    metadata=grpc.aio.Metadata(*metadata),
                    timeout=30,
                )
            except grpc.aio.AioRpcError as error:
                return error.code()
        return answer.overall_code


@pytest.fixture(params=Transport)
async def running(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    authority = TestAuthority()
    identity = FixedIdentity(authority.material("spiffe://cluster.local/ns/istio-system/sa/lateen-ratelimit", NAME))
    made = Running(authority, f"unix:{tmp_path}/s.sock", Play(limit(requests=2)))
    server = rpc_server(request.param, handlers(made.play.service), LIMITS, identity, made.play.metrics.registry)
    await server.start(made.address)
    yield made
    await server.stop(0)


async def test_calls_are_counted_until_they_are_over(running: Running) -> None:
    assert [await running.ask() for _ in range(3)] == [OK, OK, OVER]


async def test_what_cannot_be_counted_is_an_error(running: Running) -> None:
    target = ("x-lateen-target", TARGET)
    assert (
        await running.ask([target], identity="spiffe://cluster.local/ns/other/sa/x")
        is grpc.StatusCode.PERMISSION_DENIED
    )
    assert await running.ask([target], identity="") is grpc.StatusCode.PERMISSION_DENIED
    assert await running.ask([]) is grpc.StatusCode.PERMISSION_DENIED
    assert await running.ask([target, target]) is grpc.StatusCode.PERMISSION_DENIED
    assert await running.ask([("x-lateen-target", "payments/none")]) is grpc.StatusCode.FAILED_PRECONDITION
    large = rls_pb2.RateLimitRequest(domain="x" * LIMITS.request_bytes).SerializeToString()
    assert await running.ask(data=large) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_health(running: Running) -> None:
    async with running.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
