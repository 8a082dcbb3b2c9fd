"""Runs the SDK as if it were in a VM: `filters.sdk.host` is the fake's while a callback runs, and print, logging and time are the VM's."""

import inspect
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

from filters.sdk import dispatch, host

FUNCTIONS = tuple(
    name for name, value in vars(host).items() if inspect.isfunction(value) and "_missing" in value.__code__.co_names
)
"""What a host has to implement: the functions that without one can only fail."""
KIT = str(Path(__file__).parent)
AGAIN_SECONDS = 0.001


class HostFunctions(Protocol):
    """An object that has every function of `filters.sdk.host`."""

    cpu_limit_ms: int


class Guest:
    """A VM: one at a time runs, in the thread of the test."""

    def __init__(self, functions: HostFunctions) -> None:
        self._functions = functions
        self._handlers: list[logging.Handler] = []
        self._level = logging.INFO
        self._streams = sys.stdout, sys.stderr
        with self._inside(started=False):
            dispatch.on_start()
            self._streams = sys.stdout, sys.stderr
            self._handlers = logging.root.handlers
            self._level = logging.root.level

    def call(self, handler: Callable[..., int], *arguments: int) -> int:
        """One of Envoy's callbacks. An exception that leaves it would be a trap: it goes to the test."""
        with self._inside(started=True), _limited(self._functions.cpu_limit_ms):
            return handler(*arguments)

    @contextmanager
    def _inside(self, *, started: bool) -> Iterator[None]:
        kept = {name: getattr(host, name) for name in FUNCTIONS}
        streams = sys.stdout, sys.stderr
        root = logging.root
        handlers, level = root.handlers, root.level
        for name in FUNCTIONS:
            setattr(host, name, getattr(self._functions, name))
        sys.stdout, sys.stderr = self._streams
        # What pytest and others have installed hears of it too.
        root.handlers = [*self._handlers, *handlers] if started else []
        root.setLevel(self._level)
        try:
            yield
        finally:
            root.setLevel(level)
            root.handlers = handlers
            sys.stdout, sys.stderr = streams
            for name, function in kept.items():
                setattr(host, name, function)


@contextmanager
def _limited(milliseconds: int) -> Iterator[None]:
    """Raise CpuLimitExceeded in the filter when it has used so much CPU; not under a debugger, nor outside the main thread."""
    if sys.gettrace() is not None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename.startswith(KIT):
            signal.setitimer(signal.ITIMER_VIRTUAL, AGAIN_SECONDS)  # here it would hit the fake: let it finish
            return
        raise host.CpuLimitExceeded

    previous = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, milliseconds / 1000)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
