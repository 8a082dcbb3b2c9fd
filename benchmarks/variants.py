"""The paths that are measured: the baseline, a reference, and what Lateen does on the way, one variant for each workload of `mesh/`."""

from dataclasses import dataclass

ENVOY_ALONE = "Envoy alone"
TWO_ENVOYS = "two Envoys, plaintext"
ISSUER = "https://auth.bench.test"
AUDIENCE = "bench"


@dataclass(frozen=True, slots=True)
class Variant:
    """One workload of the mesh and what a request to it passes."""

    workload: str
    title: str
    authorized: bool = False
    token: bool = False
    limited: bool = False
    native: bool = False
    """Decided by the sidecar's own filters instead of ext_authz."""

    @property
    def host(self) -> str:
        return f"{self.workload}.bench.test"


VARIANTS = (
    Variant("mtls", "gateway, mTLS, sidecar"),
    Variant("authz", "  + AuthorizationPolicy", authorized=True),
    Variant("authznative", "  + AuthorizationPolicy, native", authorized=True, native=True),
    Variant("jwt", "  + AuthorizationPolicy, JWT", authorized=True, token=True),
    Variant("jwtnative", "  + AuthorizationPolicy, JWT, native", authorized=True, token=True, native=True),
    Variant("limit", "  + RateLimitPolicy", limited=True),
    Variant("all", "  + all of these", authorized=True, token=True, limited=True),
)
