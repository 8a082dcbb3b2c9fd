"""`lateen filter run`: Envoy with a filter, started anew when a source file is saved."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from filters.toolchain.build import find_sources
from filters.toolchain.inspection import inspect_module
from filters.toolchain.local_envoy import Chain, Placed, bootstrap
from lateen.cli.exits import CommandError, Exit
from lateen.cli.output import say
from lateen.envoy_binary import envoy_path

HIGHEST_PORT = 65535
POLL_SECONDS = 0.3
STOP_SECONDS = 10.0


class Settings(NamedTuple):
    """How the filter is run."""

    name: str | None
    config: Mapping[str, object]
    upstream: tuple[str, int] | None
    port: int


def read_config(text: str) -> Mapping[str, object]:
    """JSON, or @FILE with JSON."""
    try:
        value = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise CommandError(Exit.USAGE, f"--config: {error}") from None
    if not isinstance(value, dict):
        raise CommandError(Exit.USAGE, "--config: expected a JSON object")
    return value


def parse_upstream(text: str | None) -> tuple[str, int] | None:
    """HOST:PORT."""
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= HIGHEST_PORT:
        raise CommandError(Exit.USAGE, f"--upstream: {text!r} is not HOST:PORT")
    return host, int(port)


def run(source: Path, module: Path, settings: Settings, build: Callable[[], object]) -> None:
    """Build and run until interrupted; a build that fails leaves the running Envoy alone."""
    seen = _stamps(source)
    build()
    envoy = _start(module, settings)
    try:
        while True:
            time.sleep(POLL_SECONDS)
            now = _stamps(source)
            if now != seen:
                seen = now
                say("a file was saved: building")
                try:
                    build()
                except CommandError as error:
                    say(f"error: {error.message}")
                    continue
                _stop(envoy)
                envoy = _start(module, settings)
            elif (code := envoy.poll()) is not None:
                raise CommandError(Exit.INVALID, f"envoy has ended with status {code}: see its messages above")
    except KeyboardInterrupt:
        say("stopping")
    finally:
        _stop(envoy)


def _stamps(source: Path) -> dict[Path, int]:
    _, files = find_sources(source)
    return {path: path.stat().st_mtime_ns for path in files.values() if path.exists()}


def _start(module: Path, settings: Settings) -> "subprocess.Popen[bytes]":
    names = _filter_names(module)
    name = settings.name or names[0]
    if name not in names or (settings.name is None and len(names) > 1):
        raise CommandError(Exit.USAGE, f"which filter? this module has: {', '.join(names)}", "use --name")
    config = module.with_suffix(".json")
    chain = Chain([Placed(name, settings.config)], settings.port)
    echo = str(module.with_name("echo.sock"))
    text = bootstrap(module, [chain], upstream=settings.upstream, echo_path=echo)
    config.write_text(text)
    command = [str(envoy_path()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    process = subprocess.Popen([*command, "--component-log-level", "wasm:info"])
    say(f"envoy with {name} on http://127.0.0.1:{settings.port} (Ctrl-C to stop)")
    return process


def _filter_names(module: Path) -> list[str]:
    filters = inspect_module(module.read_bytes()).manifest.get("filters")
    return [item["name"] for item in filters] if isinstance(filters, list) else []


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
