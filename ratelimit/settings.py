"""What `python -m ratelimit` is told: flags, then LATEEN_RATELIMIT_* variables."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lateen.process import ServiceParser
from lateen.web import check_address
from lateen.wire.transport import TRANSPORT_HELP, Transport
from lateen.wire.workers import WORKERS_HELP, parse_workers

_STORES = ("redis://", "rediss://", "unix://", "memory://")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the service needs to know; addresses are `host:port`."""

    address: str
    http_address: str
    ads_address: str
    sds_socket: str
    redis_url: str
    node_name: str
    root_namespace: str
    log_level: str
    log_format: str
    transport: Transport
    workers: int
    worker: int | None


def parse_settings(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the command line; SystemExit(2) with usage when something is missing."""
    parser = ServiceParser(
        "ratelimit-service", "Envoy's rate limit service (v3) over Redis, configured by ADS.", environ
    )
    parser.option("address", "127.0.0.1:8081", "gRPC listens here, mutual TLS")
    parser.option("http-address", "127.0.0.1:8082", "/metrics and /healthz")
    parser.option("ads-address", None, "the control plane's ADS")
    parser.option("sds-socket", None, "the agent's SDS socket of this service")
    parser.option(
        "redis-url", None, "redis://host:port/db, rediss://, unix:///path, or memory:// for one replica without Redis"
    )
    parser.option("node-name", "lateen-ratelimit-0", "name of this replica")
    parser.option("root-namespace", "istio-system", "namespace of the mesh's own services")
    parser.log_options()
    parser.option("transport", Transport.WIRE, TRANSPORT_HELP, list(Transport))
    parser.option("workers", "1", WORKERS_HELP)
    parser.add_argument("--worker", type=int, default=None, help=argparse.SUPPRESS)  # given by the supervisor
    values = vars(parser.parse_args(list(arguments)))
    try:
        values["workers"] = parse_workers(values["workers"])
        for address in (values["address"], values["http_address"]):
            check_address(address)
    except ValueError as error:
        parser.error(str(error))
    if not values["redis_url"].startswith(_STORES):
        parser.error(f"--redis-url begins with none of {', '.join(_STORES)}")
    if values["workers"] > 1 and values["redis_url"].startswith("memory:"):
        parser.error("memory:// counts in one process: give a Redis, or one worker")
    values["transport"] = Transport(values["transport"])
    return Settings(**values)
