"""TLS that gateways terminate: certificates from Secrets over ADS, from files, or the mesh's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from lateen.controlplane import matchers, names, tls_contexts
from lateen.controlplane.findings import TranslationError
from lateen.controlplane.protos import FALSE, TRUE, ads
from lateen.controlplane.secrets import check_certificates
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from lateen.mesh import gatewayapi
from lateen.mesh.gateway import ServerTLSmode, ServerTLSSettings, TLSProtocol
from lateen.mesh.gateway_attachment import ListenerStatus
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.kubernetes import ConfigMap
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView

HTTP_ALPN = ("h2", "http/1.1")
_VERSIONS = {
    TLSProtocol.TLSV1_0: common_pb2.TlsParameters.TLSv1_0,
    TLSProtocol.TLSV1_1: common_pb2.TlsParameters.TLSv1_1,
    TLSProtocol.TLSV1_2: common_pb2.TlsParameters.TLSv1_2,
    TLSProtocol.TLSV1_3: common_pb2.TlsParameters.TLSv1_3,
}


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class SecretRef:
    """A Secret that a listener names: its certificate and key, or the roots for client certificates."""

    namespace: str
    name: str
    roots: bool = False


Want = Callable[[SecretRef], None]
"""Called for every Secret a listener names; raises TranslationError when it cannot be served."""


def istio_context(
    settings: ServerTLSSettings, namespace: str, mesh: MeshConfig, want: Want, alpn: Sequence[str]
) -> tls_pb2.DownstreamTlsContext:
    """The TLS of an Istio Gateway's server; Secrets are those of the gateway workload's namespace."""
    if settings.mode == ServerTLSmode.ISTIO_MUTUAL:
        return tls_contexts.downstream_mesh(mesh, alpn)
    context = tls_pb2.DownstreamTlsContext(require_client_certificate=FALSE)
    common = context.common_tls_context
    common.alpn_protocols.extend(alpn)
    _parameters(common.tls_params, settings)
    credentials = settings.credential_names or ((settings.credential_name,) if settings.credential_name else ())
    for credential in credentials:
        _secret(common, namespace, credential.removeprefix("kubernetes://"), want)
    for pair in settings.tls_certificates:
        _files(common, pair.server_certificate, pair.private_key)
    if not credentials and not settings.tls_certificates:
        _files(common, settings.server_certificate, settings.private_key)
    if settings.mode in {ServerTLSmode.MUTUAL, ServerTLSmode.OPTIONAL_MUTUAL}:
        context.require_client_certificate.value = settings.mode == ServerTLSmode.MUTUAL
        _client_validation(common, settings, namespace, credentials, want)
    return context


def _parameters(params: common_pb2.TlsParameters, settings: ServerTLSSettings) -> None:
    params.tls_minimum_protocol_version = common_pb2.TlsParameters.TLSv1_2
    if settings.min_protocol_version in _VERSIONS:
        params.tls_minimum_protocol_version = _VERSIONS[settings.min_protocol_version]
    if settings.max_protocol_version in _VERSIONS:
        params.tls_maximum_protocol_version = _VERSIONS[settings.max_protocol_version]
    params.cipher_suites.extend(c for c in settings.cipher_suites if c in tls_contexts.KNOWN_CIPHERS)


def _secret(common: tls_pb2.CommonTlsContext, namespace: str, name: str, want: Want) -> None:
    want(SecretRef(namespace, name))
    common.tls_certificate_sds_secret_configs.append(tls_contexts.secret(names.secret_name(namespace, name), ads()))


def _files(common: tls_pb2.CommonTlsContext, certificate: str | None, key: str | None) -> None:
    if not certificate or not key:
        raise TranslationError("tls has neither credentialName nor serverCertificate and privateKey")
    common.tls_certificates.add(
        certificate_chain=base_pb2.DataSource(filename=certificate), private_key=base_pb2.DataSource(filename=key)
    )


def _client_validation(
    common: tls_pb2.CommonTlsContext,
    settings: ServerTLSSettings,
    namespace: str,
    credentials: Sequence[str],
    want: Want,
) -> None:
    """Client certificates: issued by these roots, and meeting every constraint that is set."""
    rules = common_pb2.CertificateValidationContext(
        verify_certificate_spki=settings.verify_certificate_spki,
        verify_certificate_hash=settings.verify_certificate_hash,
    )
    for name in settings.subject_alt_names:
        kind = common_pb2.SubjectAltNameMatcher.URI if "://" in name else common_pb2.SubjectAltNameMatcher.DNS
        rules.match_typed_subject_alt_names.add(san_type=kind, matcher=matchers.exact(name))
    if settings.ca_cert_credential_name or credentials:
        name = (settings.ca_cert_credential_name or credentials[0]).removeprefix("kubernetes://")
        want(SecretRef(namespace, name, roots=True))
        combined = common.combined_validation_context
        combined.default_validation_context.CopyFrom(rules)
        roots = tls_contexts.secret(names.secret_name(namespace, name, ca=True), ads())
        combined.validation_context_sds_secret_config.CopyFrom(roots)
        return
    if not settings.ca_certificates:
        raise TranslationError("mode MUTUAL needs caCertificates or credentialName")
    rules.trusted_ca.filename = settings.ca_certificates
    if settings.ca_crl:
        rules.crl.filename = settings.ca_crl
    common.validation_context.CopyFrom(rules)


def k8s_context(
    gateway: gatewayapi.Gateway, status: ListenerStatus, view: MeshView, want: Want, alpn: Sequence[str]
) -> tls_pb2.DownstreamTlsContext:
    """The TLS of a Gateway API listener, with the Secrets that it may use."""
    context = tls_pb2.DownstreamTlsContext(require_client_certificate=FALSE)
    common = context.common_tls_context
    common.alpn_protocols.extend(alpn)
    common.tls_params.tls_minimum_protocol_version = common_pb2.TlsParameters.TLSv1_2
    for namespace, name in status.certificates:
        _secret(common, namespace, name, want)
    if not common.tls_certificate_sds_secret_configs:
        raise TranslationError(status.message or f"listener {status.listener.name} has no certificate that it may use")
    _frontend_validation(context, gateway, status.listener.port, view)
    return context


def _frontend_validation(
    context: tls_pb2.DownstreamTlsContext, gateway: gatewayapi.Gateway, port: int, view: MeshView
) -> None:
    """Client certificates, checked against the roots of ConfigMaps."""
    tls = gateway.spec.tls
    if tls is None or tls.frontend is None:
        return
    chosen = next((p.tls for p in tls.frontend.per_port if p.port == port), tls.frontend.default)
    if chosen.validation is None:
        return
    roots = "".join(_roots(view, gateway, ref) for ref in chosen.validation.ca_certificate_refs)
    rules = context.common_tls_context.validation_context
    rules.trusted_ca.inline_string = roots
    strict = chosen.validation.mode == gatewayapi.FrontendValidationMode.ALLOW_VALID_ONLY
    context.require_client_certificate.CopyFrom(TRUE if strict else FALSE)
    if not strict:
        rules.trust_chain_verification = common_pb2.CertificateValidationContext.ACCEPT_UNTRUSTED


def _roots(view: MeshView, gateway: gatewayapi.Gateway, ref: gatewayapi.ObjectReference) -> str:
    namespace = ref.namespace or gateway.namespace
    if ref.kind != "ConfigMap" or ref.group:
        raise TranslationError(f"caCertificateRef {ref.kind}/{ref.name} is not a ConfigMap")
    if not view.reference_granted("Gateway", gateway.namespace, "ConfigMap", namespace, ref.name):
        raise TranslationError(f"no ReferenceGrant lets {gateway.namespace} use ConfigMap {namespace}/{ref.name}")
    found = view.resource(ResourceKey("ConfigMap", namespace, ref.name))
    text = found.data.get("ca.crt", "") if isinstance(found, ConfigMap) else ""
    if not text:
        raise TranslationError(f"ConfigMap {namespace}/{ref.name} has no ca.crt")
    check_certificates(text.encode())
    return text if text.endswith("\n") else text + "\n"
