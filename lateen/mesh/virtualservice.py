"""VirtualService (networking.istio.io): how requests to a host are routed."""

from enum import StrEnum

from pydantic import Base64Bytes, Field, model_validator

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import Bool, Double, Duration, Int32, PortSelector, Spec, StringMatch, UInt32, at_most_one


class Percent(Spec):
    """A percentage from 0 to 100; absent `value` is 0."""

    value: Double | None = None


class Destination(Spec):
    """A service, or a subset of it."""

    host: str
    subset: str | None = None
    port: PortSelector | None = None


class HeaderOperations(Spec):
    """`set` overwrites, `add` appends, `remove` deletes."""

    set: dict[str, str] = {}
    add: dict[str, str] = {}
    remove: tuple[str, ...] = ()


class Headers(Spec):
    """Header manipulation of requests and responses."""

    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class HTTPRouteDestination(Spec):
    """A weighted destination of an HTTP route."""

    destination: Destination
    weight: Int32 | None = None
    headers: Headers | None = None


class RouteDestination(Spec):
    """A weighted destination of a TCP or TLS route."""

    destination: Destination
    weight: Int32 | None = None


class HTTPMatchRequest(Spec):
    """Conditions that must all hold."""

    name: str | None = None
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: dict[str, StringMatch] = {}
    without_headers: dict[str, StringMatch] = {}
    query_params: dict[str, StringMatch] = {}
    ignore_uri_case: Bool = False
    port: UInt32 | None = None
    source_labels: dict[str, str] = {}
    source_namespace: str | None = None
    gateways: tuple[str, ...] = ()
    stat_prefix: str | None = None


class RedirectPortSelection(StrEnum):
    """How a redirect chooses its port."""

    FROM_PROTOCOL_DEFAULT = "FROM_PROTOCOL_DEFAULT"
    FROM_REQUEST_PORT = "FROM_REQUEST_PORT"


class HTTPRedirect(Spec):
    """Answer with a redirect."""

    uri: str | None = None
    authority: str | None = None
    scheme: str | None = None
    port: UInt32 | None = None
    derive_port: RedirectPortSelection | None = None
    redirect_code: UInt32 | None = None
    prefix_rewrite: str | None = None

    @model_validator(mode="after")
    def _one_port(self) -> "HTTPRedirect":
        at_most_one(self, ("port", "derive_port"))
        return self


class HTTPBody(Spec):
    """A body as text or as base64 bytes."""

    string: str | None = None
    bytes_: Base64Bytes | None = None

    @model_validator(mode="after")
    def _one(self) -> "HTTPBody":
        at_most_one(self, ("string", "bytes_"))
        return self


class HTTPDirectResponse(Spec):
    """Answer with a fixed response."""

    status: UInt32
    body: HTTPBody | None = None


class Delegate(Spec):
    """Another VirtualService that continues the route."""

    name: str | None = None
    namespace: str | None = None


class RegexRewrite(Spec):
    """Replace what `match` (RE2) matches with `rewrite`."""

    match: str | None = None
    rewrite: str | None = None


class HTTPRewrite(Spec):
    """Rewrite the path or the authority before forwarding."""

    uri: str | None = None
    authority: str | None = None
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRetry(Spec):
    """Retry policy."""

    attempts: Int32 | None = None
    per_try_timeout: Duration | None = None
    retry_on: str | None = None
    retry_remote_localities: Bool | None = None
    retry_ignore_previous_hosts: Bool | None = None
    backoff: Duration | None = None


class Delay(Spec):
    """Hold a share of the requests back."""

    percentage: Percent | None = None
    percent: Int32 | None = None
    fixed_delay: Duration | None = None
    exponential_delay: Duration | None = None

    @model_validator(mode="after")
    def _one(self) -> "Delay":
        at_most_one(self, ("fixed_delay", "exponential_delay"))
        return self


class Abort(Spec):
    """Fail a share of the requests."""

    percentage: Percent | None = None
    http_status: Int32 | None = None
    grpc_status: str | None = None
    http2_error: str | None = Field(default=None, alias="http2Error")

    @model_validator(mode="after")
    def _one(self) -> "Abort":
        at_most_one(self, ("http_status", "grpc_status", "http2_error"))
        return self


class HTTPFaultInjection(Spec):
    """Faults injected by the client's proxy."""

    delay: Delay | None = None
    abort: Abort | None = None


class HTTPMirrorPolicy(Spec):
    """Send a copy of a share of the requests elsewhere."""

    destination: Destination
    percentage: Percent | None = None


class UnmatchedPreflights(StrEnum):
    """What happens to a preflight request that matches no allowed origin."""

    UNSPECIFIED = "UNSPECIFIED"
    FORWARD = "FORWARD"
    IGNORE = "IGNORE"


class CorsPolicy(Spec):
    """Cross-origin resource sharing, answered by the proxy."""

    allow_origins: tuple[StringMatch, ...] = ()
    allow_origin: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Duration | None = None
    allow_credentials: Bool | None = None
    unmatched_preflights: UnmatchedPreflights | None = None


class VsHttpRoute(Spec):
    """One entry of `http` (Istio's HTTPRoute; the Gateway API has a kind of that name)."""

    name: str | None = None
    match: tuple[HTTPMatchRequest, ...] = ()
    route: tuple[HTTPRouteDestination, ...] = ()
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HTTPRewrite | None = None
    timeout: Duration | None = None
    retries: HTTPRetry | None = None
    fault: HTTPFaultInjection | None = None
    mirror: Destination | None = None
    mirrors: tuple[HTTPMirrorPolicy, ...] = ()
    mirror_percent: UInt32 | None = None
    mirror_percent_old: UInt32 | None = Field(default=None, alias="mirror_percent")
    mirror_percentage: Percent | None = None
    cors_policy: CorsPolicy | None = None
    headers: Headers | None = None


class L4MatchAttributes(Spec):
    """Conditions on a connection that must all hold."""

    destination_subnets: tuple[str, ...] = ()
    port: UInt32 | None = None
    source_subnet: str | None = None
    source_labels: dict[str, str] = {}
    source_namespace: str | None = None
    gateways: tuple[str, ...] = ()


class TCPRoute(Spec):
    """One entry of `tcp`."""

    match: tuple[L4MatchAttributes, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class TLSMatchAttributes(Spec):
    """Conditions on a TLS connection that must all hold."""

    sni_hosts: tuple[str, ...]
    destination_subnets: tuple[str, ...] = ()
    port: UInt32 | None = None
    source_labels: dict[str, str] = {}
    source_namespace: str | None = None
    gateways: tuple[str, ...] = ()


class TLSRoute(Spec):
    """One entry of `tls`."""

    match: tuple[TLSMatchAttributes, ...]
    route: tuple[RouteDestination, ...] = ()


class VirtualServiceSpec(Spec):
    """Routes of a set of hosts."""

    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    http: tuple[VsHttpRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    export_to: tuple[str, ...] = ()


class VirtualService(Resource):
    """How requests to a host are routed."""

    api_version: str = "networking.istio.io/v1"
    kind: str = "VirtualService"
    spec: VirtualServiceSpec = VirtualServiceSpec()
