"""DestinationRule: which one counts for a client and a host, and how several for one host become one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lateen.mesh.destinationrule import DestinationRule, Subset
from lateen.mesh.hosts import HostIndex, fqdn
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.selectors import by_namespace, selects
from lateen.mesh.services import exported


@dataclass(frozen=True)
class MergedRule:
    """The rules for one host and namespace with the same visibility and selector, as one rule; `sources` are what it is made of."""

    rule: DestinationRule
    sources: tuple[ResourceKey, ...]
    export_to: frozenset[str]
    selector: Mapping[str, str] | None


class DestinationRules:
    """All DestinationRules, oldest first."""

    def __init__(self, rules: Iterable[DestinationRule], root_namespace: str, default_export: Iterable[str]) -> None:
        self._root = root_namespace
        default = frozenset(default_export) or frozenset("*")
        self._local: dict[str, HostIndex[MergedRule]] = {}
        self._exported: dict[str, HostIndex[MergedRule]] = {}
        self._private: dict[str, HostIndex[MergedRule]] = {}
        for namespace, group in by_namespace(rules, lambda rule: rule.namespace).items():
            merged = _merge(group, default)
            private = [pair for pair in merged if pair[1].export_to <= {".", namespace}]
            self._local[namespace] = HostIndex(merged)
            self._private[namespace] = HostIndex(private)
            self._exported[namespace] = HostIndex(pair for pair in merged if pair not in private)

    def applying(
        self, client_namespace: str, client_labels: Mapping[str, str], hostname: str, service_namespace: str | None
    ) -> MergedRule | None:
        """Istio's order: the client's namespace, the service's, the root namespace; the first that has a rule decides."""
        for candidates in self._searched(client_namespace, hostname, service_namespace):
            if candidates:
                return _for_client(candidates, client_namespace, client_labels)
        return None

    def _searched(self, client: str, hostname: str, service: str | None) -> Iterable[Sequence[MergedRule]]:
        # A client in the root namespace sees there only what is private to it before the service's own rules.
        near = self._local if client != self._root else self._private
        yield _find(near, client, hostname)
        for namespace in dict.fromkeys((service, self._root)):
            if namespace is not None:
                found = _find(self._exported, namespace, hostname)
                yield [rule for rule in found if exported(rule.export_to, namespace, client)]


def _find(index: Mapping[str, HostIndex[MergedRule]], namespace: str, hostname: str) -> Sequence[MergedRule]:
    hosts = index.get(namespace)
    return hosts.most_specific(hostname) if hosts else ()


def _for_client(rules: Sequence[MergedRule], namespace: str, labels: Mapping[str, str]) -> MergedRule | None:
    """The rule whose workloadSelector selects the client (only in its own namespace), else the one for everybody."""
    everybody = None
    for rule in rules:
        if rule.selector is None:
            everybody = everybody or rule
        elif rule.rule.namespace == namespace and selects(rule.selector, labels):
            return rule
    return everybody


def _merge(rules: Iterable[DestinationRule], default_export: frozenset[str]) -> list[tuple[str, MergedRule]]:
    """One rule for each host, visibility and selector. Of subsets and policies with one name the older one counts."""
    groups: dict[tuple[str, frozenset[str], tuple[tuple[str, str], ...] | None], list[DestinationRule]] = {}
    for rule in rules:
        selector = rule.spec.workload_selector
        labels = None if selector is None else tuple(sorted(selector.match_labels.items()))
        export_to = frozenset(rule.spec.export_to) or default_export
        groups.setdefault((fqdn(rule.spec.host, rule.namespace), export_to, labels), []).append(rule)
    return [
        (
            host,
            MergedRule(
                _merged(group), tuple(r.key for r in group), export_to, None if labels is None else dict(labels)
            ),
        )
        for (host, export_to, labels), group in groups.items()
    ]


def _merged(rules: Sequence[DestinationRule]) -> DestinationRule:
    oldest = rules[0]
    if len(rules) == 1:
        return oldest
    subsets: dict[str, Subset] = {}
    for rule in rules:
        for subset in rule.spec.subsets:
            subsets.setdefault(subset.name, subset)
    policy = next((rule.spec.traffic_policy for rule in rules if rule.spec.traffic_policy is not None), None)
    spec = oldest.spec.model_copy(update={"subsets": tuple(subsets.values()), "traffic_policy": policy})
    return oldest.model_copy(update={"spec": spec})
