"""What `python -m lateen.agent --config FILE` is told: one JSON object, unknown keys refused."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lateen.process import LOG_FORMATS, LOG_LEVELS

_MAX_BYTES = 256 * 1024


class SettingsError(ValueError):
    """The configuration cannot be used; the message names the file and the key."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the agent needs to know; addresses are `host:port`."""

    ca_address: str
    root_cert_file: str
    proxies_dir: str
    ads_address: str
    trust_domain: str = "cluster.local"
    root_namespace: str = "istio-system"
    ca_server_name: str = ""
    http_address: str = ""
    modules_dir: str = ""
    """Where the control plane of this host keeps the modules of plugins; proxies are sent them whole when it is empty."""
    secret_dirs: tuple[str, ...] = ()
    certificate_seconds: int = 0
    poll_seconds: float = 0.2
    log_level: str = "info"
    log_format: str = "json"

    @property
    def ca_name(self) -> str:
        """The DNS name the authority's certificate must carry."""
        return self.ca_server_name or f"lateen-ca.{self.root_namespace}.svc"

    def render(self) -> str:
        """The settings as JSON; none of them is secret."""
        return json.dumps(asdict(self), indent=2)


def load_settings(path: Path) -> Settings:
    """Read and check the file."""
    try:
        return parse_settings(read_bounded(path, _MAX_BYTES))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error


def parse_settings(text: str) -> Settings:
    """Settings from JSON text; ValueError names the key that is wrong."""
    given = parse_object(text)
    types = {field.name: field.type for field in fields(Settings)}
    check_keys(given, types.keys(), {"ca_address", "root_cert_file", "proxies_dir", "ads_address"})
    for key, value in given.items():
        expected = _EXPECTED.get(key, (str, "text"))
        if isinstance(value, bool) or not isinstance(value, expected[0]):
            raise ValueError(f"{key} is not {expected[1]}")  # noqa: TRY004 - it is a value of the file
    settings = Settings(**given | {"secret_dirs": tuple(given.get("secret_dirs", ()))})
    if not all(isinstance(directory, str) for directory in settings.secret_dirs):
        raise ValueError("secret_dirs is not a list of paths")
    for key in ("ca_address", "ads_address", "http_address"):
        value = getattr(settings, key)
        _, colon, port = value.rpartition(":")
        if value and not (colon and port.isdigit() and 0 < int(port) < 65536):  # noqa: PLR2004 - the ports there are
            raise ValueError(f"{key} is not host:port")
    if not 0.01 <= settings.poll_seconds <= 60:  # noqa: PLR2004 - bounds, named in the message
        raise ValueError("poll_seconds must lie between 0.01 and 60")
    for key, choices in (("log_level", LOG_LEVELS), ("log_format", LOG_FORMATS)):
        if getattr(settings, key) not in choices:
            raise ValueError(f"{key} is none of {', '.join(choices)}")
    return settings


_EXPECTED: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "secret_dirs": (list, "a list of paths"),
    "certificate_seconds": (int, "a whole number"),
    "poll_seconds": ((int, float), "a number"),
}


def read_bounded(path: Path, limit: int) -> str:
    """The text of a small file; ValueError if it is larger than `limit` or not UTF-8."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"is larger than {limit} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8") from error


def parse_object(text: str) -> dict[str, Any]:
    """One JSON object."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004 - it is a value of the file
    return given


def check_keys(given: Mapping[str, object], known: Collection[str], required: Collection[str]) -> None:
    """ValueError for a key that is unknown or missing."""
    if unknown := set(given) - set(known):
        raise ValueError(f"unknown key {min(unknown)!r}, known are {', '.join(sorted(known))}")
    if missing := set(required) - set(given):
        raise ValueError(f"{min(missing)} is missing")
