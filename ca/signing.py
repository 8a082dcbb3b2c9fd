"""What a certificate signing request must be before we sign: bounded, well signed, with a key that is strong enough. Pure.

Nothing else of the request counts: the names in the certificate come from the authenticated caller, never from the request.
"""

from datetime import timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

MAX_CSR_BYTES = 16 * 1024
_CURVES = ("secp256r1", "secp384r1")
_RSA_BITS = range(2048, 4096 + 1)
_RSA_EXPONENT = 65537

WorkloadKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class CsrRefusedError(ValueError):
    """The request cannot be signed; the message is safe to show to the caller."""


def parse_csr(pem: bytes) -> WorkloadKey:
    """The public key of a PEM request whose signature proves that the caller holds the private one."""
    if len(pem) > MAX_CSR_BYTES:
        raise CsrRefusedError(f"the request is larger than {MAX_CSR_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CsrRefusedError("the request is not a readable PEM certificate request") from error
    checked = _policed(key)
    try:
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CsrRefusedError("the request's signature uses an algorithm that is not supported") from error
    if not signed:
        raise CsrRefusedError("the request's signature does not match its key")
    return checked


def _policed(key: object) -> WorkloadKey:
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVES:
            raise CsrRefusedError(f"curve {key.curve.name} is not allowed, use P-256 or P-384")
        return key
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in _RSA_BITS:
            raise CsrRefusedError(f"an RSA key of {key.key_size} bits is not allowed, use 2048 to 4096")
        if key.public_numbers().e != _RSA_EXPONENT:
            raise CsrRefusedError("the RSA key's public exponent is not 65537")
        return key
    raise CsrRefusedError("the key type is not allowed, use ECDSA P-256 or P-384, or RSA")


def clamp_lifetime(requested_seconds: int, default: timedelta, maximum: timedelta) -> timedelta:
    """How long the certificate lives: what was asked for within `maximum`, or the default if nothing was."""
    if requested_seconds <= 0:
        return min(default, maximum)
    return timedelta(seconds=min(requested_seconds, maximum.total_seconds()))
