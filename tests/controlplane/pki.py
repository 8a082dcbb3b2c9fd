"""Certificates for tests, made here and independent of our own authority."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SERVER_NAME = "lateen-controlplane.istio-system.svc"
CONTROL_PLANE = "spiffe://cluster.local/ns/istio-system/sa/lateen-controlplane"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority of one test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        now = datetime.now(UTC)
        self._root = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def root(self) -> bytes:
        return self._root.public_bytes(serialization.Encoding.PEM)

    def issue(self, *uris: str, dns: str | None = None) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        if dns is not None:
            names.append(x509.DNSName(dns))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._root.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Pair(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def server(self) -> Pair:
        return self.issue(CONTROL_PLANE, dns=SERVER_NAME)

    def workload(self, namespace: str, service_account: str) -> Pair:
        return self.issue(f"spiffe://cluster.local/ns/{namespace}/sa/{service_account}")

    def write(self, folder: Path, pair: Pair) -> dict[str, str]:
        """The pair and the root as files, by what they are."""
        paths = {}
        for name, data in {"cert": pair.certificate, "key": pair.key, "root": self.root}.items():
            path = folder / f"{name}.pem"
            path.write_bytes(data)
            paths[name] = str(path)
        return paths
