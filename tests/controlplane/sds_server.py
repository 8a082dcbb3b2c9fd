"""A secret discovery server on a unix socket, as an agent would be one: for processes that take their identity from it."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from google.protobuf import any_pb2

from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from lateen.envoyapi.envoy.service.discovery.v3 import discovery_pb2
from lateen.envoyapi.envoy.service.secret.v3 import sds_pb2_grpc
from tests.controlplane.pki import Authority, Pair

_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


class _Secrets(sds_pb2_grpc.SecretDiscoveryServiceServicer):
    def __init__(self, authority: Authority, pair: Pair) -> None:
        default = secret_pb2.Secret(name="default")
        default.tls_certificate.certificate_chain.inline_bytes = pair.certificate
        default.tls_certificate.private_key.inline_bytes = pair.key
        roots = secret_pb2.Secret(name="ROOTCA")
        roots.validation_context.trusted_ca.inline_bytes = authority.root
        packed = [any_pb2.Any(type_url=_TYPE, value=s.SerializeToString()) for s in (default, roots)]
        self._response = discovery_pb2.DiscoveryResponse(version_info="1", type_url=_TYPE, nonce="1", resources=packed)

    async def StreamSecrets(
        self,
        request_iterator: AsyncIterator[discovery_pb2.DiscoveryRequest],
        context: grpc.aio.ServicerContext[discovery_pb2.DiscoveryRequest, discovery_pb2.DiscoveryResponse],
    ) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        async for request in request_iterator:
            if not request.response_nonce:
                yield self._response


@contextlib.asynccontextmanager
async def serving(path: Path, authority: Authority, pair: Pair) -> AsyncIterator[None]:
    server = grpc.aio.server()
    sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(_Secrets(authority, pair), server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)
