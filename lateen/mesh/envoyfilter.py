"""EnvoyFilter (networking.istio.io): patches to generated Envoy configuration."""

from enum import StrEnum

from pydantic import model_validator

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import FreeForm, Int32, Port, Spec, TargetRefs, UInt32, WorkloadSelector, at_most_one, rule_error


class ApplyTo(StrEnum):
    """What a patch applies to."""

    INVALID = "INVALID"
    LISTENER = "LISTENER"
    FILTER_CHAIN = "FILTER_CHAIN"
    NETWORK_FILTER = "NETWORK_FILTER"
    HTTP_FILTER = "HTTP_FILTER"
    ROUTE_CONFIGURATION = "ROUTE_CONFIGURATION"
    VIRTUAL_HOST = "VIRTUAL_HOST"
    HTTP_ROUTE = "HTTP_ROUTE"
    CLUSTER = "CLUSTER"
    EXTENSION_CONFIG = "EXTENSION_CONFIG"
    BOOTSTRAP = "BOOTSTRAP"
    LISTENER_FILTER = "LISTENER_FILTER"


class PatchContext(StrEnum):
    """Where a patch applies."""

    ANY = "ANY"
    SIDECAR_INBOUND = "SIDECAR_INBOUND"
    SIDECAR_OUTBOUND = "SIDECAR_OUTBOUND"
    GATEWAY = "GATEWAY"
    WAYPOINT = "WAYPOINT"


class ProxyMatch(Spec):
    """Match by version and metadata of the proxy."""

    proxy_version: str | None = None
    metadata: dict[str, str] = {}


class ClusterMatch(Spec):
    """Match a cluster."""

    port_number: UInt32 | None = None
    service: str | None = None
    subset: str | None = None
    name: str | None = None


class RouteAction(StrEnum):
    """What a matched route does."""

    ANY = "ANY"
    ROUTE = "ROUTE"
    REDIRECT = "REDIRECT"
    DIRECT_RESPONSE = "DIRECT_RESPONSE"


class RouteMatch(Spec):
    """Match a route."""

    name: str | None = None
    action: RouteAction | None = None


class VirtualHostMatch(Spec):
    """Match a virtual host."""

    name: str | None = None
    domain_name: str | None = None
    route: RouteMatch | None = None


class RouteConfigurationMatch(Spec):
    """Match a route configuration."""

    port_number: UInt32 | None = None
    port_name: str | None = None
    gateway: str | None = None
    vhost: VirtualHostMatch | None = None
    name: str | None = None


class SubFilterMatch(Spec):
    """Match a filter inside a filter."""

    name: str | None = None


class FilterMatch(Spec):
    """Match a filter."""

    name: str | None = None
    sub_filter: SubFilterMatch | None = None


class FilterChainMatch(Spec):
    """Match a filter chain."""

    name: str | None = None
    sni: str | None = None
    transport_protocol: str | None = None
    application_protocols: str | None = None
    filter: FilterMatch | None = None
    destination_port: UInt32 | None = None


class ListenerMatch(Spec):
    """Match a listener."""

    port_number: UInt32 | None = None
    port_name: str | None = None
    filter_chain: FilterChainMatch | None = None
    listener_filter: str | None = None
    name: str | None = None


class WaypointRouteMatch(Spec):
    """Match a route of a waypoint."""

    name: str | None = None


class WaypointMatch(Spec):
    """Match in a waypoint."""

    filter: FilterMatch | None = None
    port_number: Port | None = None
    route: WaypointRouteMatch | None = None


class EnvoyConfigObjectMatch(Spec):
    """What a patch matches."""

    context: PatchContext = PatchContext.ANY
    proxy: ProxyMatch | None = None
    listener: ListenerMatch | None = None
    route_configuration: RouteConfigurationMatch | None = None
    cluster: ClusterMatch | None = None
    waypoint: WaypointMatch | None = None

    @model_validator(mode="after")
    def _one(self) -> "EnvoyConfigObjectMatch":
        at_most_one(self, ("listener", "route_configuration", "cluster", "waypoint"))
        if (self.context is PatchContext.WAYPOINT) != (self.waypoint is not None):
            message = "waypoint matches and context WAYPOINT need one another"
            raise rule_error("requires", message, "context", hint="set both waypoint and context: WAYPOINT, or neither")
        return self


class PatchOperation(StrEnum):
    """How a patch changes its target."""

    INVALID = "INVALID"
    MERGE = "MERGE"
    ADD = "ADD"
    REMOVE = "REMOVE"
    INSERT_BEFORE = "INSERT_BEFORE"
    INSERT_AFTER = "INSERT_AFTER"
    INSERT_FIRST = "INSERT_FIRST"
    REPLACE = "REPLACE"
    MERGE_AND_REPLACE_LIST = "MERGE_AND_REPLACE_LIST"


class FilterClass(StrEnum):
    """Where an added filter stands."""

    UNSPECIFIED = "UNSPECIFIED"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


class Patch(Spec):
    """The change."""

    operation: PatchOperation | None = None
    value: FreeForm = {}
    filter_class: FilterClass | None = None


class EnvoyConfigObjectPatch(Spec):
    """One patch."""

    apply_to: ApplyTo | None = None
    match: EnvoyConfigObjectMatch | None = None
    patch: Patch | None = None


class EnvoyFilterSpec(Spec):
    """Patches for the workloads selected."""

    workload_selector: WorkloadSelector | None = None
    target_refs: TargetRefs = ()
    config_patches: tuple[EnvoyConfigObjectPatch, ...] = ()
    priority: Int32 = 0

    @model_validator(mode="after")
    def _one_target(self) -> "EnvoyFilterSpec":
        at_most_one(self, ("workload_selector", "target_refs"), "only one of targetRefs or workloadSelector can be set")
        return self


class EnvoyFilter(Resource):
    """Patches to generated Envoy configuration."""

    api_version: str = "networking.istio.io/v1alpha3"
    kind: str = "EnvoyFilter"
    spec: EnvoyFilterSpec = EnvoyFilterSpec()
