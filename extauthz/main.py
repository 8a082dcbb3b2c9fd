"""Builds the service from its settings and runs it until SIGTERM."""

import asyncio
import contextlib
import json
import sys
from typing import Final

import structlog

from extauthz.check import Checker
from extauthz.decisionlog import DecisionLog, LogMode
from extauthz.denials import Denials
from extauthz.handlers import LIMITS, Health, handlers
from extauthz.metrics import Metrics
from extauthz.policies import WORKLOAD_POLICY, Policies
from extauthz.server import http_server
from extauthz.settings import Settings, parse_settings
from lateen import __version__
from lateen.adsclient.client import AdsClient, service_node, stop
from lateen.adsclient.tls import SdsIdentity
from lateen.fetching import http_client
from lateen.jwks.keeper import KeyKeeper
from lateen.jwks.page import keys_page
from lateen.process import allow_many_files, configure_logs
from lateen.web import WebServer, listen_on
from lateen.wire.transport import rpc_server
from lateen.wire.workers import Service, run_service, worker_name

SERVICE_ACCOUNT: Final = "lateen-extauthz"
_DRAIN_SECONDS: Final = 1.0
_FIRST_POLICIES_SECONDS: Final = 5.0


def main() -> None:
    """Entry point; exit code 0 after SIGTERM or Ctrl-C, 1 when the service cannot run, 2 for wrong settings."""
    settings = parse_settings(sys.argv[1:])
    if settings.print_config:
        sys.stdout.write(json.dumps(settings.shown(), indent=2) + "\n")
        return
    configure_logs(settings.log_level, settings.log_format)
    allow_many_files()
    addresses = (settings.address, settings.http_address)
    service = Service("extauthz", sys.argv[1:], settings.workers, *addresses, _DRAIN_SECONDS + 1.0)
    run_service(service, lambda stopped: serve(settings, stopped), is_worker=settings.worker is not None)


async def serve(settings: Settings, stopped: asyncio.Event) -> None:
    """Run both servers and the ADS subscription until `stopped` is set, then drain."""
    client = http_client(settings.jwks_ca_file)
    keeper = KeyKeeper(client, overrides=dict(settings.jwks_override))
    metrics, denials, policies = Metrics(), Denials(), Policies(keeper.want)
    log = DecisionLog(metrics, LogMode(settings.decision_log), rate=settings.decision_log_rate)
    checker = Checker(policies, keeper, metrics, denials, log=log, redact_headers=settings.redact_header)
    identity = SdsIdentity(settings.sds_socket)
    await identity.wait_ready()
    node = service_node(
        name=worker_name(settings.node_name, settings.worker),
        namespace=settings.root_namespace,
        address=settings.address.rpartition(":")[0],
        service_account=SERVICE_ACCOUNT,
        version=__version__,
    )
    server_name = f"lateen-controlplane.{settings.root_namespace}.svc"
    ads = AdsClient(settings.ads_address, identity, node, WORKLOAD_POLICY, policies.take, server_name=server_name)
    health = Health(ads.synced.is_set)
    metrics.watch(
        keeper.status,
        (
            ("lateen_authz_workloads", "Workloads with policies", lambda: len(policies)),
            (
                "lateen_authz_broken_workloads",
                "Workloads whose policies cannot be used",
                lambda: len(policies.broken()),
            ),
            ("lateen_authz_cached_tokens", "Verified tokens held", lambda: len(checker.tokens)),
            ("lateen_ads_connected", "Whether the control plane is connected", lambda: float(ads.connected)),
        ),
    )
    web = http_server(metrics, denials, health, policies.broken, keys_page(keeper))
    serving = asyncio.create_task(web.serve(sockets=[listen_on(settings.http_address)]), name="http")
    subscription = asyncio.create_task(ads.run(), name="ads")
    # Proxies should find a replica only when it can decide; without a control plane it listens all the same, and says so.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ads.synced.wait(), _FIRST_POLICIES_SECONDS)
    server = rpc_server(settings.transport, handlers(checker, health), LIMITS, identity, metrics.registry)
    await server.start(settings.address, reuse_port=settings.worker is not None)
    structlog.get_logger().info("ext_authz service listens", address=settings.address, http=settings.http_address)
    await stopped.wait()
    health.draining = True
    await server.stop(_DRAIN_SECONDS)
    await stop(subscription)
    await _stop_http(web, serving)
    await keeper.close()
    await identity.close()
    await client.aclose()


async def _stop_http(web: WebServer, serving: "asyncio.Task[None]") -> None:
    web.should_exit = True
    web.force_exit = True
    with contextlib.suppress(asyncio.CancelledError, TimeoutError):
        await asyncio.wait_for(serving, timeout=0.3)
