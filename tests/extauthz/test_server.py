"""The service on both transports, with a real client: who the caller is, which target it asks for, health."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from extauthz.check import Checker
from extauthz.denials import Denials
from extauthz.handlers import LIMITS, Health, handlers
from extauthz.metrics import Metrics
from extauthz.policies import Policies
from lateen.envoyapi.envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from lateen.envoyapi.grpc.health.v1 import health_pb2, health_pb2_grpc
from lateen.fetching import http_client
from lateen.jwks.keeper import KeyKeeper
from lateen.wire.transport import Transport, rpc_server
from tests.extauthz.service import PROXY, TARGET, http, workload
from tests.fakes.pki import FixedIdentity, TestAuthority

NAME = "lateen-extauthz.istio-system.svc"


@dataclass
class Running:
    """A server, and channels to it."""

    authority: TestAuthority
    address: str
    policies_arrived: list[bool] = field(default_factory=list)

    def channel(self, identity: str) -> grpc.aio.Channel:
        return self.authority.channel(self.address, identity, NAME)

    async def code(self, identity: str, metadata: Sequence[tuple[str, str]]) -> int:
        """The status code in the answer to one Check."""
        async with self.channel(identity) as channel:
            answer: external_auth_pb2.CheckResponse = await external_auth_pb2_grpc.AuthorizationStub(channel).Check(
                http(), metadata=grpc.aio.Metadata(*metadata), timeout=60
            )
        return int(answer.status.code)


@pytest.fixture(params=Transport)
async def running(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    authority = TestAuthority()
    identity = FixedIdentity(authority.material("spiffe://cluster.local/ns/istio-system/sa/lateen-extauthz", NAME))
    made = Running(authority, f"unix:{tmp_path}/s.sock")
    async with http_client() as client:
        keeper = KeyKeeper(client)
        policies = Policies(keeper.want)
        policies.take({TARGET: workload({"rules": [{}]})}, [])
        checker = Checker(policies, keeper, Metrics(), Denials())
        health = Health(lambda: bool(made.policies_arrived))
        server = rpc_server(request.param, handlers(checker, health), LIMITS, identity)
        await server.start(made.address)
        yield made
        await server.stop(0)


async def test_the_caller_is_its_certificate_and_the_target_its_metadata(running: Running) -> None:
    target = ("x-lateen-target", TARGET)
    running.policies_arrived.append(True)
    assert await running.code(PROXY, [target]) == 0
    assert await running.code("spiffe://cluster.local/ns/ns/sa/other", [target]) == 7
    assert await running.code("", [target]) == 7
    assert await running.code(PROXY, []) == 7
    assert await running.code(PROXY, [("x-lateen-target", "ns/other"), target]) == 7
    peer = ("x-lateen-peer", "10.0.0.9")
    assert await running.code(PROXY, [target, peer]) == 0
    assert await running.code(PROXY, [target, peer, peer]) == 7, "what is said twice is not believed"


async def test_health_follows_the_arrival_of_policies(running: Running) -> None:
    async with running.channel(PROXY) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.NOT_SERVING
        running.policies_arrived.append(True)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


async def test_without_policies_another_replica_is_to_be_asked(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.code(PROXY, [("x-lateen-target", TARGET)])
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    running.policies_arrived.append(True)
    assert await running.code(PROXY, [("x-lateen-target", TARGET)]) == 0
