"""Tokens for tests, good and bad: built by hand where a library would refuse to."""

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.jwks.keyserver import PrivateKey, jwk

ISSUER = "https://auth.corp.com"
KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
JWKS = json.dumps({"keys": [jwk(KEY, "k1")]})


def payload(**claims: object) -> dict[str, Any]:
    """Claims of a good token, with changes; a claim set to None is left out."""
    base = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": "payments-api",
        "exp": int(time.time()) + 600,
        "scope": "payments:read",
    }
    return {name: value for name, value in {**base, **claims}.items() if value is not None}


def token(
    key: PrivateKey = KEY, algorithm: str = "RS256", header: Mapping[str, Any] | None = None, **claims: object
) -> str:
    """A signed token."""
    headers = {"kid": "k1"} if header is None else dict(header)
    return jwt.encode(payload(**claims), key, algorithm=algorithm, headers=headers)


def b64(data: bytes | Mapping[str, Any]) -> str:
    """Base64url without padding, of bytes or of JSON."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
