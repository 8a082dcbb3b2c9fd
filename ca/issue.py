"""A workload's certificate, built and signed. Pure but for the serial number and the signature's randomness."""

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca.identity import Identity
from ca.root import CLOCK_SKEW, Root
from ca.signing import WorkloadKey


def issue_certificate(  # noqa: PLR0917 - all of them decide what is signed
    root: Root, key: WorkloadKey, identity: Identity, trust_domain: str, now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """Sign a leaf for `key`: SPIFFE URI first, then the registered DNS names; never valid longer than its issuer."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.spiffe_id(trust_domain))]
    names += [x509.DNSName(name) for name in identity.dns_names]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(root.issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - CLOCK_SKEW, root.issuer.not_valid_before_utc))
        .not_valid_after(min(now + lifetime, root.issuer.not_valid_after_utc, root.anchor.not_valid_after_utc))
        # Critical, as SPIFFE's X.509-SVID and RFC 5280 want it where the subject is empty.
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(key), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key()), critical=False)
        .sign(root.key, hashes.SHA256())
    )


def chain_pem(leaf: x509.Certificate, root: Root) -> list[str]:
    """The answer's order: leaf, intermediates, root last."""
    return [each.public_bytes(serialization.Encoding.PEM).decode() for each in (leaf, *root.chain)]


def _usage(key: WorkloadKey) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=isinstance(key, rsa.RSAPublicKey),
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
