"""Builds the agent from its settings and runs it until SIGTERM."""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from ca.sds.files import FileSecrets
from lateen import __version__
from lateen.agent.bootstrap import Mesh
from lateen.agent.client import GrpcCertificateAuthority
from lateen.agent.http import Answer, HttpServer
from lateen.agent.metrics import Sample, render_metrics
from lateen.agent.proxies import Proxies
from lateen.agent.rotation import State
from lateen.agent.settings import Settings, SettingsError, load_settings
from lateen.clock import Clock, SystemClock
from lateen.process import allow_many_files, configure_logs

_EXIT_UNUSABLE = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 after SIGTERM or Ctrl-C, 3 when the configuration or an address cannot be used."""
    parser = argparse.ArgumentParser(
        prog="lateen agent", description="Keys, certificates and bootstraps for the Envoys of a host."
    )
    parser.add_argument("--config", required=True, type=Path, help="JSON file with the agent's settings")
    parser.add_argument("--print-config", action="store_true", help="print the settings as JSON and exit")
    given = parser.parse_args(arguments)
    try:
        settings = load_settings(given.config)
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        return _EXIT_UNUSABLE
    if given.print_config:
        sys.stdout.write(settings.render() + "\n")
        return 0
    configure_logs(settings.log_level, settings.log_format)
    allow_many_files()
    try:
        asyncio.run(serve(settings, SystemClock()))
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        structlog.get_logger().error("agent cannot start", reason=str(error))
        return _EXIT_UNUSABLE
    return 0


async def serve(settings: Settings, clock: Clock) -> None:
    """Run until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    authority = GrpcCertificateAuthority(settings.ca_address, settings.ca_name, Path(settings.root_cert_file))
    mesh = Mesh(settings.ads_address, settings.trust_domain, settings.root_namespace, __version__, settings.modules_dir)
    files = FileSecrets(tuple(map(Path, settings.secret_dirs)))
    proxies = Proxies(
        Path(settings.proxies_dir), mesh, authority, clock, files=files, seconds=settings.certificate_seconds
    )
    http = HttpServer(routes(proxies, clock))
    if settings.http_address:
        await http.start(settings.http_address)
    watch = asyncio.create_task(_watch(proxies, clock, settings.poll_seconds))
    structlog.get_logger().info("agent runs", proxies_dir=settings.proxies_dir, ca=settings.ca_address)
    stop = asyncio.create_task(stopped.wait())
    try:
        # The watch ends only by a bug of ours: then the process ends too, and its supervisor sees it.
        await asyncio.wait({stop, watch}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        watch.cancel()
        await http.close()
        await proxies.close()
        await authority.close()
    with contextlib.suppress(asyncio.CancelledError):
        await watch


def routes(proxies: Proxies, clock: Clock) -> Mapping[str, Callable[[], Answer]]:
    """What the agent answers over HTTP."""

    def ready() -> Answer:
        waiting = [each.spec.key for each in proxies.running.values() if each.identity.state is not State.SERVING]
        return Answer(503, f"without a certificate: {', '.join(sorted(waiting))}\n") if waiting else Answer(200, "ok\n")

    def metrics() -> Answer:
        samples = [
            Sample(
                each.spec.key, each.identity.state, each.identity.not_after, each.identity.issued, each.identity.failed
            )
            for each in proxies.running.values()
        ]
        return Answer(200, render_metrics(samples, clock.now()), "text/plain; version=0.0.4; charset=utf-8")

    return {"/metrics": metrics, "/healthz/live": lambda: Answer(200, "ok\n"), "/healthz/ready": ready}


async def _watch(proxies: Proxies, clock: Clock, poll_seconds: float) -> None:
    while True:
        try:
            await proxies.scan()
        except OSError as error:
            structlog.get_logger().error("proxies_dir cannot be read", reason=str(error))
        await clock.sleep(poll_seconds)
