"""One proxy as its owner registers it: a JSON file in `proxies_dir`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from lateen.addresses import is_address
from lateen.agent.settings import check_keys, parse_object

MAX_BYTES = 64 * 1024
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NODE_TYPES = ("sidecar", "router", "service")
_MODES = ("NONE", "REDIRECT")
_REQUIRED = ("name", "namespace", "service_account", "address", "sds_socket")


@dataclass(frozen=True, slots=True)
class ProxySpec:
    """A replica's proxy. `token` is its one-use join token; `bootstrap_file` is empty for our own services.

    `owner` is the user its Envoy runs as, who then owns the socket and the bootstrap; by default it is the agent's own.
    """

    name: str
    namespace: str
    service_account: str
    address: str
    sds_socket: str
    node_type: str = "sidecar"
    app_address: str = ""
    workload_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    mode: str = "NONE"
    locality: str = ""
    token: str = field(default="", repr=False)
    bootstrap_file: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)
    owner: int | None = None

    @property
    def key(self) -> str:
        """What logs and metrics call it."""
        return f"{self.namespace}/{self.name}"

    def spiffe_id(self, trust_domain: str) -> str:
        """The identity its certificate must carry."""
        return f"spiffe://{trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    def without_token(self) -> "ProxySpec":
        """Everything but the token: what a change of the token leaves alone."""
        return replace(self, token="")


def parse_proxy(text: str) -> ProxySpec:
    """A proxy from JSON text; ValueError names the key that is wrong."""
    given = {key: value for key, value in parse_object(text).items() if value is not None}
    check_keys(given, {each.name for each in fields(ProxySpec)}, _REQUIRED)
    for key, value in given.items():
        if key == "labels":
            _check(
                isinstance(value, dict) and all(isinstance(v, str) for v in value.values()),
                "labels is not a map of text",
            )
        elif key == "owner":
            _check(
                isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1,
                "owner is not a user id",
            )
        elif key == "ports":
            given[key] = _ports(value)
        else:
            _check(isinstance(value, str), f"{key} is not text")
    spec = ProxySpec(**given)
    for key in ("name", "service_account"):
        _check(_NAME.fullmatch(getattr(spec, key)) is not None, f"{key} is not a DNS name")
    _check(_NAMESPACE.fullmatch(spec.namespace) is not None, "namespace is not a DNS label")
    _check(spec.node_type in _NODE_TYPES, f"node_type is none of {', '.join(_NODE_TYPES)}")
    _check(spec.mode in _MODES, f"mode is none of {', '.join(_MODES)}")
    for key in ("address", "app_address"):
        if value := getattr(spec, key):
            _check(is_address(value), f"{key} is not an IP address")
    _check(spec.sds_socket.startswith("/"), "sds_socket is not an absolute path")
    _check(spec.bootstrap_file == "" or spec.bootstrap_file.startswith("/"), "bootstrap_file is not an absolute path")
    return spec


def _check(holds: bool, problem: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise ValueError(problem)


def _ports(value: object) -> dict[str, int]:
    """Named ports; a plain list of numbers is taken too. Kept for what prints a proxy; Envoy learns ports over ADS."""
    named = (
        value if isinstance(value, dict) else {str(port): port for port in value} if isinstance(value, list) else None
    )
    if named is None or not all(isinstance(port, int) and 0 < port < 65536 for port in named.values()):  # noqa: PLR2004
        raise ValueError("ports is neither a map of names to ports nor a list of ports")
    return named
