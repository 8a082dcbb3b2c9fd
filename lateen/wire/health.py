"""grpc.health.v1 Check, for whoever asks whether we serve. Two fields, so the messages are read and written by hand."""

from collections.abc import Callable, Iterable
from typing import Final

from lateen.wire.call import Call, RpcError, StatusCode

CHECK: Final = "/grpc.health.v1.Health/Check"
_SERVING: Final = b"\x08\x01"
_NOT_SERVING: Final = b"\x08\x02"
_SERVICE_FIELD: Final = 0x0A
_SHORT: Final = 0x80


def health_check(paths: Iterable[str], serving: Callable[[], bool]) -> Callable[[Call, bytes], bytes]:
    """A handler that knows the services of these method paths, and the empty name for the whole server."""
    known = {path.split("/")[1].encode() for path in paths} | {b""}

    def check(_: Call, request: bytes) -> bytes:
        if _service(request) not in known:
            raise RpcError(StatusCode.NOT_FOUND, "unknown service")
        return _SERVING if serving() else _NOT_SERVING

    return check


def _service(request: bytes) -> bytes:
    """The name in a HealthCheckRequest; one longer than 127 bytes is none of ours."""
    if not request:
        return b""
    well_formed = len(request) > 1 and request[0] == _SERVICE_FIELD and request[1] < _SHORT
    if not well_formed or len(request) != 2 + request[1]:
        raise RpcError(StatusCode.NOT_FOUND, "unknown service")
    return request[2:]
