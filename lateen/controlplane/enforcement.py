"""Which checks a workload's proxy makes, from the policies that select it."""

from __future__ import annotations

from lateen.controlplane.authorization import Checks, checks_of, no_keys
from lateen.controlplane.filters import NO_ENFORCEMENT, Enforcement
from lateen.controlplane.native_jwt import KeysOf
from lateen.controlplane.native_matchers import CLAIMS_NAMESPACE as JWT_CLAIMS
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.mesh.engine import engine_of
from lateen.mesh.meshconfig import EnforcementEngine
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload
from lateen.policy.limit_actions import CLAIMS_NAMESPACE as SERVICE_CLAIMS
from lateen.policy.limit_actions import envoy_rate_limits, stages


def enforcement_of(
    view: MeshView, workload: Workload | None, keys: KeysOf = no_keys, *, routes_on_claims: bool = False
) -> Enforcement:
    """Authorization when some AuthorizationPolicy or RequestAuthentication selects it, limits when some RateLimitPolicy does."""
    if workload is None:
        return NO_ENFORCEMENT
    checks = checks_of(view, workload, keys, routes_on_claims=routes_on_claims)
    limits = stages(view.rate_limit_policies(workload))
    if checks == Checks() and not limits:
        return NO_ENFORCEMENT
    return Enforcement(
        workload.key,
        checks.ask_service,
        limits,
        tuple(sorted(_metadata_namespaces(view, workload))),
        checks.http,
        checks.tcp,
        trusted_hops(view) if checks.http else 0,
    )


def announces_clients(view: MeshView) -> bool:
    """Whether a load balancer in front of the gateways names its clients by the PROXY protocol."""
    return (view.mesh.default_config.gateway_topology or {}).get("proxyProtocol") is not None


def trusted_hops(view: MeshView) -> int:
    """How many proxies in front of the mesh are believed about X-Forwarded-For."""
    hops = (view.mesh.default_config.gateway_topology or {}).get("numTrustedProxies")
    return hops if isinstance(hops, int) and hops > 0 else 0


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
    if workload is None:
        return []
    policies = view.rate_limit_policies(workload)
    return envoy_rate_limits(policies, claims_namespace=claims_namespace(view, workload))


def claims_namespace(view: MeshView, workload: Workload) -> str:
    """Where in dynamic metadata the claims of a request's token are found, under `payload` and in one shape."""
    return JWT_CLAIMS if engine_of(view, workload) is EnforcementEngine.NATIVE else SERVICE_CLAIMS
