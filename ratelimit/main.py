"""Builds the service from its settings and runs it until SIGTERM."""

import asyncio
import contextlib
import sys
from collections.abc import Collection, Mapping

import structlog

from lateen import __version__
from lateen.adsclient.client import AdsClient, ResourcesRejected, service_node, stop
from lateen.adsclient.tls import SdsIdentity
from lateen.clock import SystemClock
from lateen.process import allow_many_files, configure_logs
from lateen.web import listen_on
from lateen.wire.transport import rpc_server
from lateen.wire.workers import Service, run_service, worker_name
from ratelimit.handlers import LIMITS, handlers
from ratelimit.limits import LimitTable
from ratelimit.memory_store import MemoryStore
from ratelimit.metrics import Metrics
from ratelimit.redis_store import RedisStore
from ratelimit.server import http_server
from ratelimit.service import RateLimits
from ratelimit.settings import Settings, parse_settings
from ratelimit.store import CounterStore

TYPE_URL = "type.googleapis.com/lateen.dev.v1alpha1.WorkloadLimits"
SERVICE_ACCOUNT = "lateen-ratelimit"
DRAIN_SECONDS = 1.0
FIRST_LIMITS_SECONDS = 5.0


def main() -> None:
    """Entry point; exit code 0 after SIGTERM or Ctrl-C, 1 when the service cannot run, 2 for wrong settings."""
    settings = parse_settings(sys.argv[1:])
    configure_logs(settings.log_level, settings.log_format)
    allow_many_files()
    addresses = (settings.address, settings.http_address)
    service = Service("ratelimit", sys.argv[1:], settings.workers, *addresses, DRAIN_SECONDS + 1.0)
    run_service(service, lambda stopped: serve(settings, stopped), is_worker=settings.worker is not None)


def open_store(url: str) -> CounterStore:
    """The store that `url` means, one that the settings let pass."""
    if url.startswith("memory:"):
        structlog.get_logger().warning("counting in memory: limits hold for this replica alone and start anew with it")
        return MemoryStore(SystemClock())
    return RedisStore(url)


async def serve(settings: Settings, stopped: asyncio.Event) -> None:
    """Run both servers and the ADS subscription until `stopped` is set, then drain."""
    metrics, table, store = Metrics(), LimitTable(), open_store(settings.redis_url)
    identity = SdsIdentity(settings.sds_socket)
    await identity.wait_ready()

    def take_over(changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        reasons = table.update(changed, removed)
        structlog.get_logger().info(
            "limits updated", workloads=len(table), changed=sorted(changed), removed=list(removed)
        )
        if reasons:
            raise ResourcesRejected(reasons)

    node = service_node(
        name=worker_name(settings.node_name, settings.worker),
        namespace=settings.root_namespace,
        address=settings.address.rpartition(":")[0],
        service_account=SERVICE_ACCOUNT,
        version=__version__,
    )
    server_name = f"lateen-controlplane.{settings.root_namespace}.svc"
    ads = AdsClient(settings.ads_address, identity, node, TYPE_URL, take_over, server_name=server_name)
    subscription = asyncio.create_task(ads.run())
    # A replica without limits would let the failure mode decide: let proxies find it only when it knows them.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ads.synced.wait(), FIRST_LIMITS_SECONDS)
    limits = RateLimits(table, store, SystemClock(), metrics)
    server = rpc_server(settings.transport, handlers(limits), LIMITS, identity, metrics.registry)
    web = http_server(metrics, store, ads.synced.is_set)
    listener = listen_on(settings.http_address)
    await server.start(settings.address, reuse_port=settings.worker is not None)
    tasks = [subscription, asyncio.create_task(web.serve(sockets=[listener]))]
    structlog.get_logger().info("rate limit service listens", address=settings.address, http=settings.http_address)
    await stopped.wait()
    await server.stop(DRAIN_SECONDS)
    for task in tasks:
        await stop(task)
    await identity.close()
    await store.close()
