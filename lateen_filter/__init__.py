"""Write an Envoy HTTP filter in Python: derive from HttpFilter, build it with `lateen filter build`."""

from filters.sdk.calls import HttpCallError, HttpClient
from filters.sdk.config import ConfigError, FilterConfig
from filters.sdk.filter import HttpFilter
from filters.sdk.headers import Headers
from filters.sdk.host import CpuLimitExceeded, HostError
from filters.sdk.messages import Request, Response
from filters.sdk.metrics import Counter, Gauge, Histogram
from filters.sdk.properties import Properties
from filters.sdk.shared import SharedData
from filters.sdk.streaming import BodyTooLargeError, Chunk

__all__ = [
    "BodyTooLargeError",
    "Chunk",
    "ConfigError",
    "Counter",
    "CpuLimitExceeded",
    "FilterConfig",
    "Gauge",
    "Headers",
    "Histogram",
    "HostError",
    "HttpCallError",
    "HttpClient",
    "HttpFilter",
    "Properties",
    "Request",
    "Response",
    "SharedData",
]
