"""A local stand-in for a token issuer: signs JWTs offline and serves the keys to verify them.

`python -m lateen.local.issuer --keys DIR --address A:PORT --issuer URL [--issuer URL ...]` serves, for the issuer with index N,
`/N/jwks.json` and `/N/.well-known/openid-configuration`. `mint_token` needs the key directory only, not the server. For development: the
keys belong to one user of one machine and stand for nobody.
"""

import argparse
import base64
import hashlib
import json
import os
import secrets
import signal
import stat
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

JWKS_PATH = "jwks.json"
ALGORITHMS = ("RS256", "ES256")
DEFAULT_AUDIENCE = "payments-api"
# Signed a little in the past, for clocks that are a little behind.
BACKDATE = timedelta(seconds=5)


class IssuerError(Exception):
    """The keys cannot be used, or the issuer is not known; the text says why."""


class MintRequest(NamedTuple):
    """What a token should say. `claims` override the standard ones, so a wrong `iss` can be tried too."""

    issuer: str
    subject: str
    audience: str = DEFAULT_AUDIENCE
    claims: Mapping[str, Any] = {}
    ttl: timedelta = timedelta(hours=1)
    algorithm: str = "RS256"


def ensure_keys(directory: Path) -> None:
    """Make the signing keys at first start: readable by their owner only, refused when they are not."""
    # Imported here: whoever only wants `load_keys` should not pay for it.
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for algorithm in ALGORITHMS:
        path = key_file(directory, algorithm)
        if path.exists():
            _read_key(path)
            continue
        key = rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(pem)
        temporary.rename(path)


def key_file(directory: Path, algorithm: str) -> Path:
    """Where the private key of an algorithm stands."""
    return directory / f"{algorithm.lower()}.pem"


def _read_key(path: Path) -> bytes:
    try:
        status = path.stat()
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise IssuerError(f"{path} can be read by others: chmod 600 it, or remove it to get a new key")
        return path.read_bytes()
    except OSError as error:
        raise IssuerError(f"no signing key: {error}") from error


def _key_id(directory: Path, algorithm: str) -> str:
    public = _public_jwk(directory, algorithm)
    required = {name: public[name] for name in sorted(public) if name in {"kty", "n", "e", "crv", "x", "y"}}
    digest = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _public_jwk(directory: Path, algorithm: str) -> dict[str, Any]:
    import jwt  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    key: Any = load_pem_private_key(_read_key(key_file(directory, algorithm)), None).public_key()
    to_jwk = jwt.algorithms.RSAAlgorithm.to_jwk if algorithm == "RS256" else jwt.algorithms.ECAlgorithm.to_jwk
    return dict(to_jwk(key, as_dict=True))


def public_keys(directory: Path) -> dict[str, Any]:
    """The JWKS: every public key with its id (RFC 7638 thumbprint)."""
    keys = []
    for algorithm in ALGORITHMS:
        jwk = _public_jwk(directory, algorithm)
        jwk.pop("key_ops", None)
        keys.append({**jwk, "use": "sig", "alg": algorithm, "kid": _key_id(directory, algorithm)})
    return {"keys": keys}


def mint_token(directory: Path, request: MintRequest, now: datetime) -> str:
    """A signed token. A negative `ttl` makes one that has expired."""
    import jwt  # noqa: PLC0415

    if request.algorithm not in ALGORITHMS:
        raise IssuerError(f"cannot sign with {request.algorithm}: use one of {', '.join(ALGORITHMS)}")
    issued = min(now, now + request.ttl) - BACKDATE
    claims = {
        "iss": request.issuer,
        "sub": request.subject,
        "aud": request.audience,
        "iat": int(issued.timestamp()),
        "nbf": int(issued.timestamp()),
        "exp": int((now + request.ttl).timestamp()),
        "jti": secrets.token_hex(8),
        **request.claims,
    }
    pem = _read_key(key_file(directory, request.algorithm))
    headers = {"kid": _key_id(directory, request.algorithm)}
    return jwt.encode(claims, pem, algorithm=request.algorithm, headers=headers)


def parse_claims(arguments: Sequence[str]) -> dict[str, Any]:
    """`scope=payments:read` and `groups=["a","b"]`: a value that is JSON is taken as such. ValueError on anything without `=`."""
    claims: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise ValueError(f"{argument!r} is not NAME=VALUE")
        try:
            claims[name] = json.loads(value)
        except ValueError:
            claims[name] = value
    return claims


def discovery(issuer: str, address: str, index: int) -> dict[str, Any]:
    """The OpenID Connect discovery document of one issuer."""
    base = f"http://{address}/{index}"
    return {
        "issuer": issuer,
        "jwks_uri": f"{base}/{JWKS_PATH}",
        "id_token_signing_alg_values_supported": list(ALGORITHMS),
        "subject_types_supported": ["public"],
        "response_types_supported": ["id_token"],
    }


def serve(keys: Path, address: str, issuers: Sequence[str]) -> None:
    """Serve the public keys until SIGTERM."""
    ensure_keys(keys)
    documents: dict[str, bytes] = {"/healthz": b"{}"}
    jwks = json.dumps(public_keys(keys)).encode()
    for index, issuer in enumerate(issuers):
        documents[f"/{index}/{JWKS_PATH}"] = jwks
        documents[f"/{index}/.well-known/openid-configuration"] = json.dumps(discovery(issuer, address, index)).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            body = documents.get(self.path, b'{"error": "not found"}')
            self.send_response(200 if self.path in documents else 404)
            self.send_header("content-type", "application/json")
            self.send_header("cache-control", "max-age=300")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    host, _, port = address.rpartition(":")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with ThreadingHTTPServer((host, int(port)), Handler) as server:
        server.daemon_threads = True
        server.serve_forever(poll_interval=3600)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m lateen.local.issuer", description="serve the keys of a local token issuer"
    )
    parser.add_argument("--keys", required=True, type=Path)
    parser.add_argument("--address", required=True)
    parser.add_argument("--issuer", action="append", default=[])
    options = parser.parse_args(arguments)
    serve(options.keys, options.address, options.issuer)


if __name__ == "__main__":
    main()
