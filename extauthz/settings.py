"""What `python -m extauthz` is told: flags, then LATEEN_EXTAUTHZ_* variables."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from lateen.jwks.overrides import parse_override
from lateen.process import ServiceParser
from lateen.web import check_address
from lateen.wire.transport import TRANSPORT_HELP, Transport
from lateen.wire.workers import WORKERS_HELP, parse_workers


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the service needs to know; addresses are `host:port`."""

    address: str
    http_address: str
    ads_address: str
    sds_socket: str
    node_name: str
    root_namespace: str
    log_level: str
    log_format: str
    decision_log: str
    decision_log_rate: float
    redact_header: tuple[str, ...]
    jwks_override: tuple[tuple[str, str], ...]
    jwks_ca_file: str
    transport: Transport
    workers: int
    worker: int | None
    print_config: bool

    def shown(self) -> Mapping[str, object]:
        """The settings as JSON values; there are no secrets among them."""
        return {name: value for name, value in asdict(self).items() if name not in ("print_config", "worker")}


def parse_settings(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the command line; SystemExit(2) with usage when something is missing or wrong."""
    parser = ServiceParser("extauthz", "Envoy's external authorization service (v3), configured by ADS.", environ)
    parser.option("address", "127.0.0.1:9191", "gRPC listens here, mutual TLS")
    parser.option("http-address", "127.0.0.1:9192", "/metrics, /healthz and /v1/denials/ID")
    parser.option("ads-address", None, "the control plane's ADS")
    parser.option("sds-socket", None, "the agent's SDS socket of this service")
    parser.option("node-name", "lateen-extauthz-0", "name of this replica")
    parser.option("root-namespace", "istio-system", "namespace of the mesh's own services")
    parser.log_options()
    parser.option(
        "decision-log",
        "denied",
        "which decisions to log besides AUDIT and dry-run results: denials, all, or denials and a share of the others",
        ("denied", "all", "sampled"),
    )
    parser.option("decision-log-rate", "0.01", "with sampled: the share of allowed requests that is logged, 0 to 1")
    parser.option("redact-header", "", "request headers, separated by commas, whose values are never shown or logged")
    parser.option("jwks-ca-file", "", "PEM file of further authorities to trust when fetching keys")
    parser.option("transport", Transport.WIRE, TRANSPORT_HELP, list(Transport))
    parser.option("workers", "1", WORKERS_HELP)
    parser.add_argument("--worker", type=int, default=None, help=argparse.SUPPRESS)  # given by the supervisor
    parser.add_argument(
        "--jwks-override",
        action="append",
        default=None,
        metavar="URL=URL",
        help="fetch keys of the first URL from the second; may be repeated ($LATEEN_EXTAUTHZ_JWKS_OVERRIDE, separated by spaces)",
    )
    parser.add_argument("--print-config", action="store_true", help="print the settings as JSON and exit")
    values = vars(parser.parse_args(list(arguments)))
    given = values.pop("jwks_override")
    texts = given if given is not None else environ.get("LATEEN_EXTAUTHZ_JWKS_OVERRIDE", "").split()
    try:
        overrides = tuple(parse_override(text) for text in texts)
        values["decision_log_rate"] = _share(values["decision_log_rate"])
        values["workers"] = parse_workers(values["workers"])
        for address in (values["address"], values["http_address"]):
            check_address(address)
    except ValueError as error:
        parser.error(str(error))
    values["transport"] = Transport(values["transport"])
    values["redact_header"] = tuple(filter(None, (n.strip().lower() for n in values["redact_header"].split(","))))
    return Settings(**values, jwks_override=overrides)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f'the decision log\'s rate "{text}" must be between 0 and 1')
    return share
