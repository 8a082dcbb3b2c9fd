"""Certificates for connections with a peer identity: a CA for one run, thrown away with it."""

import datetime as dt
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from filters.testing.envoy_config import Certificates

LIFE = dt.timedelta(days=1)


class Authority:
    """Signs the listener's certificate and those of clients."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "filter tests")])
        builder = _builder(self._name, self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._certificate = builder.sign(self._key, hashes.SHA256())
        chain, key = self._issue(x509.DNSName("localhost"))
        self.listener = Certificates(chain, key, _pem(self._certificate))

    def client_context(self, identity: str) -> ssl.SSLContext:
        """For a client whose certificate has the URI `identity`."""
        chain, key = self._issue(x509.UniformResourceIdentifier(identity))
        context = ssl.create_default_context(cadata=self.listener.trusted)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "client.pem")
            path.write_text(chain + key)
            context.load_cert_chain(path)
        return context

    def _issue(self, name: x509.GeneralName) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peer")])
        builder = _builder(subject, self._name, key).add_extension(x509.SubjectAlternativeName([name]), critical=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return _pem(builder.sign(self._key, hashes.SHA256())), private.decode()


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LIFE)
        .not_valid_after(now + LIFE)
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
