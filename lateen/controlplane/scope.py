"""One kind of client: which services it sees, under which policies. Everything outbound is a function of a scope."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping

from lateen.controlplane.findings import Findings
from lateen.controlplane.plugins import NONE as NO_PLUGINS
from lateen.controlplane.plugins import WorkloadPlugins
from lateen.controlplane.proxy import Mode
from lateen.controlplane.telemetry import NOBODY, Peer
from lateen.controlplane.traffic_policies import EffectivePolicy, effective_policy, with_defaults
from lateen.mesh.destination_rules import MergedRule
from lateen.mesh.destinationrule import DestinationRule, LocalityLoadBalancerSetting
from lateen.mesh.hosts import HostIndex, fqdn
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.services import Resolution, Service
from lateen.mesh.sidecar import Sidecar
from lateen.mesh.view import MeshView
from lateen.mesh.virtualservice import VirtualService


class Scope:
    """The mesh as clients of one namespace and label set see it. Answers are remembered; the view never changes."""

    def __init__(
        self,
        view: MeshView,
        namespace: str,
        labels: Mapping[str, str],
        mode: Mode,
        *,
        gateway: bool = False,
        locality: str = "",
    ) -> None:
        self.view = view
        self.namespace = namespace
        self.labels = labels
        self.mode = mode
        self.gateway = gateway
        self.locality = locality
        self.findings = Findings()
        self.rule = functools.cache(self._rule)
        self.policy = functools.cache(self._policy)
        self.service = functools.cache(self._service)
        self.references: dict[str, ResourceKey] = {}
        self.peer = NOBODY
        self.plugins = NO_PLUGINS

    def of_workload(self, peer: Peer, plugins: WorkloadPlugins) -> Scope:
        """The same scope, seen from one workload: what it calls is counted under its name, and passes its plugins."""
        other = copy.copy(self)
        other.peer = peer
        other.plugins = plugins
        return other

    @functools.cached_property
    def services(self) -> tuple[Service, ...]:
        """What this client may call."""
        return self.view.visible_services(self.namespace, self.labels, scoped=not self.gateway)

    @functools.cached_property
    def _by_hostname(self) -> dict[str, Service]:
        return {service.hostname: service for service in reversed(self.services)}

    @functools.cached_property
    def virtual_services(self) -> tuple[VirtualService, ...]:
        """The VirtualServices of the mesh gateway, in precedence order."""
        return self.view.virtual_services(self.namespace, self.labels)

    @functools.cached_property
    def tcp_rules(self) -> HostIndex[VirtualService]:
        """VirtualServices with `tcp` rules, by host."""
        return HostIndex((fqdn(h, v.namespace), v) for v in self.virtual_services if v.spec.tcp for h in v.spec.hosts)

    @functools.cached_property
    def tls_rules(self) -> HostIndex[VirtualService]:
        """VirtualServices with `tls` rules, by host."""
        return HostIndex((fqdn(h, v.namespace), v) for v in self.virtual_services if v.spec.tls for h in v.spec.hosts)

    @functools.cached_property
    def dynamic_hosts(self) -> bool:
        """Whether some cluster resolves the request's own host, for which connection managers need a filter."""
        unresolved = {Resolution.DYNAMIC_DNS} if self.captures else {Resolution.DYNAMIC_DNS, Resolution.PASSTHROUGH}
        return any(service.resolution in unresolved for service in self.services)

    @property
    def captures(self) -> bool:
        """Whether connections keep their original destination."""
        return self.mode == Mode.REDIRECT and not self.gateway

    def _rule(self, hostname: str) -> MergedRule | None:
        return self.view.merged_destination_rule(self.namespace, self.labels, hostname)

    def _policy(self, hostname: str, port: int, subset: str = "") -> EffectivePolicy:
        merged = self.rule(hostname)
        found = effective_policy(merged.rule if merged is not None else None, port, subset)
        return with_defaults(found, self.view.mesh.default_traffic_policy)

    def _service(self, hostname: str) -> Service | None:
        found = self._by_hostname.get(hostname)
        return found if found is not None else self.view.service_for(self.namespace, hostname)

    def delegate(self, namespace: str, name: str) -> VirtualService | None:
        """A delegate VirtualService by name."""
        found = self.view.resource(ResourceKey("VirtualService", namespace, name))
        return found if isinstance(found, VirtualService) else None

    def refer(self, cluster: str, origin: ResourceKey) -> str:
        """Note that a route needs a cluster; the snapshot adds an empty one when there is no such service or subset."""
        self.references.setdefault(cluster, origin)
        return cluster


def mentioned_labels(view: MeshView) -> frozenset[str]:
    """The label keys of clients on which anything outbound depends; all others may differ between proxies of one class."""
    keys: set[str] = set()
    for sidecar in view.get("Sidecar"):
        if isinstance(sidecar, Sidecar) and sidecar.spec.workload_selector is not None:
            keys.update(sidecar.spec.workload_selector.labels)
    for virtual_service in view.get("VirtualService"):
        if isinstance(virtual_service, VirtualService):
            spec = virtual_service.spec
            keys.update(key for http in spec.http for match in http.match for key in match.source_labels)
            keys.update(key for tcp in spec.tcp for match in tcp.match for key in match.source_labels)
            keys.update(key for tls in spec.tls for match in tls.match for key in match.source_labels)
    for rule in view.get("DestinationRule"):
        if isinstance(rule, DestinationRule):
            keys.update(_rule_keys(rule))
    keys.update(_labels_of(view.mesh.locality_lb_setting))
    return frozenset(keys)


def _rule_keys(rule: DestinationRule) -> Iterator[str]:
    if rule.spec.workload_selector is not None:
        yield from rule.spec.workload_selector.match_labels
    for policy in (rule.spec.traffic_policy, *(s.traffic_policy for s in rule.spec.subsets)):
        if policy is not None:
            for balancer in (policy.load_balancer, *(level.load_balancer for level in policy.port_level_settings)):
                yield from _labels_of(balancer.locality_lb_setting if balancer is not None else None)


def _labels_of(setting: LocalityLoadBalancerSetting | None) -> Iterator[str]:
    for entry in setting.failover_priority if setting is not None else ():
        yield entry.partition("=")[0]
