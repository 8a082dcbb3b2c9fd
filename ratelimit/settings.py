"""What `python -m ratelimit` is told: flags, then LATEEN_RATELIMIT_* variables."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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


def parse_settings(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the command line; SystemExit(2) with usage when something is missing."""
    parser = argparse.ArgumentParser(
        prog="lateen ratelimit-service", description="Envoy's rate limit service (v3) over Redis, configured by ADS."
    )

    def option(flag: str, default: str | None, text: str) -> None:
        variable = "LATEEN_RATELIMIT_" + flag.upper().replace("-", "_")
        default = environ.get(variable, default)
        parser.add_argument(f"--{flag}", default=default, required=default is None, help=f"{text} (${variable})")

    option("address", "127.0.0.1:8081", "gRPC listens here, mutual TLS")
    option("http-address", "127.0.0.1:8082", "/metrics and /healthz")
    option("ads-address", None, "the control plane's ADS")
    option("sds-socket", None, "the agent's SDS socket of this service")
    option(
        "redis-url", None, "redis://host:port/db, rediss://, unix:///path, or memory:// for one replica without Redis"
    )
    option("node-name", "lateen-ratelimit-0", "name of this replica")
    option("root-namespace", "istio-system", "namespace of the mesh's own services")
    option("log-level", "info", "debug, info, warning, error")
    return Settings(**vars(parser.parse_args(list(arguments))))
