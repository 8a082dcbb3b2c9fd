"""Why a request is no call we serve, and how it is told: a reset, an HTTP status or a gRPC status."""

from dataclasses import dataclass

from lateen.wire.call import StatusCode
from lateen.wire.frames import ErrorCode

_METHOD_NOT_ALLOWED = 405
_UNSUPPORTED_MEDIA_TYPE = 415


@dataclass(frozen=True, slots=True)
class Refusal:
    """Told by RST_STREAM if `reset` is set, by a plain HTTP response if `http_status` is, else by `code` and `message`."""

    reason: str  # a short key for counters
    code: StatusCode = StatusCode.UNKNOWN
    message: str = ""
    reset: ErrorCode | None = None
    http_status: int | None = None


MALFORMED = Refusal("malformed", reset=ErrorCode.PROTOCOL_ERROR)
NOT_POST = Refusal("not_grpc", message="gRPC calls are POST requests", http_status=_METHOD_NOT_ALLOWED)
NOT_GRPC = Refusal("not_grpc", message="this port speaks gRPC only", http_status=_UNSUPPORTED_MEDIA_TYPE)
TOO_MANY_HEADERS = Refusal("headers", StatusCode.RESOURCE_EXHAUSTED, "the request headers are too many or too large")
WRONG_ENCODING = Refusal("encoding", StatusCode.UNIMPLEMENTED, "messages must not be compressed")
WRONG_TIMEOUT = Refusal("timeout", StatusCode.INTERNAL, "malformed grpc-timeout")
TOO_LARGE = Refusal("message_size", StatusCode.RESOURCE_EXHAUSTED, "the message is larger than this server takes")
COMPRESSED = Refusal("compressed", StatusCode.INTERNAL, "a compressed message, and no grpc-encoding")
BAD_PREFIX = Refusal("framing", StatusCode.INTERNAL, "a message with an unknown compression flag")
CUT_SHORT = Refusal("framing", StatusCode.INTERNAL, "the request ends in the middle of a message")
NOT_ONE_MESSAGE = Refusal("framing", StatusCode.UNIMPLEMENTED, "unary calls have exactly one request message")
UNKNOWN_METHOD = Refusal("unknown_method", StatusCode.UNIMPLEMENTED, "unknown method")
NO_ROOM = Refusal("input", StatusCode.RESOURCE_EXHAUSTED, "too many bytes of incomplete requests on this connection")
TOO_SLOW = Refusal("slow_request", StatusCode.DEADLINE_EXCEEDED, "the request took too long to arrive")
TOO_LATE = Refusal("deadline", StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")  # as grpcio has it
