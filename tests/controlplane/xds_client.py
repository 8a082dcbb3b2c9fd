"""A small real ADS client, delta and state of the world, written against Envoy's stubs and nothing of the server's code."""

import asyncio
from collections.abc import Mapping
from typing import Self

import grpc
from google.protobuf.struct_pb2 import Struct

from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from tests.controlplane.pki import SERVER_NAME, Authority, Pair


def node(
    name: str = "app-1",
    namespace: str = "shop",
    account: str = "app",
    kind: str = "sidecar",
    address: str = "127.0.0.1",
) -> base_pb2.Node:
    metadata = Struct()
    metadata.update(
        {"NAMESPACE": namespace, "SERVICE_ACCOUNT": account, "WORKLOAD_NAME": "app", "INTERCEPTION_MODE": "NONE"}
    )
    return base_pb2.Node(
        id=f"{kind}~{address}~{name}.{namespace}~{namespace}.svc.cluster.local",
        cluster=f"app.{namespace}",
        metadata=metadata,
    )


def credentials(authority: Authority, pair: Pair) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(authority.root, pair.key, pair.certificate)


def channel(port: int, channel_credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    options = [
        ("grpc.ssl_target_name_override", SERVER_NAME),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
    ]
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", channel_credentials, options=options)


class DeltaClient:
    """One delta stream: `subscribe`, then `receive` answers with an ACK (or a NACK if `refuse` says why)."""

    def __init__(self, port: int, channel_credentials: grpc.ChannelCredentials, who: base_pb2.Node) -> None:
        self._channel = channel(port, channel_credentials)
        self._call = ads_pb2_grpc.AggregatedDiscoveryServiceStub(self._channel).DeltaAggregatedResources()
        self._node: base_pb2.Node | None = who
        self.resources: dict[str, dict[str, bytes]] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.responses = 0
        self._reading: asyncio.Future[object] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def subscribe(self, type_url: str, *names: str, initial: Mapping[str, str] | None = None) -> None:
        await self._send(
            discovery_pb2.DeltaDiscoveryRequest(
                type_url=type_url, resource_names_subscribe=names or ("*",), initial_resource_versions=initial or {}
            )
        )

    async def unsubscribe(self, type_url: str, *names: str) -> None:
        await self._send(discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, resource_names_unsubscribe=names))

    async def receive(self, refuse: str = "", timeout: float = 60.0) -> discovery_pb2.DeltaDiscoveryResponse:
        response = await self.read(timeout)
        if not refuse:
            held = self.resources.setdefault(response.type_url, {})
            versions = self.versions.setdefault(response.type_url, {})
            for resource in response.resources:
                assert resource.resource.type_url == response.type_url
                held[resource.name] = resource.resource.value
                versions[resource.name] = resource.version
            for name in response.removed_resources:
                held.pop(name, None)
                versions.pop(name, None)
        await self.answer(response, refuse)
        return response

    async def read(self, timeout: float = 60.0) -> discovery_pb2.DeltaDiscoveryResponse:
        # A read that is cancelled would end the call: it goes on, and the next `read` finds it.
        reading = self._reading or asyncio.ensure_future(self._call.read())
        self._reading = reading
        async with asyncio.timeout(timeout):
            response = await asyncio.shield(reading)
        self._reading = None
        assert isinstance(response, discovery_pb2.DeltaDiscoveryResponse), await self.end()
        self.responses += 1
        return response

    async def answer(self, response: discovery_pb2.DeltaDiscoveryResponse, refuse: str = "") -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if refuse:
            request.error_detail.code = 13
            request.error_detail.message = refuse
        await self._call.write(request)

    async def end(self, timeout: float = 60.0) -> tuple[grpc.StatusCode, str]:
        """Wait for the server to end the stream."""
        async with asyncio.timeout(timeout):
            return await self._call.code(), await self._call.details()

    async def _send(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        if self._node is not None:
            request.node.CopyFrom(self._node)
            self._node = None
        await self._call.write(request)


class SotwClient:
    """One state-of-the-world stream."""

    def __init__(self, port: int, channel_credentials: grpc.ChannelCredentials, who: base_pb2.Node) -> None:
        self._channel = channel(port, channel_credentials)
        self._call = ads_pb2_grpc.AggregatedDiscoveryServiceStub(self._channel).StreamAggregatedResources()
        self._node: base_pb2.Node | None = who
        self.names: dict[str, tuple[str, ...]] = {}
        self.version: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def subscribe(self, type_url: str, *names: str) -> None:
        self.names[type_url] = names
        request = discovery_pb2.DiscoveryRequest(type_url=type_url, resource_names=names)
        if self._node is not None:
            request.node.CopyFrom(self._node)
            self._node = None
        await self._call.write(request)

    async def receive(self, refuse: str = "", timeout: float = 60.0) -> discovery_pb2.DiscoveryResponse:
        async with asyncio.timeout(timeout):
            response = await self._call.read()
        assert isinstance(response, discovery_pb2.DiscoveryResponse)
        request = discovery_pb2.DiscoveryRequest(
            type_url=response.type_url, resource_names=self.names[response.type_url], response_nonce=response.nonce
        )
        if refuse:
            request.error_detail.message = refuse
        else:
            self.version[response.type_url] = response.version_info
        request.version_info = self.version.get(response.type_url, "")
        await self._call.write(request)
        return response
