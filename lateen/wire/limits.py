"""What one client may cost: every bound of the server, with defaults for a mesh of proxies that trust nobody."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on memory, CPU and time. Counts are per connection unless the name says otherwise; times are seconds.

    Rates are counted in windows of one second. Frames that a busy client sends for each call (WINDOW_UPDATE, small DATA) are
    allowed in proportion to the calls begun, RST_STREAM to the calls answered, on top of the fixed allowance.
    """

    # Work in hand.
    connections: int = 1024  # of the whole server
    calls: int = 8192  # of the whole server, in asynchronous handlers
    concurrent_streams: int = 1000
    request_bytes: int = 4 * 1024 * 1024  # of one message
    response_bytes: int = 16 * 1024 * 1024  # of one message
    input_bytes: int = 16 * 1024 * 1024  # of all requests that are still incomplete
    output_bytes: int = 32 * 1024 * 1024  # answered and not yet read by the client
    share_bytes: int = 256 * 1024  # of both, that a connection may always hold
    server_bytes: int = 256 * 1024 * 1024  # of both, of the whole server: more than a share is held only below this
    connection_window: int = 1024 * 1024  # what a client may send on all streams before it hears from us
    stream_window: int = 256 * 1024  # the same on one stream

    # Header blocks.
    header_block_bytes: int = 16 * 1024  # as sent
    header_list_bytes: int = 32 * 1024  # decoded, with 32 bytes for each field (RFC 9113, section 6.5.2)
    header_count: int = 128
    continuation_frames: int = 8  # of one header block
    header_table_bytes: int = 0  # of the client's dynamic table; with none, a block that was seen before costs nothing

    # Rates.
    control_frames: int = 1000  # PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA and unknown frames in a second
    control_frames_per_call: int = 8  # further ones for each call begun in that second
    resets: int = 1000  # by the client, or by us for its errors, in a second, on top of the calls answered

    # Times.
    handshake_timeout: float = 10.0  # TLS
    preface_timeout: float = 10.0  # until the client's preface and SETTINGS are there, and until it acknowledges ours
    header_timeout: float = 10.0  # a header block or a frame, from its first to its last byte
    request_timeout: float = 30.0  # a request, from its headers to its last byte
    send_timeout: float = 30.0  # without progress in reading what we answered
    keepalive_interval: float = 60.0  # of silence, then we send a PING
    keepalive_timeout: float = 20.0  # until it is answered
    idle_timeout: float = 3600.0  # without a call
    connection_age: float = 3600.0  # then the client is asked to connect anew; the server varies it by a tenth
    connection_grace: float = 30.0  # for the calls in flight after that
