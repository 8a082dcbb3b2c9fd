"""Keys, requests and certificates for the tests of the authority."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from ca.authority import Authority
from ca.root import create_root

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
PEM = serialization.Encoding.PEM
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr_for(key: PrivateKey, *uris: str, dns: str = "") -> bytes:
    """A request; the names in it must never matter."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(dns)] if dns else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "spiffe://cluster.local/ns/evil/sa/evil")])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(PEM)


def new_authority(**fields: object) -> Authority:
    return Authority(root=create_root("cluster.local", NOW), trust_domain="cluster.local", lifetime=DAY, **fields)  # type: ignore[arg-type]  # tests name real fields


def leaf_of(chain: tuple[str, ...] | list[str]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(chain[0].encode())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def self_signed(
    key: PrivateKey, *, ca: bool, begins: datetime = NOW - DAY, ends: datetime = NOW + DAY
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "test")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def signed_by(parent: x509.Certificate, parent_key: PrivateKey, key: PrivateKey) -> x509.Certificate:
    """An intermediate authority."""
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "intermediate")]))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .serial_number(8)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(parent_key, hashes.SHA256())
    )
