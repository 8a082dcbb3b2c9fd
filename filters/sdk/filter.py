"""HttpFilter, the class an author derives from."""

from collections.abc import Coroutine
from types import FunctionType
from typing import Any, ClassVar, TypeAlias

from filters.sdk.calls import HttpClient
from filters.sdk.config import FilterConfig, is_object
from filters.sdk.messages import Request, Response
from filters.sdk.shared import SharedData

Answer: TypeAlias = Coroutine[Any, Any, Response | None] | Response | None
"""What a handler returns: it may be `async def` or `def`."""
registry: dict[str, type["HttpFilter"]] = {}
"""Filters of this module by name."""
duplicates: list[str] = []
"""Names that were given to a second class: a module with such cannot be built."""

HANDLERS = {
    "on_start": ("self",),
    "on_request": ("self", "request"),
    "on_response": ("self", "request", "response"),
    "on_log": ("self", "request", "response"),
    "on_tick": ("self",),
}
"""What each is called with."""
NEVER_AWAITED = ("on_start", "on_log")
CO_VARARGS, CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR = 0x04, 0x20, 0x80, 0x200


class HttpFilter:
    """One instance for each configuration and worker; it sees every request, so keep what belongs to one out of `self`.

    Override what you need: `on_request`, `on_response`, `on_log`, `on_tick`. The first two may be coroutines or plain functions.
    """

    name: ClassVar[str] = ""
    """What a WasmPlugin selects the filter by (pluginName, Envoy's root_id); the class's name in kebab-case if empty."""
    Config: ClassVar[type] = FilterConfig
    """Type of the configuration: a class with annotated fields, derived from FilterConfig, a dataclass or plain."""
    tick_seconds: ClassVar[float] = 0
    """How often `on_tick` runs; 0 for never."""

    config: Any
    """The decoded configuration; annotate it (`config: Config`) for types."""
    http = HttpClient()
    shared = SharedData()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in cls.__dict__:
            cls.name = _kebab(cls.__name__)
        given: object = cls.name
        if not isinstance(given, str) or not given:
            raise TypeError(f"{cls.__qualname__}.name has to be a str that is not empty, not {cls.name!r}")
        _check_handlers(cls)
        if not isinstance(cls.Config, type):
            raise TypeError(f"{cls.__qualname__}.Config has to be a class with annotated fields, not {cls.Config!r}")
        if not is_object(cls.Config):
            names = {"__module__": cls.Config.__module__, "__qualname__": cls.Config.__qualname__}
            cls.Config = type(cls.Config.__name__, (cls.Config, FilterConfig), names)
        if cls.__name__.startswith("_"):  # what filters have in common
            return
        if cls.name in registry:
            duplicates.append(cls.name)
        registry[cls.name] = cls

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


def _check_handlers(kind: type[HttpFilter]) -> None:
    """TypeError if a handler cannot be called as it will be; what is wrapped cannot be known."""
    for name, takes in HANDLERS.items():
        handler = kind.__dict__.get(name)
        if not isinstance(handler, FunctionType):
            continue
        code = handler.__code__
        least = code.co_argcount - len(handler.__defaults__ or ())
        where = f"{kind.__qualname__}.{name}"
        if least > len(takes) or (code.co_argcount < len(takes) and not code.co_flags & CO_VARARGS):
            has = ", ".join(code.co_varnames[: code.co_argcount])
            raise TypeError(f"{where}({has}) has to be {name}({', '.join(takes)}) (line {code.co_firstlineno})")
        if code.co_flags & (CO_GENERATOR | CO_ASYNC_GENERATOR):
            raise TypeError(f"{where} has to return, it cannot yield (line {code.co_firstlineno})")
        if name in NEVER_AWAITED and code.co_flags & CO_COROUTINE:
            raise TypeError(f"{where} has to be `def`, not `async def`: it cannot wait (line {code.co_firstlineno})")


def _kebab(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


def overrides(kind: type[HttpFilter], method: str) -> bool:
    """Whether a filter has its own version of a method."""
    return getattr(kind, method) is not getattr(HttpFilter, method)
