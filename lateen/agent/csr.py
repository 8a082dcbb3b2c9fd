"""Certificate signing requests, and what an answer must be before it is believed. Pure."""

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_MAX_CHAIN = 10


class WrongCertificateError(ValueError):
    """The authority's answer is not a certificate for this proxy; the message says how it differs."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A certificate chain without its root, and the root, as PEM."""

    chain_pem: bytes
    root_pem: bytes
    not_after: datetime


def make_csr(key: ec.EllipticCurvePrivateKey, spiffe_id: str) -> bytes:
    """A PEM request that proves possession of `key`; the name is for the reader, the authority decides it."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def verify_answer(chain: tuple[str, ...], key: ec.EllipticCurvePrivateKey, spiffe_id: str, now: datetime) -> Verified:
    """Check that the chain is ours: our key, exactly our name, signed link by link, and valid now."""
    try:
        certificates = [each for part in chain[:_MAX_CHAIN] for each in x509.load_pem_x509_certificates(part.encode())]
        leaf, issuers = certificates[0], certificates[1:]
        if not issuers:
            raise WrongCertificateError("the answer holds no root")
        if leaf.public_key() != key.public_key():
            raise WrongCertificateError("the certificate is for another key")
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if uris != [spiffe_id]:
            raise WrongCertificateError(f"the certificate is for {', '.join(uris) or 'nobody'}, not for {spiffe_id}")
        for certificate, issuer in zip(certificates, [*issuers, issuers[-1]], strict=True):
            certificate.verify_directly_issued_by(issuer)
    except WrongCertificateError:
        raise
    except (ValueError, TypeError, IndexError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
        raise WrongCertificateError(f"the answer is not a certificate chain: {type(error).__name__}") from error
    if now >= leaf.not_valid_after_utc:
        raise WrongCertificateError("the certificate has expired already: do the clocks agree")
    return Verified(
        chain_pem=b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (leaf, *issuers[:-1])),
        root_pem=issuers[-1].public_bytes(serialization.Encoding.PEM),
        not_after=leaf.not_valid_after_utc,
    )


def merge_roots(trusted_pem: bytes, answered_pem: bytes) -> bytes:
    """The roots of the file and the authority's own, each once: during a change of roots both are trusted."""
    roots = [*x509.load_pem_x509_certificates(trusted_pem), *x509.load_pem_x509_certificates(answered_pem)]
    return b"".join(dict.fromkeys(each.public_bytes(serialization.Encoding.PEM) for each in roots))
