"""What every service process does when it starts. A leaf that anyone may import."""

import argparse
import resource
import sys
from collections.abc import Mapping, Sequence

import structlog

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("json", "console")
_MAX_FILES = 65_536


class ServiceParser(argparse.ArgumentParser):
    """The command line of `lateen NAME`, a server: each option is also a variable, `LATEEN_<NAME without -service>_<OPTION>`."""

    def __init__(self, name: str, description: str, environ: Mapping[str, str]) -> None:
        """Start without options; `environ` is where variables are looked up."""
        super().__init__(prog=f"lateen {name}", description=description)
        self._prefix = f"LATEEN_{name.removesuffix('-service')}_"
        self._environ = environ

    def option(self, flag: str, default: str | None, text: str, choices: Sequence[str] | None = None) -> None:
        """Add `--flag VALUE`; without it the variable counts, then `default`, and with None one of the two must be there.

        SystemExit(2) when the variable has none of the `choices`.
        """
        variable = (self._prefix + flag).upper().replace("-", "_")
        default = self._environ.get(variable, default)
        if choices is not None and default is not None and default not in choices:
            self.error(f"${variable} must be one of {', '.join(choices)}")
        help_text = f"{text} (${variable})"
        self.add_argument(f"--{flag}", default=default, required=default is None, help=help_text, choices=choices)

    def log_options(self) -> None:
        """Add `--log-level` and `--log-format`, as `configure_logs` takes them."""
        self.option("log-level", "info", "how much to log", LOG_LEVELS)
        self.option("log-format", "json", "one JSON object a line, or for people", LOG_FORMATS)


def configure_logs(level: str, log_format: str = "json") -> None:
    """Structured logs on standard error: one JSON object a line, or `console` for people."""
    console = log_format == "console"
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if console else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
            if console
            else structlog.processors.JSONRenderer(),
        ],
    )


def allow_many_files() -> None:
    """Every connection is a file, and the usual soft limit of 1,024 is there for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
