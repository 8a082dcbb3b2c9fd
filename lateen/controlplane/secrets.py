"""Kubernetes TLS Secrets as Envoy secrets, served to gateways over ADS."""

from __future__ import annotations

import base64
import binascii
import functools

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from lateen.controlplane import names
from lateen.controlplane.findings import TranslationError
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2
from lateen.mesh.kubernetes import Secret
from lateen.mesh.view import MeshView

_CERTIFICATE_KEYS = ("tls.crt", "cert")
_PRIVATE_KEYS = ("tls.key", "key")
_CA_KEYS = ("ca.crt", "cacert")
_CRL_KEYS = ("ca.crl", "crl")
_CA_SUFFIX = "-cacert"


def _value(secret: Secret, keys: tuple[str, ...]) -> bytes:
    for key in keys:
        if key in secret.string_data:
            return secret.string_data[key].encode()
        if key in secret.data:
            try:
                return base64.b64decode(secret.data[key], validate=False)
            except (binascii.Error, ValueError) as error:
                raise TranslationError(f"{key} is not base64") from error
    return b""


def server_certificate(view: MeshView, namespace: str, name: str) -> secret_pb2.Secret:
    """Certificate chain and key of a Secret; TranslationError says why it cannot be used."""
    found = _find(view, namespace, name)
    chain, key = _value(found, _CERTIFICATE_KEYS), _value(found, _PRIVATE_KEYS)
    if not chain or not key:
        raise TranslationError(f"secret {namespace}/{name} lacks {'tls.crt' if not chain else 'tls.key'}")
    _check_pair(chain, key)
    return secret_pb2.Secret(
        name=names.secret_name(namespace, name),
        tls_certificate=common_pb2.TlsCertificate(
            certificate_chain=base_pb2.DataSource(inline_bytes=chain), private_key=base_pb2.DataSource(inline_bytes=key)
        ),
    )


def trusted_roots(view: MeshView, namespace: str, name: str) -> secret_pb2.Secret:
    """The CA that client certificates must come from: in the Secret itself, or in the one called NAME-cacert."""
    candidates = [view.secret(namespace, name + _CA_SUFFIX), view.secret(namespace, name)]
    for found in candidates:
        roots = _value(found, _CA_KEYS) if found is not None else b""
        if found is not None and roots:
            check_certificates(roots)
            context = common_pb2.CertificateValidationContext(trusted_ca=base_pb2.DataSource(inline_bytes=roots))
            crl = _value(found, _CRL_KEYS)
            if crl:
                context.crl.inline_bytes = crl
            return secret_pb2.Secret(name=names.secret_name(namespace, name, ca=True), validation_context=context)
    raise TranslationError(
        f"secret {namespace}/{name} has no ca.crt, and there is no secret {name}{_CA_SUFFIX} with one"
    )


def _find(view: MeshView, namespace: str, name: str) -> Secret:
    found = view.secret(namespace, name)
    if found is None:
        raise TranslationError(f"secret {namespace}/{name} does not exist")
    return found


@functools.lru_cache(maxsize=1024)
def check_certificates(chain: bytes) -> None:
    """Raise TranslationError unless these are certificates in PEM."""
    try:
        x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise TranslationError("the certificate is not PEM") from error


@functools.lru_cache(maxsize=1024)
def _check_pair(chain: bytes, key: bytes) -> None:
    """Envoy refuses a secret whose key is not its certificate's; better that we do."""
    check_certificates(chain)
    leaf = x509.load_pem_x509_certificates(chain)[0]
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise TranslationError("the private key is not an unencrypted PEM key") from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise TranslationError("the private key does not belong to the certificate")
