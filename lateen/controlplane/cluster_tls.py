"""How connections of a cluster are secured: automatic mutual TLS, what a DestinationRule asks for, PROXY protocol around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lateen.controlplane import names, tls_contexts
from lateen.controlplane.endpoints import MTLS_MATCH
from lateen.controlplane.protos import packed, struct
from lateen.controlplane.scope import Scope
from lateen.controlplane.traffic_policies import HTTP_OPTIONS, EffectivePolicy, speaks_h2
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.core.v3 import base_pb2, proxy_protocol_pb2
from lateen.envoyapi.envoy.extensions.transport_sockets.proxy_protocol.v3 import upstream_proxy_protocol_pb2
from lateen.envoyapi.envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_options
from lateen.mesh import destinationrule as dr
from lateen.mesh.services import Endpoint, Service, ServicePort

_Cluster = cluster_pb2.Cluster


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """What a cluster connects to, under which policy."""

    service: Service
    port: ServicePort
    subset: str
    policy: EffectivePolicy


def apply_tls(cluster: _Cluster, scope: Scope, target: Target, endpoints: Sequence[Endpoint]) -> None:
    """Automatic mutual TLS, unless the DestinationRule says something about TLS."""
    view, service, settings = scope.view, target.service, target.policy.tls
    sni = names.outbound_sni(service.hostname, target.port.number, target.subset)
    h2, alpn = _protocols(scope, target)
    known = {e.service_account_identity for e in endpoints if e.service_account_identity}
    aliases = view.mesh.trust_domain_aliases
    sans = tls_contexts.identities(known | set(service.subject_alt_names), view.trust_domain, aliases)
    if settings is None:
        if view.mesh.enable_auto_mtls and not service.external:
            _auto_mtls(cluster, tls_contexts.socket(tls_contexts.upstream_mesh(sans, sni, alpn)))
    elif settings.mode == dr.TLSmode.ISTIO_MUTUAL:
        context = tls_contexts.upstream_mesh(settings.subject_alt_names or sans, settings.sni or sni, alpn)
        cluster.transport_socket.CopyFrom(tls_contexts.socket(context))
    elif settings.mode in {dr.TLSmode.SIMPLE, dr.TLSmode.MUTUAL}:
        context = tls_contexts.upstream_origination(settings, service.subject_alt_names, scope.namespace, h2=h2)
        cluster.transport_socket.CopyFrom(tls_contexts.socket(context))
        _auto_sni(cluster, settings, service)
    if target.policy.proxy_protocol is not None:
        _proxy_protocol(cluster, target.policy.proxy_protocol)


def _protocols(scope: Scope, target: Target) -> tuple[bool, tuple[str, ...]]:
    """Whether HTTP/2 is spoken for certain, and what ALPN to offer to a sidecar."""
    pool, protocol = target.policy.connection_pool, target.port.protocol
    http = pool.http if pool is not None and pool.http is not None else dr.HTTPSettings()
    h2 = speaks_h2(protocol, http.h2_upgrade_policy, h2_by_default=scope.view.mesh.h2_upgrade_policy == "UPGRADE")
    open_protocol = bool(http.use_client_protocol) or protocol.is_sniffed
    return h2, tls_contexts.mesh_alpn(h2=h2, http=protocol.is_http, sniffed=open_protocol)


def _auto_mtls(cluster: _Cluster, mutual: base_pb2.TransportSocket) -> None:
    """Mutual TLS to endpoints whose metadata says that they speak it, plaintext to the others."""
    cluster.transport_socket_matches.add(name="tlsMode-istio", match=struct(dict(MTLS_MATCH)), transport_socket=mutual)
    cluster.transport_socket_matches.add(
        name="tlsMode-disabled", match=struct({}), transport_socket=tls_contexts.plaintext()
    )


def _auto_sni(cluster: _Cluster, settings: dr.ClientTLSSettings, service: Service) -> None:
    """Without `sni`, the request's host is the SNI; without SANs, it is what the certificate must name."""
    if settings.sni or HTTP_OPTIONS not in cluster.typed_extension_protocol_options:
        return
    options = http_options.HttpProtocolOptions()
    cluster.typed_extension_protocol_options[HTTP_OPTIONS].Unpack(options)
    options.upstream_http_protocol_options.auto_sni = True
    checked = not settings.insecure_skip_verify
    if checked and not settings.subject_alt_names and not service.subject_alt_names:
        options.upstream_http_protocol_options.auto_san_validation = True
    cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(packed(options))


def _proxy_protocol(cluster: _Cluster, settings: dr.ProxyProtocol) -> None:
    """PROXY protocol inside of the transport sockets that the cluster has."""
    version = proxy_protocol_pb2.ProxyProtocolConfig.V1
    if settings.version == dr.ProxyProtocolVersion.V2:
        version = proxy_protocol_pb2.ProxyProtocolConfig.V2

    def wrapped(inner: base_pb2.TransportSocket) -> base_pb2.TransportSocket:
        outer = upstream_proxy_protocol_pb2.ProxyProtocolUpstreamTransport(
            config=proxy_protocol_pb2.ProxyProtocolConfig(version=version), transport_socket=inner
        )
        return base_pb2.TransportSocket(
            name="envoy.transport_sockets.upstream_proxy_protocol", typed_config=packed(outer)
        )

    for match in cluster.transport_socket_matches:
        match.transport_socket.CopyFrom(wrapped(match.transport_socket))
    if not cluster.transport_socket_matches:
        inner = cluster.transport_socket if cluster.HasField("transport_socket") else tls_contexts.plaintext()
        cluster.transport_socket.CopyFrom(wrapped(inner))
