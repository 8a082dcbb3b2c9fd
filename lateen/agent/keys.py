"""Private keys: made here, held in memory, handed to nobody but the proxy's own SDS stream."""

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


def make_key() -> ec.EllipticCurvePrivateKey:
    """A fresh ECDSA P-256 key: every certificate gets its own."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as Envoy takes it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
