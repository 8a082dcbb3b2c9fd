"""print, logging and tracebacks, to Envoy's log."""

import sys
from types import TracebackType

from filters.sdk import host

LONGEST_LINE = 16 * 1024
DEEPEST = 20
THRESHOLDS = ((40, host.ERROR), (30, host.WARN), (20, host.INFO), (0, host.DEBUG))
"""logging's levels and Envoy's."""


class LogStream:
    """A text stream whose lines become lines of Envoy's log."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, level: int) -> None:
        self._level = level
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            say(self._level, line)
        if len(self._rest) > LONGEST_LINE:
            self.flush()
        return len(text)

    def flush(self) -> None:
        if self._rest:
            say(self._level, self._rest)
            self._rest = ""

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


def say(level: int, text: str) -> None:
    """One line, bounded, whatever it holds."""
    host.log(level, text[:LONGEST_LINE].encode("utf-8", "replace"))


def install_streams() -> None:
    """Point print, sys.stderr and logging to Envoy's log."""
    sys.stdout = LogStream(host.INFO)  # what print and logging use of a stream
    sys.stderr = LogStream(host.WARN)
    logging = sys.modules.get("logging")
    if logging is None:
        return

    class EnvoyHandler(logging.Handler):  # type: ignore[name-defined, misc]  # logging is only there if the filter imports it
        """Records become lines of Envoy's log at their level."""

        def emit(self, record) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
            level = next((level for least, level in THRESHOLDS if record.levelno >= least), host.DEBUG)
            try:
                message = record.getMessage()
            except Exception as error:  # noqa: BLE001  (arguments that do not fit: no request fails by what is logged)
                log_exception(error, f"{record.name}: cannot log {record.msg!r} ({record.filename}:{record.lineno})")
                return
            say(level, f"{record.name}: {message}")
            if record.exc_info and record.exc_info[1]:
                log_exception(record.exc_info[1])

    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(EnvoyHandler())
        root.setLevel(logging.INFO)


def log_exception(error: BaseException, title: str = "") -> None:
    """The traceback, as far as a module without source files can show it."""
    lines = [title] if title else []
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and not any(cause is item for item in chain) and len(chain) < DEEPEST:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    for place, item in enumerate(reversed(chain)):
        if place:
            lines.append("this led to:")
        lines.append("Traceback (most recent call last):")
        lines += _frames(item.__traceback__)
        lines.append(_describe(item))
    for line in lines:
        say(host.ERROR, line)


def _frames(trace: TracebackType | None) -> list[str]:
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/filters/sdk/" not in code.co_filename:
            frames.append(f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}')
        trace = trace.tb_next
    if len(frames) > DEEPEST:
        frames[DEEPEST // 2 : -DEEPEST // 2] = [f"  ... {len(frames) - DEEPEST} frames"]
    return frames


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001  (the author's __str__, and its loops)
        text = "(its __str__ failed)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
