"""Which checks a workload's proxy makes, from the policies that select it."""

from __future__ import annotations

from lateen.controlplane.filters import NO_ENFORCEMENT, Enforcement
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload
from lateen.policy.limit_actions import envoy_rate_limits, stages


def enforcement_of(view: MeshView, workload: Workload | None) -> Enforcement:
    """Authorization when some AuthorizationPolicy or RequestAuthentication selects it, limits when some RateLimitPolicy does."""
    if workload is None:
        return NO_ENFORCEMENT
    authorize = bool(view.authorization_policies(workload) or view.request_authentications(workload))
    limits = stages(view.rate_limit_policies(workload))
    if not authorize and not limits:
        return NO_ENFORCEMENT
    return Enforcement(workload.key, authorize, limits, tuple(sorted(_metadata_namespaces(view, workload))))


def _metadata_namespaces(view: MeshView, workload: Workload) -> set[str]:
    """The dynamic metadata that `experimental.envoy.filters.NAME[key]` conditions read: `envoy.filters.NAME`."""
    return {
        condition.key.removeprefix("experimental.").partition("[")[0]
        for policy in view.authorization_policies(workload)
        for rule in policy.spec.rules
        for condition in rule.when
        if condition.key.startswith("experimental.envoy.filters.")
    }


def rate_limits_of(view: MeshView, workload: Workload | None) -> list[rc.RateLimit]:
    """What the virtual hosts in front of a workload tell the rate limit service about each request."""
    return envoy_rate_limits(view.rate_limit_policies(workload)) if workload is not None else []
