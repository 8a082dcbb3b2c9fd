"""What a connection tells its server."""

from dataclasses import dataclass

from lateen.wire.call import Call


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client gave a call up, or its deadline has passed: what a handler returns is not sent."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over, and every call on it: send what is left, then close the transport."""

    reason: str


Event = Call | Cancelled | Closed
