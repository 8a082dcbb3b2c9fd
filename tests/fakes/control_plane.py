"""A real gRPC server that speaks delta ADS and SDS, scripted by a test: what a client of the control plane and the agent meets."""

import asyncio
from collections.abc import AsyncIterator

import grpc

from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from lateen.envoyapi.envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from lateen.envoyapi.envoy.service.secret.v3 import sds_pb2_grpc
from tests.fakes.pki import Pair, TestAuthority

_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

DeltaContext = grpc.aio.ServicerContext[discovery_pb2.DeltaDiscoveryRequest, discovery_pb2.DeltaDiscoveryResponse]


class DeltaAds(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Serves `resources` of one type to every stream, and what changes; remembers each request."""

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.resources: dict[str, tuple[str, bytes]] = {}
        self.requests: list[discovery_pb2.DeltaDiscoveryRequest] = []
        self.changed = asyncio.Condition()
        self._generation = 0

    async def put(self, name: str, data: bytes) -> None:
        """Add or change a resource."""
        async with self.changed:
            self._generation += 1
            self.resources[name] = (str(self._generation), data)
            self.changed.notify_all()

    async def remove(self, name: str) -> None:
        """Take a resource away."""
        async with self.changed:
            self.resources.pop(name)
            self.changed.notify_all()

    async def wait_for_answer(self, count: int) -> discovery_pb2.DeltaDiscoveryRequest:
        """The count-th ACK or NACK."""
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(lambda: len(self.answers) >= count)
            return self.answers[count - 1]

    @property
    def answers(self) -> list[discovery_pb2.DeltaDiscoveryRequest]:
        """The requests that answer a response."""
        return [r for r in self.requests if r.response_nonce]

    async def DeltaAggregatedResources(
        self, request_iterator: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest], context: DeltaContext
    ) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        """One stream."""
        first = await anext(request_iterator)
        await self._note(first)
        reader = asyncio.create_task(self._read(request_iterator))
        known = dict(first.initial_resource_versions)
        nonce = 0
        try:
            while True:
                current = {name: version for name, (version, _) in self.resources.items()}
                removed = [name for name in known if name not in current]
                fresh = [name for name, version in current.items() if known.get(name) != version]
                if fresh or removed or not nonce:
                    nonce += 1
                    yield self._response(fresh, removed, str(nonce))
                    known = current
                await self._changes_from(current)
        finally:
            reader.cancel()

    async def _changes_from(self, known: dict[str, str]) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: {n: v for n, (v, _) in self.resources.items()} != known)

    def _response(self, names: list[str], removed: list[str], nonce: str) -> discovery_pb2.DeltaDiscoveryResponse:
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=self.type_url, nonce=nonce, removed_resources=removed)
        for name in names:
            version, data = self.resources[name]
            resource = response.resources.add(name=name, version=version)
            resource.resource.type_url = self.type_url
            resource.resource.value = data
        return response

    async def _read(self, requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest]) -> None:
        async for request in requests:
            await self._note(request)

    async def _note(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        async with self.changed:
            self.requests.append(request)
            self.changed.notify_all()


class OneSecret(sds_pb2_grpc.SecretDiscoveryServiceServicer):
    """Serves one identity and the roots, and nothing more until the stream ends."""

    def __init__(self, pair: Pair, roots: str) -> None:
        self._secrets = [secret_pb2.Secret(name="default"), secret_pb2.Secret(name="ROOTCA")]
        self._secrets[0].tls_certificate.certificate_chain.inline_bytes = pair.certificate.encode()
        self._secrets[0].tls_certificate.private_key.inline_bytes = pair.key.encode()
        self._secrets[1].validation_context.trusted_ca.inline_bytes = roots.encode()

    async def StreamSecrets(
        self,
        request_iterator: AsyncIterator[discovery_pb2.DiscoveryRequest],
        context: grpc.aio.ServicerContext[discovery_pb2.DiscoveryRequest, discovery_pb2.DiscoveryResponse],
    ) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        """One stream."""
        await anext(request_iterator)
        response = discovery_pb2.DiscoveryResponse(type_url=_SECRET, version_info="1", nonce="1")
        for secret in self._secrets:
            response.resources.add(type_url=_SECRET, value=secret.SerializeToString())
        yield response
        async for _ in request_iterator:
            pass


async def serve_ads(
    ads: DeltaAds, authority: TestAuthority, address: str = "127.0.0.1:0"
) -> tuple[grpc.aio.Server, str]:
    """Start an ADS server with mutual TLS under the control plane's name; returns it and its address."""
    pair = authority.issue(
        "spiffe://cluster.local/ns/istio-system/sa/lateen-controlplane", "lateen-controlplane.istio-system.svc"
    )
    server = grpc.aio.server()
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(ads, server)
    credentials = grpc.ssl_server_credentials(
        [(pair.key.encode(), pair.certificate.encode())], authority.root.encode(), require_client_auth=True
    )
    port = server.add_secure_port(address, credentials)
    await server.start()
    return server, f"127.0.0.1:{port}"


async def serve_sds(pair: Pair, roots: str, socket: str) -> grpc.aio.Server:
    """Start an SDS server on a unix socket."""
    server = grpc.aio.server()
    sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(OneSecret(pair, roots), server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    return server
