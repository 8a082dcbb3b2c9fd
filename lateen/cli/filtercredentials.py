"""Credentials of registries, where `docker login` and its helpers leave them."""

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lateen.cli.exits import CommandError, Exit

HELPER_SECONDS = 30.0
DOCKER_HUB = "https://index.docker.io/v1/"
DOCKER_HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")


class Credentials(NamedTuple):
    """What a registry asks for."""

    user: str
    password: str

    def basic(self) -> str:
        """As an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def __repr__(self) -> str:
        return f"Credentials({self.user!r}, ...)"


def find_credentials(registry: str, environ: Mapping[str, str] = os.environ) -> Credentials | None:
    """Those of the docker configuration file for `registry` (HOST[:PORT]); None if there are none."""
    directory = environ.get("DOCKER_CONFIG") or str(Path(environ.get("HOME", "/"), ".docker"))
    path = Path(directory, "config.json")
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        helper = config.get("credHelpers", {}).get(registry) or config.get("credsStore")
        if helper:
            found = _ask_helper(str(helper), _key(registry), environ)
            if found is not None:
                return found
        for key, entry in config.get("auths", {}).items():
            if _host(key) == _host(_key(registry)):
                return _decode(entry)
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise CommandError(Exit.INVALID, f"{path}: {error}", "docker login writes this file") from None
    return None


def _key(registry: str) -> str:
    return DOCKER_HUB if registry in DOCKER_HUB_HOSTS else registry


def _host(key: str) -> str:
    """Auths holds HOST, https://HOST and https://HOST/v1/."""
    return re.sub(r"^https?://", "", key).partition("/")[0]


def _decode(entry: Mapping[str, Any]) -> Credentials | None:
    if entry.get("identitytoken"):
        return Credentials("<token>", str(entry["identitytoken"]))
    if "auth" in entry:
        try:
            user, colon, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise ValueError("auth is no base64 of USER:PASSWORD") from None
        if not colon:
            raise ValueError("auth is no base64 of USER:PASSWORD")
        return Credentials(user, password.rstrip("\0"))
    if "username" in entry:
        return Credentials(str(entry["username"]), str(entry.get("password", "")))
    return None


def _ask_helper(name: str, key: str, environ: Mapping[str, str]) -> Credentials | None:
    """docker-credential-NAME get: the registry on stdin, JSON on stdout; a status other than 0 if it has none."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"not the name of a credential helper: {name!r}")
    try:
        result = subprocess.run(
            [f"docker-credential-{name}", "get"],
            input=key,
            capture_output=True,
            text=True,
            check=False,
            timeout=HELPER_SECONDS,
            env=dict(environ),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"docker-credential-{name}: {error}") from None
    if result.returncode != 0:
        return None
    found = json.loads(result.stdout)
    return Credentials(str(found["Username"]), str(found["Secret"]))
