"""What `python -m lateen.controlplane` is told: flags, then LATEEN_CONTROLPLANE_* variables."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lateen.jwks.overrides import parse_override
from lateen.process import ServiceParser
from lateen.web import split_address


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the control plane needs to know."""

    config_dir: Path | None
    mesh_config: Path | None
    api_socket: Path
    state_file: Path
    ads_address: str
    http_address: str
    sds_socket: Path
    debounce_quiet: float
    debounce_longest: float
    max_streams: int
    jwks_override: tuple[tuple[str, str], ...]
    jwks_ca_file: str
    modules_dir: Path
    modules_ca_file: str
    trials_file: Path
    ahead_of_time_dir: Path | None
    log_level: str
    log_format: str
    print_config: bool

    @property
    def http_listen(self) -> tuple[str, int]:
        """Host and port of `http_address`."""
        return split_address(self.http_address)

    def render(self) -> str:
        """The settings as JSON; none of them is secret."""
        values = {key: value for key, value in asdict(self).items() if key != "print_config"}
        return json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in values.items()}, indent=2)


def parse_settings(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the command line; SystemExit(2) with usage when something is missing or wrong."""
    description = "The xDS management server: configuration in, Envoy configuration out."
    parser = ServiceParser("controlplane", description, environ)
    parser.option("config-dir", "", "directory of YAML, watched")
    parser.option("mesh-config", "", "mesh.yaml, watched")
    parser.option("api-socket", None, "unix socket (0600) of the apply API")
    parser.option("state-file", "", "keeps what the API was given over a restart (default: beside the socket)")
    parser.option("ads-address", "127.0.0.1:15012", "ADS listens here, mutual TLS")
    parser.option("http-address", "127.0.0.1:15014", "/metrics, /healthz and /readyz")
    parser.option("sds-socket", None, "the agent's unix socket that serves our certificate")
    parser.option("debounce-quiet", "0.1", "seconds without a change before a push")
    parser.option("debounce-longest", "1.0", "seconds after which changes are pushed although more keep coming")
    parser.option("max-streams", "5000", "ADS streams at a time")
    parser.log_options()
    parser.option(
        "modules-dir", "", "keeps the modules of plugins, for proxies of this host to read (default: beside the socket)"
    )
    parser.option(
        "trials-file", "", "remembers which modules Envoy has taken (default: trials.json in the modules' directory)"
    )
    parser.option(
        "ahead-of-time-dir",
        "",
        "keeps machine code of modules, made for the Envoy and processor of this host (default: none is made)",
    )
    parser.option("modules-ca-file", "", "PEM file of further authorities to trust when fetching modules")
    parser.option("jwks-ca-file", "", "PEM file of further authorities to trust when fetching keys")
    parser.add_argument(
        "--jwks-override",
        action="append",
        metavar="URL=URL",
        help="fetch keys of the first URL from the second; may be repeated ($LATEEN_CONTROLPLANE_JWKS_OVERRIDE, separated by spaces)",
    )
    parser.add_argument("--print-config", action="store_true", help="print the settings as JSON and exit")
    given = parser.parse_args(list(arguments))
    try:
        for address in (given.ads_address, given.http_address):
            split_address(address)
        texts = given.jwks_override or environ.get("LATEEN_CONTROLPLANE_JWKS_OVERRIDE", "").split()
        overrides = tuple(parse_override(text) for text in texts)
        quiet, longest, streams = float(given.debounce_quiet), float(given.debounce_longest), int(given.max_streams)
    except ValueError as error:
        parser.error(str(error))
    if not 0 <= quiet <= longest:
        parser.error("--debounce-quiet must lie between 0 and --debounce-longest")
    api_socket = Path(given.api_socket)
    modules_dir = Path(given.modules_dir or api_socket.parent / "modules").absolute()
    return Settings(
        config_dir=Path(given.config_dir) if given.config_dir else None,
        mesh_config=Path(given.mesh_config) if given.mesh_config else None,
        api_socket=api_socket,
        state_file=Path(given.state_file) if given.state_file else api_socket.parent / "controlplane-state.json",
        ads_address=given.ads_address,
        http_address=given.http_address,
        sds_socket=Path(given.sds_socket),
        debounce_quiet=quiet,
        debounce_longest=longest,
        max_streams=streams,
        jwks_override=overrides,
        jwks_ca_file=given.jwks_ca_file,
        modules_dir=modules_dir,
        ahead_of_time_dir=Path(given.ahead_of_time_dir).absolute() if given.ahead_of_time_dir else None,
        modules_ca_file=given.modules_ca_file,
        trials_file=Path(given.trials_file or modules_dir / "trials.json").absolute(),
        log_level=given.log_level,
        log_format=given.log_format,
        print_config=given.print_config,
    )
