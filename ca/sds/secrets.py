"""Secrets as values: what is served under which name, and its encoding for Envoy. Keys appear in no repr, version or log."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from lateen.envoyapi.envoy.config.core.v3.base_pb2 import DataSource
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2

CERTIFICATE = "default"
"""Istio's name of the workload's own certificate and key."""

ROOTS = "ROOTCA"
"""Istio's name of the roots that peers must chain to."""

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type, not a secret


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate chain, leaf first, and its key, as PEM."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Roots:
    """Trust anchors as PEM."""

    pem: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A secret ready to be sent; the version is a hash of its public part."""

    name: str
    version: str
    data: bytes = field(repr=False)


def encode_secret(name: str, secret: Certificate | Roots) -> Entry:
    """The secret as Envoy's message."""
    if isinstance(secret, Certificate):
        public = secret.chain_pem
        message = secret_pb2.Secret(
            name=name,
            tls_certificate=common_pb2.TlsCertificate(
                certificate_chain=DataSource(inline_bytes=secret.chain_pem),
                private_key=DataSource(inline_bytes=secret.key_pem),
            ),
        )
    else:
        public = secret.pem
        message = secret_pb2.Secret(
            name=name,
            validation_context=common_pb2.CertificateValidationContext(trusted_ca=DataSource(inline_bytes=secret.pem)),
        )
    return Entry(name, hashlib.sha256(public).hexdigest()[:16], message.SerializeToString(deterministic=True))


class SecretTable:
    """The secrets of one identity by name; listeners are called after each change."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._listeners: set[Callable[[], None]] = set()

    def put(self, name: str, secret: Certificate | Roots) -> bool:
        """Serve `secret` as `name` from now on; says whether that is a change."""
        entry = encode_secret(name, secret)
        if self._entries.get(name) == entry:
            return False
        self._entries[name] = entry
        for listener in tuple(self._listeners):
            listener()
        return True

    def get(self, name: str) -> Entry | None:
        """What is served as `name`, if anything yet."""
        return self._entries.get(name)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each change until the returned function is called."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)
