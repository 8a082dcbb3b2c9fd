"""PeerAuthentication: the mode that counts for a workload's port, from the workload, its namespace or the mesh."""

from collections.abc import Iterable, Mapping

from lateen.mesh.peerauthentication import MutualTlsMode, PeerAuthentication
from lateen.mesh.selectors import SelectorIndex, by_namespace


class PeerAuthentications:
    """All PeerAuthentications, oldest first: in one scope the oldest counts."""

    def __init__(self, policies: Iterable[PeerAuthentication], root_namespace: str) -> None:
        self._root = root_namespace
        self._wide: dict[str, PeerAuthentication] = {}
        selecting: list[PeerAuthentication] = []
        for policy in policies:
            if not labels_of(policy):
                self._wide.setdefault(policy.namespace, policy)
            elif policy.namespace != root_namespace:  # Istio ignores a selector in the root namespace
                selecting.append(policy)
        self._selecting = {
            namespace: SelectorIndex((labels_of(policy), policy) for policy in group)
            for namespace, group in by_namespace(selecting, lambda policy: policy.namespace).items()
        }

    def applying(self, namespace: str, labels: Mapping[str, str]) -> tuple[PeerAuthentication, ...]:
        """Those that have a say, the nearest scope first."""
        index = self._selecting.get(namespace)
        nearest = index.selecting(labels)[:1] if index else ()
        scopes = dict.fromkeys((namespace, self._root))
        return nearest + tuple(self._wide[scope] for scope in scopes if scope in self._wide)

    def mode(self, namespace: str, labels: Mapping[str, str], port: int | None) -> MutualTlsMode:
        """The mode of a workload's port (None: of the ports nobody names): DISABLE, PERMISSIVE or STRICT."""
        for policy in self.applying(namespace, labels):
            by_port = policy.spec.port_level_mtls.get(port) if port is not None else None
            for block in (by_port, policy.spec.mtls):
                if block is not None and block.mode is not MutualTlsMode.UNSET:
                    return block.mode
        return MutualTlsMode.PERMISSIVE

    def ports(self, namespace: str, labels: Mapping[str, str]) -> frozenset[int]:
        """The ports of a workload that have a mode of their own."""
        return frozenset(port for policy in self.applying(namespace, labels) for port in policy.spec.port_level_mtls)


def labels_of(policy: PeerAuthentication) -> Mapping[str, str]:
    """The labels its selector asks for."""
    return policy.spec.selector.match_labels if policy.spec.selector else {}
