"""TLS of connections: mutual TLS between workloads, TLS origination, and what gateways terminate."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from lateen.controlplane import matchers, names
from lateen.controlplane.protos import TRUE, ads, packed, sds
from lateen.envoyapi.envoy.config.core.v3 import base_pb2, config_source_pb2
from lateen.envoyapi.envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from lateen.envoyapi.envoy.type.matcher.v3 import string_pb2
from lateen.mesh import destinationrule as dr
from lateen.mesh.gateway import TLSProtocol
from lateen.mesh.identity import SpiffeId
from lateen.mesh.meshconfig import MeshConfig, TLSConfig

TLS = "envoy.transport_sockets.tls"
RAW = "envoy.transport_sockets.raw_buffer"
MESH_ALPN = ("istio-peer-exchange", "istio", "istio-http/1.0", "istio-http/1.1", "istio-h2")
MESH_HTTP_ALPN = ("istio-http/1.0", "istio-http/1.1", "istio-h2")
MESH_TCP_ALPN = ("istio-peer-exchange", "istio")
_CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
KNOWN_CIPHERS = frozenset(
    {
        *("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        *("ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"),
        *("ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA", "ECDHE-RSA-AES256-SHA"),
        *("AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA"),
    }
)
_San = common_pb2.SubjectAltNameMatcher
_SECURE = common_pb2.TlsParameters(
    tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_2, cipher_suites=_CIPHERS
)


def secret(name: str, source: config_source_pb2.ConfigSource | None = None) -> secret_pb2.SdsSecretConfig:
    """A secret by name, from the agent unless another source is given."""
    return secret_pb2.SdsSecretConfig(name=name, sds_config=source or sds())


@functools.cache  # shared: wherever it is set it is copied, and nobody edits it
def plaintext() -> base_pb2.TransportSocket:
    """No TLS."""
    return base_pb2.TransportSocket(name=RAW, typed_config=packed(raw_buffer_pb2.RawBuffer()))


def socket(context: tls_pb2.UpstreamTlsContext | tls_pb2.DownstreamTlsContext) -> base_pb2.TransportSocket:
    """A TLS transport socket."""
    return base_pb2.TransportSocket(name=TLS, typed_config=packed(context))


# Between workloads


@functools.cache
def _identity() -> secret_pb2.SdsSecretConfig:
    return secret(names.SDS_IDENTITY)


@functools.cache
def _mesh_roots() -> secret_pb2.SdsSecretConfig:
    return secret(names.SDS_ROOTS)


def identities(uris: Iterable[str], trust_domain: str, aliases: Sequence[str]) -> list[str]:
    """SPIFFE URIs, those of our trust domain repeated for each alias."""
    result: dict[str, None] = {}
    domains = (trust_domain, *aliases)
    for uri in sorted(set(uris)):
        result[uri] = None
        try:
            identity = SpiffeId.parse(uri)
        except ValueError:
            continue
        if identity.trust_domain in domains:
            for domain in domains:
                result[str(SpiffeId(domain, identity.namespace, identity.service_account))] = None
    return list(result)


def upstream_mesh(sans: Sequence[str], sni: str, alpn: Sequence[str]) -> tls_pb2.UpstreamTlsContext:
    """Mutual TLS to a workload whose certificate has one of these SANs; the server decides on versions and ciphers."""
    context = tls_pb2.UpstreamTlsContext(sni=sni)
    common = context.common_tls_context
    common.tls_certificate_sds_secret_configs.append(_identity())
    combined = common.combined_validation_context
    combined.default_validation_context.match_typed_subject_alt_names.extend(_sans(sans))
    combined.validation_context_sds_secret_config.CopyFrom(_mesh_roots())
    common.alpn_protocols.extend(alpn)
    return context


def _sans(values: Iterable[str]) -> list[_San]:
    """Exact SANs: a URI when it looks like one, else a DNS name."""
    return [_San(san_type=_San.URI if "://" in value else _San.DNS, matcher=matchers.exact(value)) for value in values]


def mesh_parameters(settings: TLSConfig | None) -> common_pb2.TlsParameters:
    """TLS between workloads: the mesh's own settings over ours."""
    result = common_pb2.TlsParameters()
    result.CopyFrom(_SECURE)
    if settings is not None and settings.min_protocol_version == TLSProtocol.TLSV1_3:
        result.tls_minimum_protocol_version = common_pb2.TlsParameters.TLSv1_3
    if settings is not None and settings.cipher_suites:
        del result.cipher_suites[:]
        result.cipher_suites.extend(c for c in settings.cipher_suites if c in KNOWN_CIPHERS)
    if settings is not None:
        result.ecdh_curves.extend(settings.ecdh_curves)
    return result


def downstream_mesh(mesh: MeshConfig, alpn: Sequence[str]) -> tls_pb2.DownstreamTlsContext:
    """Mutual TLS from a workload of one of our trust domains."""
    context = tls_pb2.DownstreamTlsContext(require_client_certificate=TRUE)
    common = context.common_tls_context
    common.tls_params.CopyFrom(mesh_parameters(mesh.mesh_mtls))
    common.tls_certificate_sds_secret_configs.append(_identity())
    combined = common.combined_validation_context
    for domain in (mesh.trust_domain, *mesh.trust_domain_aliases):
        prefix = string_pb2.StringMatcher(prefix=f"spiffe://{domain}/")
        combined.default_validation_context.match_typed_subject_alt_names.add(san_type=_San.URI, matcher=prefix)
    combined.validation_context_sds_secret_config.CopyFrom(_mesh_roots())
    common.alpn_protocols.extend(alpn)
    return context


def mesh_alpn(*, h2: bool, http: bool, sniffed: bool) -> tuple[str, ...]:
    """What a client offers: the server picks its filter chain by `istio...`, and the protocol by the last ones.

    Where the client's protocol decides, no `h2` or `http/1.1` is offered, so the server finds out by the preface. A sniffed port that turns
    out to carry no HTTP overrides this (`filters.upstream_alpn`).
    """
    if sniffed:
        return ("istio-http/1.1", "istio")
    if h2:
        return ("istio-h2", "istio", "h2")
    return ("istio-http/1.1", "istio", "http/1.1") if http else ("istio",)


# Origination


def upstream_origination(
    settings: dr.ClientTLSSettings, sans: Sequence[str], namespace: str, *, h2: bool
) -> tls_pb2.UpstreamTlsContext:
    """SIMPLE or MUTUAL TLS to a server outside of the mesh."""
    context = tls_pb2.UpstreamTlsContext(sni=settings.sni or "")
    common = context.common_tls_context
    common.tls_params.CopyFrom(_SECURE)
    if h2:
        common.alpn_protocols.append("h2")
    expected = _sans(settings.subject_alt_names or sans)
    if settings.credential_name:
        credential = settings.credential_name.removeprefix("kubernetes://")
        if settings.mode == dr.TLSmode.MUTUAL:
            common.tls_certificate_sds_secret_configs.append(secret(names.secret_name(namespace, credential), ads()))
        combined = common.combined_validation_context
        combined.default_validation_context.match_typed_subject_alt_names.extend(expected)
        roots = secret(names.secret_name(namespace, credential, ca=True), ads())
        combined.validation_context_sds_secret_config.CopyFrom(roots)
        return context
    if settings.mode == dr.TLSmode.MUTUAL:
        common.tls_certificates.add(
            certificate_chain=base_pb2.DataSource(filename=settings.client_certificate or ""),
            private_key=base_pb2.DataSource(filename=settings.private_key or ""),
        )
    if settings.insecure_skip_verify:
        return context
    validation = common.validation_context
    if settings.ca_certificates and settings.ca_certificates != "system":
        validation.trusted_ca.filename = settings.ca_certificates
    else:
        validation.system_root_certs.SetInParent()
    if settings.ca_crl:
        validation.crl.filename = settings.ca_crl
    validation.match_typed_subject_alt_names.extend(expected)
    return context
