"""The bootstrap's connection to the control plane: mutual TLS on both sides, with certificates of the agent for both."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from lateen.adsclient.tls import SdsIdentity
from lateen.envoyapi.envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from lateen.wire.grpcio.server import peer_identity
from tests.agent.harness import Agent, Authority, Process, envoy_arguments, eventually, http_get, loopback_address

pytestmark = pytest.mark.e2e
Request = discovery_pb2.DeltaDiscoveryRequest
Response = discovery_pb2.DeltaDiscoveryResponse
Context = grpc.aio.ServicerContext[Any, Any]


class EmptyControlPlane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Answers every subscription with nothing, and remembers who asked."""

    def __init__(self) -> None:
        self.peers: list[tuple[str | None, str]] = []

    async def DeltaAggregatedResources(
        self, request_iterator: AsyncIterable[Request], context: Context
    ) -> AsyncIterator[Response]:
        node = ""
        async for request in request_iterator:
            if not node:
                node = request.node.id
                self.peers.append((peer_identity(context), node))
            if not request.response_nonce:
                yield Response(type_url=request.type_url, nonce="1")


async def _connect(folder: Path, authority: Authority, account: str, address: str) -> EmptyControlPlane:
    """A proxy connects to a control plane that runs as `account`; returns once that saw it, or once TLS failed."""
    ads_address, service = f"{loopback_address()}:15012", EmptyControlPlane()
    agent = Agent(folder, authority, ads_address=ads_address)
    await asyncio.to_thread(agent.start)
    token = authority.token("istio-system", account, dns_names=("lateen-controlplane.istio-system.svc",))
    socket = agent.register(account, token, namespace="istio-system", node_type="service")
    server: grpc.aio.Server | None = None
    envoy: Process | None = None
    try:
        await asyncio.to_thread(eventually, socket.exists, "the socket")
        async with SdsIdentity(socket) as identity:
            server = grpc.aio.server()
            ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(service, server)
            assert server.add_secure_port(ads_address, identity.server_credentials()) == 15012
            await server.start()
            bootstrap = folder / "orders.bootstrap.json"
            agent.register(
                "orders", authority.token("default", "orders"), address=address, bootstrap_file=str(bootstrap)
            )
            await asyncio.to_thread(eventually, bootstrap.exists, "the bootstrap")
            envoy = Process(envoy_arguments(bootstrap), folder / "orders.log")

            def settled() -> bool:
                """The control plane saw the proxy, or the proxy refused the control plane twice."""
                stats = http_get(address, 15000, "/stats?filter=cluster.xds-grpc.ssl.fail_verify_san")[1]
                refused = sum(int(line.rpartition(" ")[2]) for line in stats.splitlines())
                return bool(service.peers) or refused >= 2

            await asyncio.to_thread(eventually, settled, "a connection")
            if service.peers:
                ready = lambda: http_get(address, 15021, "/healthz/ready")[0] == 200  # noqa: E731
                await asyncio.to_thread(eventually, ready, "readiness")
            await server.stop(0)
    finally:
        if envoy is not None:
            envoy.stop(9)
        await asyncio.to_thread(agent.stop)
    return service


async def test_the_control_plane_sees_the_proxys_identity(folder: Path, authority: Authority) -> None:
    address = loopback_address()
    service = await _connect(folder, authority, "lateen-controlplane", address)
    node = f"sidecar~{address}~orders.default~default.svc.cluster.local"
    assert service.peers == [("spiffe://cluster.local/ns/default/sa/orders", node)]


async def test_a_proxy_does_not_talk_to_an_impostor(folder: Path, authority: Authority) -> None:
    # A certificate of the same mesh, even with the control plane's DNS name, but another service account.
    service = await _connect(folder, authority, "impostor", loopback_address())
    assert service.peers == []
