"""What this service answers, by method path: the same for every transport."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from lateen.envoyapi.grpc.health.v1 import health_pb2
from lateen.wire.call import Call, RpcError, StatusCode
from lateen.wire.limits import Limits
from ratelimit.service import CallError, RateLimits

SHOULD_RATE_LIMIT: Final = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
HEALTH: Final = "/grpc.health.v1.Health/Check"
TARGET_HEADER: Final = "x-lateen-target"
# Over these a call fails, and the policy's failure mode decides.
LIMITS: Final = Limits(request_bytes=256 * 1024, calls=5_000, header_list_bytes=16 * 1024)

_SERVING: Final = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()


def handlers(limits: RateLimits) -> Mapping[str, Callable[[Call, bytes], bytes | Awaitable[bytes]]]:
    """RateLimitService and grpc.health.v1."""

    async def should_rate_limit(call: Call, data: bytes) -> bytes:
        # Two targets name none: a request header must not be able to add one to what the proxy's configuration says.
        targets = call.metadata_values(TARGET_HEADER)
        try:
            return await limits.should_rate_limit(targets[0] if len(targets) == 1 else "", call.peer_identity, data)
        except CallError as error:
            raise RpcError(StatusCode[error.code], str(error)) from error

    return {SHOULD_RATE_LIMIT: should_rate_limit, HEALTH: lambda _, __: _SERVING}
