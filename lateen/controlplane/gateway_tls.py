"""TLS that gateways terminate: certificates from Secrets over ADS, from files, or the mesh's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from lateen.controlplane import matchers, names, tls_contexts
from lateen.controlplane.findings import TranslationError
from lateen.controlplane.protos import FALSE, TRUE, ads
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from lateen.mesh import gatewayapi
from lateen.mesh.gateway import ServerTLSmode, ServerTLSSettings, TLSProtocol
from lateen.mesh.kinds import ResourceKey

HTTP_ALPN = ("h2", "http/1.1")
_VERSIONS = {
    TLSProtocol.TLSV1_0: common_pb2.TlsParameters.TLSv1_0,
    TLSProtocol.TLSV1_1: common_pb2.TlsParameters.TLSv1_1,
    TLSProtocol.TLSV1_2: common_pb2.TlsParameters.TLSv1_2,
    TLSProtocol.TLSV1_3: common_pb2.TlsParameters.TLSv1_3,
}
_KNOWN_CIPHERS = frozenset(
    {
        *("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        *("ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"),
        *("ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA", "ECDHE-RSA-AES256-SHA"),
        *("AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA"),
    }
)


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class SecretRef:
    """A Secret that a listener names: its certificate and key, or the roots for client certificates."""

    namespace: str
    name: str
    roots: bool = False


Want = Callable[[SecretRef], None]
"""Called for every Secret a listener names; raises TranslationError when it cannot be served."""


def istio_context(
    settings: ServerTLSSettings, namespace: str, trust_domains: Sequence[str], want: Want, alpn: Sequence[str]
) -> tls_pb2.DownstreamTlsContext:
    """The TLS of an Istio Gateway's server; Secrets are those of the gateway workload's namespace."""
    if settings.mode == ServerTLSmode.ISTIO_MUTUAL:
        return tls_contexts.downstream_mesh(trust_domains, alpn)
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
    params.cipher_suites.extend(c for c in settings.cipher_suites if c in _KNOWN_CIPHERS)


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
    gateway: gatewayapi.Gateway,
    listener: gatewayapi.Listener,
    granted: Callable[[str, str], bool],
    want: Want,
    alpn: Sequence[str],
) -> tls_pb2.DownstreamTlsContext:
    """The TLS of a Gateway API listener; a Secret of another namespace needs a ReferenceGrant."""
    context = tls_pb2.DownstreamTlsContext(require_client_certificate=FALSE)
    common = context.common_tls_context
    common.alpn_protocols.extend(alpn)
    common.tls_params.tls_minimum_protocol_version = common_pb2.TlsParameters.TLSv1_2
    for ref in listener.tls.certificate_refs if listener.tls is not None else ():
        namespace = ref.namespace or gateway.namespace
        if ref.kind != "Secret" or ref.group not in {"", "core"}:
            raise TranslationError(f"certificateRef {ref.kind}/{ref.name} is not a Secret")
        if not granted(namespace, ref.name):
            raise TranslationError(f"no ReferenceGrant lets {gateway.namespace} use secret {namespace}/{ref.name}")
        _secret(common, namespace, ref.name, want)
    if not common.tls_certificate_sds_secret_configs:
        raise TranslationError("listener has no certificateRefs")
    _frontend_validation(context, gateway, listener, want)
    return context


def _frontend_validation(
    context: tls_pb2.DownstreamTlsContext, gateway: gatewayapi.Gateway, listener: gatewayapi.Listener, want: Want
) -> None:
    tls = gateway.spec.tls
    if tls is None or tls.frontend is None:
        return
    chosen = next((p.tls for p in tls.frontend.per_port if p.port == listener.port), tls.frontend.default)
    if chosen.validation is None:
        return
    ref = chosen.validation.ca_certificate_refs[0]
    if ref.kind != "Secret":
        raise TranslationError(f"caCertificateRef {ref.kind}/{ref.name} is not a Secret")
    namespace = ref.namespace or gateway.namespace
    want(SecretRef(namespace, ref.name, roots=True))
    combined = context.common_tls_context.combined_validation_context
    combined.default_validation_context.SetInParent()
    roots = tls_contexts.secret(names.secret_name(namespace, ref.name, ca=True), ads())
    combined.validation_context_sds_secret_config.CopyFrom(roots)
    strict = chosen.validation.mode == gatewayapi.FrontendValidationMode.ALLOW_VALID_ONLY
    context.require_client_certificate.CopyFrom(TRUE if strict else FALSE)
    if not strict:
        combined.default_validation_context.trust_chain_verification = (
            common_pb2.CertificateValidationContext.ACCEPT_UNTRUSTED
        )


def origins_of(refs: Iterable[SecretRef]) -> list[ResourceKey]:
    """The Secrets' keys."""
    return [ResourceKey("Secret", ref.namespace, ref.name) for ref in refs]
