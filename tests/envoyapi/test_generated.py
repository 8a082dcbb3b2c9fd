"""The generated package as its users see it: modules, message types, typed gRPC stubs that work over a real channel."""

import importlib
import pkgutil
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any

import lateen.envoyapi
from lateen.envoyapi.envoy.config.cluster.v3.cluster_pb2 import Cluster
from lateen.envoyapi.envoy.service.discovery.v3 import ads_pb2_grpc
from lateen.envoyapi.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Resource,
)
from lateen.envoyapi.grpc.health.v1 import health_pb2_grpc
from lateen.envoyapi.grpc.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from lateen.envoyapi.lateen.v1alpha1.workload_pb2 import WorkloadPolicy

_PUBLISHED = """
envoy.service.auth.v3.external_auth_pb2_grpc                   AuthorizationStub
envoy.service.discovery.v3.ads_pb2_grpc                        AggregatedDiscoveryServiceServicer
envoy.service.ext_proc.v3.external_processor_pb2_grpc          ExternalProcessorServicer
envoy.service.rate_limit_quota.v3.rlqs_pb2_grpc                RateLimitQuotaServiceServicer
envoy.service.ratelimit.v3.rls_pb2_grpc                        RateLimitServiceServicer
envoy.service.secret.v3.sds_pb2_grpc                           SecretDiscoveryServiceServicer
envoy.service.status.v3.csds_pb2_grpc                          ClientStatusDiscoveryServiceServicer
envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2       ExtAuthz
envoy.extensions.filters.http.jwt_authn.v3.config_pb2          JwtAuthentication
envoy.extensions.filters.http.rbac.v3.rbac_pb2                 RBAC
envoy.extensions.filters.http.wasm.v3.wasm_pb2                 Wasm
envoy.extensions.filters.http.rate_limit_quota.v3.rate_limit_quota_pb2  RateLimitQuotaFilterConfig
envoy.extensions.transport_sockets.tls.v3.tls_pb2              DownstreamTlsContext
istio.v1.auth.ca_pb2                                           IstioCertificateRequest
istio.v1.auth.ca_pb2_grpc                                      IstioCertificateServiceStub
lateen.v1alpha1.workload_pb2                                   WorkloadLimits
ratelimit.config.ratelimit.v3.rls_conf_pb2                     RateLimitConfig
"""


@pytest.mark.parametrize(("module", "name"), [line.split() for line in _PUBLISHED.split("\n") if line])
def test_what_we_build_on_is_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(f"lateen.envoyapi.{module}"), name)


def test_every_module_imports_into_one_descriptor_pool() -> None:
    modules = [module.name for module in pkgutil.walk_packages(lateen.envoyapi.__path__, "lateen.envoyapi.")]
    for module in modules:
        importlib.import_module(module)
    assert len([name for name in modules if name.endswith("_pb2")]) > 500


def test_a_message_type_says_where_it_can_be_imported_from() -> None:
    assert Cluster.__module__ == "lateen.envoyapi.envoy.config.cluster.v3.cluster_pb2"


def test_type_urls_are_the_apis_own() -> None:
    packed = Any()
    packed.Pack(WorkloadPolicy(target="default/reviews"))
    assert packed.type_url == "type.googleapis.com/lateen.dev.v1alpha1.WorkloadPolicy"


class _Health(health_pb2_grpc.HealthServicer):
    async def Check(
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]
    ) -> HealthCheckResponse:
        if request.service == "unknown":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return HealthCheckResponse(status=HealthCheckResponse.SERVING)


class _Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """One handler as an async generator, one that reads and writes through its context: both must satisfy mypy."""

    async def StreamAggregatedResources(
        self,
        request_iterator: AsyncIterator[DiscoveryRequest],
        context: grpc.aio.ServicerContext[DiscoveryRequest, DiscoveryResponse],
    ) -> AsyncIterator[DiscoveryResponse]:
        async for request in request_iterator:
            yield DiscoveryResponse(type_url=request.type_url, version_info="1")

    async def DeltaAggregatedResources(
        self,
        request_iterator: AsyncIterator[DeltaDiscoveryRequest],
        context: grpc.aio.ServicerContext[DeltaDiscoveryRequest, DeltaDiscoveryResponse],
    ) -> None:
        async for request in request_iterator:
            names = request.resource_names_subscribe
            await context.write(DeltaDiscoveryResponse(resources=[Resource(name=name) for name in names]))


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(_Health(), server)
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(_Ads(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as connected:
        yield connected
    await server.stop(grace=None)


async def test_unary_call(channel: grpc.aio.Channel) -> None:
    answer = await health_pb2_grpc.HealthStub(channel).Check(HealthCheckRequest(), timeout=10)
    assert answer.status == HealthCheckResponse.SERVING


async def test_unary_error(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="no such service"):
        await health_pb2_grpc.HealthStub(channel).Check(HealthCheckRequest(service="unknown"), timeout=10)


async def test_streams(channel: grpc.aio.Channel) -> None:
    stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
    sotw = stub.StreamAggregatedResources(iter([DiscoveryRequest(type_url="t")]), timeout=10)
    assert [answer.version_info async for answer in sotw] == ["1"]
    delta = stub.DeltaAggregatedResources(
        iter([DeltaDiscoveryRequest(resource_names_subscribe=["a", "b"])]), timeout=10
    )
    assert [[resource.name for resource in answer.resources] async for answer in delta] == [["a", "b"]]
