"""A certificate authority for tests: mesh identities with their SPIFFE id, and the DNS name of our own services."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lateen.adsclient.tls import TlsMaterial


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: str
    key: str


class TestAuthority:
    """A root and what it signs."""

    __test__ = False

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        usage = x509.KeyUsage(*(flag in {0, 5, 6} for flag in range(9)))
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.root = certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, spiffe_id: str, *dns_names: str) -> Pair:
        """A certificate for an identity, good for servers and clients."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(spiffe_id)] if spiffe_id else []
        certificate = (
            self._builder(x509.Name([]), key.public_key())
            .add_extension(x509.SubjectAlternativeName([*names, *map(x509.DNSName, dns_names)]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(certificate.public_bytes(serialization.Encoding.PEM).decode(), pem.decode())

    def material(self, spiffe_id: str, *dns_names: str) -> TlsMaterial:
        """The same with the root, as our services hold it."""
        pair = self.issue(spiffe_id, *dns_names)
        return TlsMaterial(pair.certificate.encode(), pair.key.encode(), self.root.encode())

    def channel(self, address: str, spiffe_id: str, server_name: str) -> grpc.aio.Channel:
        """A channel of this client to the server of that DNS name."""
        own = self.material(spiffe_id)
        credentials = grpc.ssl_channel_credentials(own.roots_pem, own.key_pem, own.cert_chain_pem)
        return grpc.aio.secure_channel(address, credentials, [("grpc.ssl_target_name_override", server_name)])

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )


@dataclass(frozen=True)
class FixedIdentity:
    """A certificate that does not change, as `SdsIdentity` would give it."""

    current: TlsMaterial

    def server_credentials(self) -> grpc.ServerCredentials:
        pair = [(self.current.key_pem, self.current.cert_chain_pem)]
        return grpc.ssl_server_credentials(pair, self.current.roots_pem, require_client_auth=True)
