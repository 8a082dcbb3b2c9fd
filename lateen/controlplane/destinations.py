"""Where a VirtualService's destinations lead: cluster names, and what their load balancing needs of the route."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from lateen.controlplane import names
from lateen.controlplane.scope import Scope
from lateen.controlplane.traffic_policies import hash_policy
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.mesh.hosts import fqdn
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.virtualservice import Destination


@dataclasses.dataclass(frozen=True, slots=True)
class Destinations:
    """Destinations as seen from one listener port of one kind of client."""

    scope: Scope
    port: int

    def _target(self, destination: Destination, namespace: str) -> tuple[str, int, str]:
        host = fqdn(destination.host, namespace)
        if destination.port is not None and destination.port.number:
            return host, destination.port.number, destination.subset or ""
        service = self.scope.service(host)
        if service is not None and len(service.ports) == 1:
            return host, service.ports[0].number, destination.subset or ""
        return host, self.port, destination.subset or ""

    def cluster(self, destination: Destination, namespace: str, origin: ResourceKey) -> str:
        """The cluster of a destination written in `namespace`; a port may be left out when the service has only one."""
        host, port, subset = self._target(destination, namespace)
        return self.scope.refer(names.outbound_cluster(host, port, subset), origin)

    def hash_policies(self, destination: Destination, namespace: str) -> Iterator[rc.RouteAction.HashPolicy]:
        """What the destination's consistent hash needs to know of a request."""
        host, port, subset = self._target(destination, namespace)
        policy = hash_policy(self.scope.policy(host, port, subset).consistent_hash)
        if policy is not None:
            yield policy

    def cluster_hash_policies(self, cluster: str) -> Iterator[rc.RouteAction.HashPolicy]:
        """The same for a cluster named by `names.outbound_cluster`."""
        parts = names.parse_cluster(cluster)
        if parts is not None:
            policy = hash_policy(self.scope.policy(parts[3], parts[1], parts[2]).consistent_hash)
            if policy is not None:
                yield policy
