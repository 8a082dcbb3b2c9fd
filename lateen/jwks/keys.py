"""A JSON Web Key Set, read strictly: public signing keys only, each bound to the algorithms its type allows.

Binding keys to algorithms here is what rules out algorithm confusion: a verifier asks for keys *for an algorithm*, and an RSA key is
never offered for HMAC. Symmetric keys are refused: whoever verifies with one could also sign.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

MAX_KEYS: Final = 200
MAX_DOCUMENT_BYTES: Final = 512 * 1024
_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 16384
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_EC: Final = {"secp256r1": frozenset({"ES256"}), "secp384r1": frozenset({"ES384"}), "secp521r1": frozenset({"ES512"})}
_EDDSA: Final = frozenset({"EdDSA"})

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey


class JwksError(ValueError):
    """A key set that cannot be used; the text says why."""


class Key(NamedTuple):
    """A public key with the algorithms it may verify."""

    kid: str
    algorithms: frozenset[str]
    key: PublicKey


class KeySet:
    """The usable keys of one document. Two sets are never equal: caches of verified tokens are bound to the very set."""

    def __init__(self, keys: Sequence[Key], skipped: Sequence[str] = ()) -> None:
        """Index nothing: key sets are small."""
        self.keys = tuple(keys)
        self.skipped = tuple(skipped)

    def candidates(self, algorithm: str, kid: str) -> list[PublicKey]:
        """Keys that may have signed: the same algorithm, and the same `kid` where both name one."""
        return [k.key for k in self.keys if algorithm in k.algorithms and (not kid or not k.kid or k.kid == kid)]


def parse_jwks(document: bytes | str) -> KeySet:
    """Read a key set; unusable keys are skipped and named, a document without a usable key is an error."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise JwksError(f"the key set is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        data = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise JwksError(f"the key set is not JSON: {error}") from None
    entries = data.get("keys") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise JwksError('the key set has no list "keys"')
    if len(entries) > MAX_KEYS:
        raise JwksError(f"the key set has more than {MAX_KEYS} keys")
    keys: list[Key] = []
    skipped: list[str] = []
    for index, entry in enumerate(entries):
        try:
            keys.append(_key(entry))
        except JwksError as error:
            skipped.append(f"keys[{index}]: {error}")
    if not keys:
        raise JwksError("; ".join(["the key set has no usable key", *skipped[:5]]))
    return KeySet(keys, skipped)


def _key(entry: object) -> Key:
    if not isinstance(entry, Mapping) or not all(isinstance(name, str) for name in entry):
        raise JwksError("not an object")
    if entry.get("use", "sig") != "sig":
        raise JwksError("not for signatures")
    operations = entry.get("key_ops")
    if operations is not None and (not isinstance(operations, list) or "verify" not in operations):
        raise JwksError("not for verifying")
    key, algorithms = _public_key(dict(entry))
    declared = entry.get("alg")
    if declared is not None:
        if declared not in algorithms:
            raise JwksError(f"alg {str(declared)[:20]!r} does not fit the key")
        algorithms = frozenset({declared})
    kid = entry.get("kid", "")
    if not isinstance(kid, str):
        raise JwksError("kid is not a string")
    return Key(kid, algorithms, key)


def _public_key(entry: dict[str, Any]) -> tuple[PublicKey, frozenset[str]]:
    public = {name: value for name, value in entry.items() if name in {"kty", "crv", "n", "e", "x", "y"}}
    try:
        match entry.get("kty"):
            case "RSA":
                rsa_key = RSAAlgorithm.from_jwk(public)
                if isinstance(rsa_key, rsa.RSAPublicKey) and _MIN_RSA_BITS <= rsa_key.key_size <= _MAX_RSA_BITS:
                    return rsa_key, _RSA
                raise JwksError(f"an RSA key needs {_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits")
            case "EC":
                ec_key = ECAlgorithm.from_jwk(public)
                if isinstance(ec_key, ec.EllipticCurvePublicKey) and ec_key.curve.name in _EC:
                    return ec_key, _EC[ec_key.curve.name]
            case "OKP":
                okp_key = OKPAlgorithm.from_jwk(public)
                if isinstance(okp_key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
                    return okp_key, _EDDSA
            case "oct":
                raise JwksError("a symmetric key cannot be published")
    except JwksError:
        raise
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise JwksError(f"malformed: {error}") from None
    raise JwksError(f"key type {str(entry.get('kty'))[:20]!r} is not supported")
