"""A proxy's whole configuration as references to interned blobs."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping

from lateen.controlplane import clusters, names
from lateen.controlplane.authorization import no_keys
from lateen.controlplane.blobs import Blob, Blobs
from lateen.controlplane.custom_authz import provider_services
from lateen.controlplane.extensions import Extensions
from lateen.controlplane.filters import service_cluster
from lateen.controlplane.findings import Finding, Findings
from lateen.controlplane.gateways import GatewayBuilder
from lateen.controlplane.inbound import InboundScope, inbound_clusters, inbound_listeners
from lateen.controlplane.listeners import Made, captured_listeners, explicit_listeners, routed_mapped_ports
from lateen.controlplane.native_jwt import KeysOf
from lateen.controlplane.plugin_ports import unmatched_ports, with_plugins_by_port
from lateen.controlplane.plugins import ServingOf, WorkloadPlugins, nothing_served
from lateen.controlplane.proxy import Mode, Proxy, ProxyClass, ProxyType
from lateen.controlplane.references import check_references
from lateen.controlplane.scope import Scope, mentioned_labels
from lateen.controlplane.telemetry import Peer, peer_of
from lateen.controlplane.virtual_hosts import (
    HostBuilder,
    http_ports,
    port_route_configuration,
    proxy_route_configuration,
    service_route_configuration,
)
from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.hosts import service_host
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.plugins import plugins_of
from lateen.mesh.services import Service
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload

_PATH_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
UNTRANSLATABLE = "LTN0301"


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """Every resource of one proxy, by type URL and name. `version` is a hash of the content."""

    version: str
    resources: Mapping[str, Mapping[str, Blob]]
    diagnostics: tuple[Diagnostic, ...] = ()

    @classmethod
    def of(cls, blobs: Iterable[Blob], diagnostics: Iterable[Diagnostic] = ()) -> Snapshot:
        """Group blobs by type, sorted by name, and hash them into the version."""
        by_type: dict[str, dict[str, Blob]] = {}
        for blob in sorted(blobs, key=lambda b: (b.type_url, b.name)):
            by_type.setdefault(blob.type_url, {})[blob.name] = blob
        digest = hashlib.blake2b(digest_size=12)
        for type_url, named in by_type.items():
            for name, blob in named.items():
                digest.update(f"{type_url}\0{name}\0{blob.hash}\n".encode())
        return cls(digest.hexdigest(), by_type, tuple(diagnostics))

    def check(self) -> None:
        """Raise ValueError when a listener names a route, or a route a cluster, that is absent (our bug, never the user's)."""
        problems = check_references(self.resources)
        if problems:
            raise ValueError("; ".join(problems))


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """Blobs made once for a class of proxies."""

    blobs: tuple[Blob, ...]
    findings: tuple[Finding, ...]


class _ViewMemo:
    """What proxies share while the view stays the same. Each entry is a function of its key and the view."""

    def __init__(
        self, view: MeshView, blobs: Blobs, keys: KeysOf = no_keys, extensions: Extensions | None = None
    ) -> None:
        self.view = view
        self.blobs = blobs
        self.keys = keys
        self.extensions = extensions or Extensions(blobs)
        self._labels = mentioned_labels(view)
        self._parts: dict[ProxyClass, tuple[_Part, Scope]] = {}
        self._listeners: dict[tuple[ProxyClass, Peer, WorkloadPlugins], tuple[Blob, ...]] = {}
        self._clusters: dict[tuple[object, ...], tuple[_Part, object]] = {}

    def labels(self, proxy: Proxy) -> dict[str, str]:
        """Those of a proxy's labels on which its configuration can depend."""
        return {key: value for key, value in sorted(proxy.labels.items()) if key in self._labels}

    def part(self, proxy: Proxy, workload: Workload | None) -> tuple[_Part, Scope]:
        """The outbound part of the proxy's class."""
        labels = self.labels(proxy)
        locality, network = (workload.locality, workload.network) if workload is not None else ("", "")
        key = ProxyClass(proxy.namespace, tuple(labels.items()), proxy.mode, locality, network)
        if key not in self._parts:
            scope = Scope(self.view, proxy.namespace, labels, proxy.mode, locality=locality)
            self._parts[key] = _outbound(scope, self), scope
        part, scope = self._parts[key]
        peer, plugins = peer_of(self.view, workload), WorkloadPlugins(plugins_of(self.view, workload))
        own = scope.of_workload(peer, plugins)
        if proxy.mode == Mode.REDIRECT:
            mine = (key, peer, plugins)
            if mine not in self._listeners:
                self._listeners[mine] = tuple(_listener_blobs(self.blobs, captured_listeners(own)))
            part = dataclasses.replace(part, blobs=part.blobs + self._listeners[mine])
        return part, own

    def clusters(self, scope: Scope, services: Iterable[Service]) -> list[Blob]:
        """Clusters and endpoints of services: the same for all clients that see a service under the same rule."""
        made: list[Blob] = []
        client = (scope.mode, scope.gateway, scope.locality, tuple(sorted(scope.labels.items())))
        for service in services:
            merged = scope.rule(service.hostname)
            namespace = (
                scope.namespace if merged is not None else ""
            )  # a rule may name Secrets of the client's namespace
            key = (id(service), id(merged), namespace, *client)
            if key not in self._clusters:
                before = set(scope.findings)
                found = tuple(_service_blobs(scope, self.blobs, service))
                findings = tuple(f for f in scope.findings if f not in before)
                self._clusters[key] = _Part(found, findings), (service, merged)  # held, so that ids stay theirs
            part = self._clusters[key][0]
            scope.findings.extend(iter(part.findings))
            made.extend(part.blobs)
        return made


class Memo:
    """What snapshots of one control plane share: the interner for ever, translated parts for the newest view."""

    def __init__(self, blobs: Blobs | None = None, keys: KeysOf = no_keys, serving: ServingOf = nothing_served) -> None:
        self.blobs = blobs if blobs is not None else Blobs()
        self.keys = keys
        self.extensions = Extensions(self.blobs, serving)
        self._newest: _ViewMemo | None = None

    def of(self, view: MeshView) -> _ViewMemo:
        """The parts made from `view`; those of another view are forgotten (their blobs live while someone holds them)."""
        if self._newest is None or self._newest.view is not view:
            self._newest = _ViewMemo(view, self.blobs, self.keys, self.extensions)
        return self._newest


def snapshot_for(view: MeshView, proxy: Proxy, memo: Memo | None = None) -> Snapshot:
    """Everything `proxy` needs, translated from `view`. Pure: `memo` only saves time."""
    shared = (memo if memo is not None else Memo()).of(view)
    workload = view.workload(proxy.namespace, proxy.name)
    if proxy.type == ProxyType.SIDECAR:
        return _sidecar(proxy, workload, shared)
    if proxy.type == ProxyType.ROUTER and workload is not None:
        return _gateway(proxy, workload, shared)
    return Snapshot.of(())


# Sidecars


def _sidecar(proxy: Proxy, workload: Workload | None, shared: _ViewMemo) -> Snapshot:
    part, scope = shared.part(proxy, workload)
    view, blobs = shared.view, shared.blobs
    own = list(part.blobs)
    findings = list(part.findings)
    if proxy.mode == Mode.NONE:
        findings.extend(unmatched_ports(scope))
        own = with_plugins_by_port(own, scope.plugins, blobs)
        own.extend(_listener_blobs(blobs, explicit_listeners(scope, proxy)))
    own.extend(shared.extensions.blobs(scope.plugins.plugins, proxy))
    if workload is not None:
        inbound = InboundScope.of(view, proxy, workload, shared.keys)
        own.extend(_listener_blobs(blobs, inbound_listeners(inbound)))
        own.extend(blobs.intern(names.CDS, c.name, c, origins) for c, origins in inbound_clusters(inbound))
    return Snapshot.of(_without_port_clashes(own), diagnostics(view, findings))


def _without_port_clashes(blobs: list[Blob]) -> list[Blob]:
    """Of two listeners with one name (an inbound port that is also a mapped port) the later, inbound one stays."""
    chosen = {(blob.type_url, blob.name): blob for blob in blobs}
    return list(chosen.values())


def _listener_blobs(blobs: Blobs, made: Iterable[Made]) -> list[Blob]:
    return [blobs.intern(names.LDS, m.listener.name, m.listener, m.origins) for m in made]


def _outbound(scope: Scope, shared: _ViewMemo) -> _Part:
    """Routes, clusters and endpoints. Listeners are made by workload, but the clusters they name are noted here."""
    made: list[Blob] = []
    blobs = shared.blobs
    builder = HostBuilder(scope)
    if scope.mode == Mode.REDIRECT:
        configurations = [port_route_configuration(builder, port) for port in http_ports(scope)]
        list(captured_listeners(scope))
    else:
        configurations = [service_route_configuration(builder, s, port) for s, port in routed_mapped_ports(scope)]
        configurations.append(proxy_route_configuration(builder))
        list(explicit_listeners(scope, Proxy("", ProxyType.SIDECAR, "", "", "127.0.0.1")))
    made.extend(blobs.intern(names.RDS, c.name, c) for c in configurations)
    made.extend(shared.clusters(scope, _with_ours(scope, scope.services)))
    made.extend(_built_in(scope, blobs))
    made.extend(_unknown(scope, blobs, made))
    return _Part(tuple(made), tuple(scope.findings))


def _service_blobs(scope: Scope, blobs: Blobs, service: Service) -> Iterator[Blob]:
    with scope.findings.guard(service.origin):
        for item in clusters.service_clusters(scope, service):
            yield blobs.intern(names.CDS, item.cluster.name, item.cluster, item.origins)
            if item.endpoints is not None:
                yield blobs.intern(names.EDS, item.cluster.name, item.endpoints, item.origins)


def _with_ours(scope: Scope, services: Iterable[Service]) -> list[Service]:
    """Services of the scope, and those of ours that filters call, in whatever scope."""
    found = {service.hostname: service for service in services}
    for name, namespace, _ in (names.EXT_AUTHZ, names.RATE_LIMIT):
        host = service_host(name, namespace)
        if host not in found and host in scope.view.services:
            found[host] = scope.view.services[host]
    for service, _ in provider_services(scope.view):
        found.setdefault(service.hostname, service)
    return [found[host] for host in sorted(found)]


def _built_in(scope: Scope, blobs: Blobs) -> Iterable[Blob]:
    for cluster in (clusters.passthrough_cluster(scope.mode), clusters.empty_cluster(names.BLACK_HOLE)):
        yield blobs.intern(names.CDS, cluster.name, cluster)


def _unknown(scope: Scope, blobs: Blobs, made: Iterable[Blob]) -> list[Blob]:
    """Clusters that something names although nothing stands behind them: requests meet 503, not a refused push."""
    defined = {blob.name for blob in made if blob.type_url == names.CDS}
    ours: dict[str, tuple[ResourceKey, ...]] = {
        service_cluster(service): () for service in (names.EXT_AUTHZ, names.RATE_LIMIT)
    }
    wanted = {name: (origin,) for name, origin in scope.references.items()} | ours
    result = []
    for name in sorted(wanted.keys() - defined):
        cluster = clusters.empty_cluster(name, wanted[name])
        result.append(blobs.intern(names.CDS, name, cluster, wanted[name]))
    return result


# Gateways


def _gateway(proxy: Proxy, workload: Workload, shared: _ViewMemo) -> Snapshot:
    """Only the clusters that its routes name: a gateway does not need the rest of the mesh."""
    view, blobs = shared.view, shared.blobs
    scope = Scope(view, proxy.namespace, shared.labels(proxy), proxy.mode, gateway=True, locality=workload.locality)
    builder = GatewayBuilder(scope, proxy, workload, shared.keys)
    made = [blobs.intern(names.LDS, m.listener.name, m.listener, m.origins) for m in builder.build()]
    for name, (configuration, origins) in builder.route_configurations.items():
        made.append(blobs.intern(names.RDS, name, configuration, origins))
    for ref, secret in builder.secrets.items():
        made.append(blobs.intern(names.SDS, secret.name, secret, [ResourceKey("Secret", ref.namespace, ref.name)]))
    wanted = {parts[3] for name in scope.references if (parts := names.parse_cluster(name)) is not None}
    services = [service for host in sorted(wanted) if (service := scope.service(host)) is not None]
    named = set(scope.references) | {service_cluster(s) for s in (names.EXT_AUTHZ, names.RATE_LIMIT)}
    named |= {names.outbound_cluster(service.hostname, port) for service, port in provider_services(view)}
    made.extend(blob for blob in shared.clusters(scope, _with_ours(scope, services)) if blob.name in named)
    made.extend(_unknown(scope, blobs, made))
    made.extend(shared.extensions.blobs(builder.plugins.plugins, proxy))
    return Snapshot.of(made, diagnostics(view, scope.findings))


# Diagnostics


def diagnostics(view: MeshView, findings: Findings | Iterable[Finding]) -> list[Diagnostic]:
    """Findings with the place in the author's file."""
    return [_diagnostic(view, finding) for finding in findings]


def _diagnostic(view: MeshView, finding: Finding) -> Diagnostic:
    source = view.source(finding.origin)
    result = Diagnostic(
        UNTRANSLATABLE, Severity.ERROR, finding.message, resource=str(finding.origin), path=finding.path,
        hint="this part is left out until it is corrected; everything else stays in effect",
    )  # fmt: skip
    if source is None:
        return result
    position = source.position(_path(finding.path))
    return dataclasses.replace(
        result,
        file=source.file,
        line=position.line,
        column=position.column,
        source_line=source.line_text(position.line),
    )


def _path(text: str) -> tuple[str | int, ...]:
    """`spec.http[0]` as ("spec", "http", 0)."""
    return tuple(word or int(index) for word, index in _PATH_PART.findall(text))
