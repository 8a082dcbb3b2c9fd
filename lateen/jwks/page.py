"""What `/v1/keys` says: how it stands with the keys of every source, and the public keys themselves."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from lateen.jwks.keeper import KeyKeeper
from lateen.jwks.keys import Key


def keys_page(keeper: KeyKeeper) -> Callable[[], Mapping[str, Any]]:
    """A function that reads the keeper's state when asked."""

    def page() -> Mapping[str, Any]:
        sources = []
        for uri, status in keeper.sources():
            held = keeper.keys(uri)
            sources.append(
                {
                    "uri": status.uri,
                    "url": uri.url,
                    "issuer": uri.issuer,
                    "keys": status.keys,
                    "age": status.age,
                    "failures": status.failures,
                    "error": status.error,
                    "jwks": jwks_of(held.keys if held is not None else ()),
                }
            )
        return {"sources": sources}

    return page


def jwks_of(keys: Iterable[Key]) -> list[dict[str, Any]]:
    """Public keys as JWKs; a key that may verify one algorithm only says so."""
    found = []
    for key in keys:
        if isinstance(key.key, rsa.RSAPublicKey):
            text = RSAAlgorithm.to_jwk(key.key)
        elif isinstance(key.key, ec.EllipticCurvePublicKey):
            text = ECAlgorithm.to_jwk(key.key)
        else:
            text = OKPAlgorithm.to_jwk(key.key)
        value: dict[str, Any] = json.loads(text)
        if key.kid:
            value["kid"] = key.kid
        if len(key.algorithms) == 1:
            value["alg"] = next(iter(key.algorithms))
        found.append(value)
    return found
