"""The issuing authority's key and certificates: made, encoded, decoded and checked. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

CLOCK_SKEW = timedelta(minutes=2)
"""How far certificates are back-dated, so that a peer whose clock is behind accepts them."""

ROOT_LIFETIME = timedelta(days=3650)

IssuerKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class RootError(Exception):
    """The stored root cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Root:
    """The issuing key and its chain: the issuer's own certificate first, the root last (often the same)."""

    key: IssuerKey
    chain: tuple[x509.Certificate, ...]

    @property
    def issuer(self) -> x509.Certificate:
        """The certificate that signs."""
        return self.chain[0]

    @property
    def anchor(self) -> x509.Certificate:
        """The certificate peers trust."""
        return self.chain[-1]

    @property
    def anchor_pem(self) -> str:
        """The trust anchor as PEM."""
        return self.anchor.public_bytes(serialization.Encoding.PEM).decode()

    def __repr__(self) -> str:
        """Say nothing of the key."""
        return f"Root(subject={self.issuer.subject.rfc4514_string()!r}, not_after={self.issuer.not_valid_after_utc})"


def create_root(trust_domain: str, now: datetime) -> Root:
    """Make a self-signed P-256 root for `trust_domain`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Root(key, (certificate,))


def encode_root(root: Root) -> bytes:
    """The file's content: the key, then the chain."""
    key = root.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key + b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in root.chain)


def decode_root(content: bytes, now: datetime) -> Root:
    """Read and check what `encode_root` wrote, or what an operator put there; RootError if it cannot issue."""
    try:
        key = serialization.load_pem_private_key(content, password=None)
        chain = tuple(x509.load_pem_x509_certificates(content))
    except (ValueError, TypeError) as error:
        raise RootError("holds no readable PEM key and certificates") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise RootError("holds a key that is neither ECDSA nor RSA")
    root = Root(key, chain)
    check_root(root, now)
    return root


def check_root(root: Root, now: datetime) -> None:
    """RootError unless key and chain belong together, are authorities and are valid at `now`."""
    if root.issuer.public_key() != root.key.public_key():
        raise RootError("the key does not belong to the first certificate")
    for certificate in root.chain:
        subject = certificate.subject.rfc4514_string()
        if not _is_authority(certificate):
            raise RootError(f"certificate {subject!r} is not an authority's (basicConstraints CA)")
        if now < certificate.not_valid_before_utc:
            raise RootError(f"certificate {subject!r} is not valid before {certificate.not_valid_before_utc:%FT%TZ}")
        if now >= certificate.not_valid_after_utc:
            raise RootError(f"certificate {subject!r} expired at {certificate.not_valid_after_utc:%FT%TZ}")
    for certificate, parent in zip(root.chain, (*root.chain[1:], root.anchor), strict=True):
        try:
            certificate.verify_directly_issued_by(parent)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise RootError("the chain is broken: each certificate must be issued by the next") from error


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
