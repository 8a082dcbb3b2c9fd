"""`lateen filter run`: an Envoy with a filter; when a source file is saved, the new module takes the old one's place."""

import errno
import json
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from filters.testing.envoy_config import UPSTREAM, Json, cluster, listener
from filters.testing.envoy_process import EnvoyError, EnvoyProcess, plugin_line
from filters.testing.messages import INVALID
from filters.toolchain.build import BuildError, find_sources
from filters.toolchain.local_envoy import Placed
from filters.toolchain.sources import PREFIX
from lateen.cli import filterbuild
from lateen.cli.exits import CommandError, Exit
from lateen.cli.output import say

HIGHEST_PORT = 65535
LISTENER = "filter"
POLL_SECONDS = 0.2
ECHO = "%REQ(:METHOD)% %REQ(:PATH)%\n"
"""What Envoy answers when there is no upstream."""


class Settings(NamedTuple):
    """How the filter is run; addresses are (host, port)."""

    name: str | None
    config: Mapping[str, object]
    upstream: tuple[str, int] | None
    clusters: Mapping[str, tuple[str, int]]
    port: int


def read_config(text: str) -> Mapping[str, object]:
    """JSON, or @FILE with JSON."""
    try:
        value = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise CommandError(Exit.USAGE, f"--config: {error}") from None
    if not isinstance(value, dict):
        raise CommandError(Exit.USAGE, "--config: expected a JSON object")
    return value


def parse_upstream(text: str | None, option: str = "--upstream") -> tuple[str, int] | None:
    """HOST:PORT."""
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= HIGHEST_PORT:
        raise CommandError(Exit.USAGE, f"{option}: {text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def parse_clusters(texts: Sequence[str]) -> Mapping[str, tuple[str, int]]:
    """NAME=HOST:PORT, each."""
    found: dict[str, tuple[str, int]] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        address = parse_upstream(place, "--cluster") if equals and name else None
        if address is None:
            raise CommandError(Exit.USAGE, f"--cluster: {text!r} is not NAME=HOST:PORT")
        found[name] = address
    return found


def run(source: str, directory: Path, settings: Settings, options: filterbuild.Options) -> None:
    """Build and run until interrupted. A build that fails, or a module Envoy refuses, leaves the running one alone."""
    _check_free(settings.port)
    seen = last = _stamps(source)
    build = 1
    module = _make(source, directory / f"filter-{build}.wasm", options)
    placed = _placed(module, settings)
    envoy = EnvoyProcess()
    try:
        if not _put(envoy, module, placed, settings, build):
            raise CommandError(Exit.INVALID, _refusal(envoy.new_lines()))
        _tell(envoy.new_lines())
        say(f"envoy with {placed.name} on http://127.0.0.1:{envoy.port(LISTENER)} (Ctrl-C to stop)")
        while True:
            time.sleep(POLL_SECONDS)
            _tell(envoy.new_lines())
            if not envoy.alive():
                raise CommandError(Exit.INVALID, "envoy has ended", "its last words are above")
            now, before = _stamps(source), last
            last = now
            if now in (seen, {}) or now != before:  # nothing new, or somebody is still writing
                continue
            seen = now
            build += 1
            newer = directory / f"filter-{build}.wasm"
            if _replace(envoy, source, newer, settings=settings, options=options, build=build):
                module.unlink(missing_ok=True)
                module = newer
            else:
                newer.unlink(missing_ok=True)
                say("the filter of before goes on")
    except EnvoyError as error:
        raise CommandError(Exit.INVALID, str(error)) from None
    except KeyboardInterrupt:
        say("stopping")
    finally:
        envoy.stop()


def _check_free(port: int) -> None:
    """CommandError if Envoy could not listen there; asked before a build, which takes a while. 0 is always free."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Envoy: connections that end do not matter
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            what = f"port {port} is taken" if taken else f"port {port}: {(error.strerror or str(error)).lower()}"
            raise CommandError(Exit.USAGE, what, "give another one with --port, or 0 for any that is free") from None


def _replace(
    envoy: EnvoyProcess, source: str, module: Path, *, settings: Settings, options: filterbuild.Options, build: int
) -> bool:
    """Build into `module` and let Envoy take it; if that fails, say why."""
    say("a file was saved: building")
    try:
        _make(source, module, options)
        placed = _placed(module, settings)
    except CommandError as error:
        say(f"error: {error.message}")
        return False
    _tell(envoy.new_lines())
    accepted = _put(envoy, module, placed, settings, build)
    lines = envoy.new_lines()
    if not accepted:
        say(f"error: {_refusal(lines)}")
        return False
    _tell(lines)
    say("the new filter answers now")
    return True


def _make(source: str, target: Path, options: filterbuild.Options) -> Path:
    """Build, or take what is built; a copy, since Envoy may read it late."""
    if not filterbuild.is_module(source):
        return filterbuild.build(source, target, options, brief=True)
    target.write_bytes(filterbuild.read_module(Path(source))[0])
    return target


def _stamps(source: str) -> Mapping[Path, tuple[int, int]]:
    """When each file was saved, and its size; none for the library, which nobody edits."""
    if source.startswith(PREFIX):
        return {}
    try:
        paths = [Path(source)] if filterbuild.is_module(source) else find_sources(Path(source))[1].values()
        return {path: (status.st_mtime_ns, status.st_size) for path in paths for status in [path.stat()]}
    except (BuildError, OSError):  # in the middle of a save; the first build says what is wrong
        return {}


def _placed(module: Path, settings: Settings) -> Placed:
    """The filter to run and its configuration."""
    names = filterbuild.read_module(module)[1]
    if not names:
        raise CommandError(Exit.INVALID, "there is no filter in this module", "lateen filter build makes one")
    name = settings.name or (names[0] if len(names) == 1 else "")
    if name not in names:
        what = f"no filter {name!r} in this module" if name else "which filter?"
        raise CommandError(Exit.USAGE, f"{what}, it has: {', '.join(names)}", "use --name")
    return Placed(name, settings.config)


def _put(envoy: EnvoyProcess, module: Path, placed: Placed, settings: Settings, build: int) -> bool:
    """Give Envoy the module; whether it takes it. The listener keeps its name, so the old one goes when the new one is there."""
    clusters = [cluster(name, port, host) for name, (host, port) in settings.clusters.items()]
    if settings.upstream is not None:
        host, port = settings.upstream
        clusters.append(cluster(UPSTREAM, port, host))
    echo = "" if settings.upstream else ECHO
    item: Json = listener(LISTENER, module, placed, f"build-{build}", port=settings.port, echo=echo)
    return envoy.configure(clusters, [item])


def _refusal(lines: Sequence[str]) -> str:
    """Why Envoy has not taken the filter, from its log."""
    plugin = [found.text for line in lines if (found := plugin_line(line))]
    problems = [text.removeprefix(INVALID) for text in plugin if text.startswith(INVALID)]
    other = [line.rpartition("\t")[2] for line in lines if line.startswith(("warning\tconfig", "error", "critical"))]
    reasons = list(dict.fromkeys(problems)) or other[-1:] or plugin
    return "\n  ".join(["envoy refuses the filter:", *reasons])


def _tell(lines: Sequence[str]) -> None:
    """What the filter prints goes to the terminal, and Envoy's own errors."""
    for line in lines:
        found = plugin_line(line)
        if found is not None:
            say(f"[{found.level}] {found.text}")
        elif line.startswith(("error", "critical")):
            say(line.replace("\t", " "))
