"""What this service answers, by method path: the same for every transport."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from extauthz.check import PEER_HEADER, TARGET_HEADER, Checker
from lateen.envoyapi.grpc.health.v1 import health_pb2
from lateen.wire.call import Call, RpcError, StatusCode
from lateen.wire.limits import Limits

CHECK: Final = "/envoy.service.auth.v3.Authorization/Check"
HEALTH: Final = "/grpc.health.v1.Health/Check"
# Envoy sends a body only as far as `with_request_body` says; over these limits calls fail, and the proxies deny.
LIMITS: Final = Limits(request_bytes=8 * 1024 * 1024, calls=2_000, header_list_bytes=16 * 1024)


class Health:
    """Whether this replica wants to be asked: not before policies arrived, not while it drains."""

    def __init__(self, has_policies: Callable[[], bool]) -> None:
        """`has_policies` says whether the control plane was ever heard."""
        self.has_policies = has_policies
        self.draining = False

    def ready(self) -> bool:
        """Ready to decide."""
        return self.has_policies() and not self.draining


def handlers(checker: Checker, health: Health) -> Mapping[str, Callable[[Call, bytes], bytes | Awaitable[bytes]]]:
    """Authorization and grpc.health.v1.

    A replica without policies does not decide, or it would deny what its neighbours allow: the proxy asks another, and denies when there
    is none.
    """

    def check(call: Call, data: bytes) -> bytes | Awaitable[bytes]:
        if not health.has_policies():
            raise RpcError(StatusCode.UNAVAILABLE, "no policies have come from the control plane yet")
        # What the proxy's configuration names. Two targets are none: a request header must not be able to add one. Nor a peer.
        targets, peers = call.metadata_values(TARGET_HEADER), call.metadata_values(PEER_HEADER)
        clear = len(targets) == 1 and len(peers) <= 1
        return checker.check(
            targets[0] if clear else "", call.peer_identity or "", data, peer=peers[0] if clear and peers else ""
        )

    def check_health(_: Call, __: bytes) -> bytes:
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if health.ready() else health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status).SerializeToString()

    return {CHECK: check, HEALTH: check_health}
