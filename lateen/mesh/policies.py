"""Which policies apply to a workload: selectors, targetRefs, and the root namespace that speaks for the whole mesh."""

from collections.abc import Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from lateen.mesh.selectors import SelectorIndex, by_namespace
from lateen.mesh.spec import LabelSelector, PolicyTargetReference

GATEWAY_GROUP = "gateway.networking.k8s.io"


class TargetedSpec(Protocol):
    """The part of a policy's spec that says to whom it applies."""

    @property
    def selector(self) -> LabelSelector | None: ...
    @property
    def target_refs(self) -> tuple[PolicyTargetReference, ...]: ...


class Policy(Protocol):
    """A policy that a selector or targetRefs attach."""

    @property
    def namespace(self) -> str: ...
    @property
    def spec(self) -> TargetedSpec: ...


P = TypeVar("P", bound=Policy)


def target_refs(policy: Policy) -> tuple[PolicyTargetReference, ...]:
    """What a policy is attached to; `targetRef` is the older spelling of a single one."""
    single = getattr(policy.spec, "target_ref", None)
    return (*((single,) if isinstance(single, PolicyTargetReference) else ()), *policy.spec.target_refs)


def selector_labels(policy: Policy) -> Mapping[str, str]:
    """The labels its selector asks for; none selects the whole namespace (in the root namespace: the mesh)."""
    return policy.spec.selector.match_labels if policy.spec.selector else {}


class Policies(Generic[P]):
    """All policies of one kind, oldest first.

    A workload that is no Gateway API gateway ignores every policy with targetRefs; a gateway obeys those that name it, and
    selectors as well. References to a Service, a ServiceEntry or a GatewayClass speak to waypoints only.
    """

    def __init__(self, policies: Iterable[P], root_namespace: str) -> None:
        self._root = root_namespace
        self._by_gateway: dict[tuple[str, str], list[tuple[int, P]]] = {}
        selecting: list[tuple[int, P]] = []
        for position, policy in enumerate(policies):
            refs = target_refs(policy)
            if not refs:
                selecting.append((position, policy))
            for ref in dict.fromkeys((ref.group, ref.kind, ref.name) for ref in refs):
                if ref[:2] == (GATEWAY_GROUP, "Gateway"):
                    self._by_gateway.setdefault((policy.namespace, ref[2]), []).append((position, policy))
        self._selecting = {
            namespace: SelectorIndex((selector_labels(item[1]), item) for item in group)
            for namespace, group in by_namespace(selecting, lambda item: item[1].namespace).items()
        }

    def applying(self, namespace: str, labels: Mapping[str, str], gateway: str | None = None) -> tuple[P, ...]:
        """The policies of a workload, oldest first; `gateway` is the Gateway API Gateway it serves."""
        found: list[tuple[int, P]] = []
        for scope in dict.fromkeys((namespace, self._root)):
            if scope in self._selecting:
                found += self._selecting[scope].selecting(labels)
        if gateway is not None:
            found += self._by_gateway.get((namespace, gateway), ())
        return tuple(policy for _, policy in sorted(found, key=lambda item: item[0]))
