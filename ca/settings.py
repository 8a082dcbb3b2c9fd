"""What `python -m ca` is told: flags, then LATEEN_CA_* variables."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from ca.authority import MAX_LIFETIME
from ca.identity import IdentityError, check_trust_domain
from lateen.process import ServiceParser
from lateen.web import split_address

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the authority needs to know."""

    state_dir: Path
    address: str
    admin_socket: Path
    trust_domain: str
    ttl: timedelta
    http_address: str
    root_namespace: str
    log_level: str
    log_format: str
    print_config: bool

    @property
    def listen(self) -> tuple[str, int]:
        """Host and port of `address`."""
        return split_address(self.address)

    def render(self) -> str:
        """The settings as JSON; none of them is secret."""
        return json.dumps(
            {key: _plain(value) for key, value in asdict(self).items() if key != "print_config"}, indent=2
        )


def parse_duration(text: str) -> timedelta:
    """`90s`, `15m`, `24h`, `7d`, or several together."""
    parts = re.findall(r"(\d+)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 90s, 15m or 24h")
    return timedelta(seconds=sum(int(number) * _UNITS[unit] for number, unit in parts))


def parse_settings(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the command line; SystemExit(2) with usage when something is missing or wrong."""
    parser = ServiceParser(
        "ca-service", "Certificate authority of the mesh (Istio's certificate signing API).", environ
    )
    parser.option("state-dir", None, "directory of the root, mode 0700; made if absent")
    parser.option("address", "127.0.0.1:15013", "gRPC listens here, TLS")
    parser.option("admin-socket", None, "unix socket (0600) that mints join tokens")
    parser.option("trust-domain", "cluster.local", "trust domain of every certificate")
    parser.option("ttl", "24h", "lifetime of workload certificates")
    parser.option("http-address", "", "also serve /metrics and /healthz here, without tokens")
    parser.option("root-namespace", "istio-system", "namespace of the mesh's own services")
    parser.log_options()
    parser.add_argument("--print-config", action="store_true", help="print the settings as JSON and exit")
    given = parser.parse_args(list(arguments))
    try:
        ttl = parse_duration(given.ttl)
        if not timedelta(seconds=1) <= ttl <= MAX_LIFETIME:
            parser.error(f"--ttl must lie between 1s and {MAX_LIFETIME.days}d")
        for address in filter(None, (given.address, given.http_address)):
            split_address(address)
        check_trust_domain(given.trust_domain)
    except (ValueError, IdentityError) as error:
        parser.error(str(error))
    return Settings(
        state_dir=Path(given.state_dir),
        address=given.address,
        admin_socket=Path(given.admin_socket),
        trust_domain=given.trust_domain,
        ttl=ttl,
        http_address=given.http_address,
        root_namespace=given.root_namespace,
        log_level=given.log_level,
        log_format=given.log_format,
        print_config=given.print_config,
    )


def _plain(value: object) -> object:
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.0f}s"
    return str(value) if isinstance(value, Path) else value
