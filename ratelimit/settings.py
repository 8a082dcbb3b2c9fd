"""What `python -m ratelimit` is told: flags, then LATEEN_RATELIMIT_* variables."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lateen.process import LOG_LEVELS
from lateen.wire.transport import TRANSPORT_HELP, Transport
from lateen.wire.workers import WORKERS_HELP, parse_workers


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
    transport: Transport
    workers: int
    worker: int | None


def parse_settings(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the command line; SystemExit(2) with usage when something is missing."""
    parser = argparse.ArgumentParser(
        prog="lateen ratelimit-service", description="Envoy's rate limit service (v3) over Redis, configured by ADS."
    )

    def option(flag: str, default: str | None, text: str, choices: Sequence[str] | None = None) -> None:
        variable = "LATEEN_RATELIMIT_" + flag.upper().replace("-", "_")
        default = environ.get(variable, default)
        if choices is not None and default not in choices:
            parser.error(f"${variable} must be one of {', '.join(choices)}")
        help_text = f"{text} (${variable})"
        parser.add_argument(f"--{flag}", default=default, required=default is None, help=help_text, choices=choices)

    option("address", "127.0.0.1:8081", "gRPC listens here, mutual TLS")
    option("http-address", "127.0.0.1:8082", "/metrics and /healthz")
    option("ads-address", None, "the control plane's ADS")
    option("sds-socket", None, "the agent's SDS socket of this service")
    option(
        "redis-url", None, "redis://host:port/db, rediss://, unix:///path, or memory:// for one replica without Redis"
    )
    option("node-name", "lateen-ratelimit-0", "name of this replica")
    option("root-namespace", "istio-system", "namespace of the mesh's own services")
    option("log-level", "info", "how much to log", LOG_LEVELS)
    option("transport", Transport.WIRE, TRANSPORT_HELP, list(Transport))
    option("workers", "1", WORKERS_HELP)
    parser.add_argument("--worker", type=int, default=None, help=argparse.SUPPRESS)  # given by the supervisor
    values = vars(parser.parse_args(list(arguments)))
    try:
        values["workers"] = parse_workers(values["workers"])
    except ValueError as error:
        parser.error(str(error))
    if values["workers"] > 1 and values["redis_url"].startswith("memory:"):
        parser.error("memory:// counts in one process: give a Redis, or one worker")
    values["transport"] = Transport(values["transport"])
    return Settings(**values)
