"""HttpFilter, the class an author derives from."""

from collections.abc import Coroutine
from typing import Any, ClassVar, TypeAlias

from filters.sdk.calls import HttpClient
from filters.sdk.config import FilterConfig
from filters.sdk.messages import Request, Response
from filters.sdk.shared import SharedData

Answer: TypeAlias = Coroutine[Any, Any, Response | None] | Response | None
"""What a handler returns: it may be `async def` or `def`."""
registry: dict[str, type["HttpFilter"]] = {}
"""Filters of this module by name."""


class HttpFilter:
    """One instance for each configuration and worker; it sees every request, so keep what belongs to one out of `self`.

    Override what you need: `on_request`, `on_response`, `on_log`, `on_tick`. The first two may be coroutines or plain functions.
    """

    name: ClassVar[str] = ""
    """What a WasmPlugin selects the filter by (pluginName, Envoy's root_id); the class's name in kebab-case if empty."""
    Config: ClassVar[type[FilterConfig]] = FilterConfig
    """Type of the configuration."""
    tick_seconds: ClassVar[float] = 0
    """How often `on_tick` runs; 0 for never."""

    config: Any
    """The decoded configuration; annotate it (`config: Config`) for types."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in cls.__dict__:
            cls.name = _kebab(cls.__name__)
        plain: type = cls.Config
        if not issubclass(plain, FilterConfig):
            cls.Config = type(
                plain.__name__,
                (FilterConfig,),
                {
                    key: value
                    for key, value in plain.__dict__.items()
                    if key not in ("__dict__", "__weakref__", "__init__")
                },
            )
        registry[cls.name] = cls

    def __init__(self) -> None:
        self.http = HttpClient()
        self.shared = SharedData()

    def on_start(self) -> None:
        """Called when the configuration is there, before any request."""

    def on_request(self, request: Request) -> Answer:
        """A request's headers have arrived. Return a Response to answer it here, None to let it pass."""

    def on_response(self, request: Request, response: Response) -> Answer:
        """A response's headers have arrived. Change it, or return another in its place."""

    def on_log(self, request: Request, response: Response) -> None:
        """The request is over; headers can still be read."""

    def on_tick(self) -> Coroutine[Any, Any, None] | None:
        """Runs every `tick_seconds` on every worker."""


def _kebab(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


def overrides(kind: type[HttpFilter], method: str) -> bool:
    """Whether a filter has its own version of a method."""
    return getattr(kind, method) is not getattr(HttpFilter, method)
