"""Test filters: as plain Python against a fake host, or as the linked module in a real Envoy (`pytest --envoy`)."""

from filters.testing.exchange import StuckError
from filters.testing.fake import FakeHost
from filters.testing.hosts import FilterHost, FilterHostFactory
from filters.testing.messages import DOWN, SILENT, Answer, LogLine, TrailedResponse, UpstreamRequest

__all__ = [
    "DOWN",
    "SILENT",
    "Answer",
    "FakeHost",
    "FilterHost",
    "FilterHostFactory",
    "LogLine",
    "StuckError",
    "TrailedResponse",
    "UpstreamRequest",
]
