"""Gateway API: which routes attach to which listeners, and why the others do not (the facts behind a Gateway's status)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from lateen.mesh.gatewayapi import (
    FromNamespaces,
    Gateway,
    GatewayClass,
    LabelSelectorRequirement,
    Listener,
    ReferenceGrant,
    TLSModeType,
)
from lateen.mesh.hosts import ANY_HOST, intersect
from lateen.mesh.httproute import BackendObjectReference, HTTPRoute, ParentReference
from lateen.mesh.kinds import KINDS, ResourceKey
from lateen.mesh.ordering import instant
from lateen.mesh.selectors import selects
from lateen.mesh.services import Service, ServicePort

GROUP = "gateway.networking.k8s.io"
CONTROLLERS = frozenset({"lateen.dev/gateway-controller", "istio.io/gateway-controller"})
DEFAULT_CLASSES = frozenset({"lateen", "istio"})
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
PRIVILEGED_OFFSET = 8000
_LAST_PRIVILEGED_PORT = 1023
_HTTP_PROTOCOLS = frozenset({"HTTP", "HTTPS"})


@dataclass(frozen=True)
class AttachedRoute:
    """A route on one listener; `hostnames` is the intersection with the listener's (`*` when neither names any)."""

    route: HTTPRoute
    hostnames: tuple[str, ...]


@dataclass(frozen=True)
class ListenerStatus:
    """One listener. Not accepted: it is not served, and `reason` is the Gateway API's condition reason.

    Accepted, but not `resolved`: `reason` tells which of its references is missing or not permitted. `certificates` are the
    Secrets (namespace, name) it may use, present or not.
    """

    listener: Listener
    index: int
    accepted: bool = True
    resolved: bool = True
    reason: str = ""
    message: str = ""
    path: tuple[str | int, ...] = ()
    certificates: tuple[tuple[str, str], ...] = ()
    routes: tuple[AttachedRoute, ...] = ()


@dataclass(frozen=True)
class ParentStatus:
    """What became of one parentRef of a route; `reason` is empty when the route is attached."""

    route: HTTPRoute
    index: int
    gateway: ResourceKey
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class GatewayStatus:
    """A Gateway's listeners in the order of its spec, and the routes that name it."""

    gateway: Gateway
    listeners: tuple[ListenerStatus, ...]
    parents: tuple[ParentStatus, ...] = ()

    @property
    def accepted(self) -> tuple[ListenerStatus, ...]:
        """The listeners that are served."""
        return tuple(listener for listener in self.listeners if listener.accepted)

    @property
    def routes(self) -> tuple[HTTPRoute, ...]:
        """The routes attached to any listener, in precedence order."""
        found = {attached.route.key: attached.route for status in self.listeners for attached in status.routes}
        return tuple(sorted(found.values(), key=route_order))


@dataclass(frozen=True)
class BackendResolution:
    """What a backendRef means: a service and its port, or the reason (Gateway API's) why its share of traffic gets 500."""

    service: Service | None
    port: ServicePort | None
    reason: str = ""
    message: str = ""


def route_order(route: HTTPRoute) -> tuple[datetime, str]:
    """Precedence between routes that match equally well: the oldest, then alphabetically by namespace/name."""
    return (instant(route.metadata.creation_timestamp), f"{route.namespace}/{route.name}")


class Grants:
    """All ReferenceGrants: a reference inside one namespace needs none."""

    def __init__(self, grants: Iterable[ReferenceGrant]) -> None:
        self._granted: set[tuple[str, str, str, str, str, str | None]] = set()
        for grant in grants:
            for source in grant.spec.from_:
                for to in grant.spec.to:
                    known = (
                        source.group,
                        source.kind,
                        source.namespace,
                        f"{to.group}/{to.kind}",
                        grant.namespace,
                        to.name,
                    )
                    self._granted.add(known)

    def allow(self, from_kind: str, from_namespace: str, to_kind: str, to_namespace: str, name: str) -> bool:
        """Whether an object of `from_kind` may refer to that one."""
        if from_namespace == to_namespace:
            return True
        group, target = KINDS[from_kind].group, KINDS[to_kind]
        start = (group, KINDS[from_kind].kind, from_namespace, f"{target.group}/{target.kind}", to_namespace)
        return not self._granted.isdisjoint({(*start, None), (*start, name)})


class Attachments:
    """All Gateways of our classes with their routes. A status is worked out when it is first asked for."""

    def __init__(
        self,
        *,
        gateways: Sequence[Gateway],
        classes: Iterable[GatewayClass],
        routes: Iterable[HTTPRoute],
        namespace_labels: Mapping[str, Mapping[str, str]],
        grants: Grants,
        has_secret: Callable[[str, str], bool],
    ) -> None:
        controllers = {gateway_class.name: gateway_class.spec.controller_name for gateway_class in classes}
        self.gateways: tuple[Gateway, ...] = tuple(
            g for g in gateways if _is_ours(g.spec.gateway_class_name, controllers)
        )
        self._by_key = {gateway.key: gateway for gateway in self.gateways}
        self._namespace_labels = namespace_labels
        self._grants = grants
        self._has_secret = has_secret
        self._routes: dict[ResourceKey, list[tuple[HTTPRoute, int, ParentReference]]] = {}
        for route in sorted(routes, key=route_order):
            for index, ref in enumerate(route.spec.parent_refs):
                if (ref.group, ref.kind) == (GROUP, "Gateway"):
                    key = ResourceKey("Gateway", ref.namespace or route.namespace, ref.name)
                    self._routes.setdefault(key, []).append((route, index, ref))
        self._statuses: dict[ResourceKey, GatewayStatus] = {}

    def __contains__(self, gateway: Gateway) -> bool:
        return gateway.key in self._by_key

    def status(self, key: ResourceKey) -> GatewayStatus:
        """The status of one of our Gateways; KeyError when it is none."""
        found = self._statuses.get(key)
        if found is None:
            found = self._statuses[key] = self._work_out(self._by_key[key])
        return found

    def _work_out(self, gateway: Gateway) -> GatewayStatus:
        listeners: list[ListenerStatus] = []
        for index, listener in enumerate(gateway.spec.listeners):
            listeners.append(self._listener(gateway, listener, index, listeners))
        attached: dict[int, list[AttachedRoute]] = {}
        parents = []
        for route, index, ref in self._routes.get(gateway.key, ()):
            found, reason, message = self._attach(gateway, route, ref)
            for position, hostnames in found:
                attached.setdefault(position, []).append(AttachedRoute(route, hostnames))
            parents.append(ParentStatus(route, index, gateway.key, reason, message))
        served = tuple(_with_routes(status, attached.get(status.index, ())) for status in listeners)
        return GatewayStatus(gateway, served, tuple(parents))

    # listeners

    def _listener(
        self, gateway: Gateway, listener: Listener, index: int, earlier: Sequence[ListenerStatus]
    ) -> ListenerStatus:
        refused = _refusal(listener, [status for status in earlier if status.accepted])
        if refused is not None:
            reason, message, path = refused
            return ListenerStatus(listener, index, accepted=False, reason=reason, message=message, path=path)
        kinds = listener.allowed_routes.kinds
        if kinds and all((kind.group, kind.kind) != (GROUP, "HTTPRoute") for kind in kinds):
            message = f"listener {listener.name} allows no HTTPRoute"
            at = ("allowedRoutes", "kinds")
            return ListenerStatus(listener, index, resolved=False, reason="InvalidRouteKinds", message=message, path=at)
        return self._certificates(gateway, listener, index)

    def _certificates(self, gateway: Gateway, listener: Listener, index: int) -> ListenerStatus:
        usable: list[tuple[str, str]] = []
        problem: tuple[str, str, tuple[str | int, ...]] | None = None
        for position, ref in enumerate(listener.tls.certificate_refs if listener.tls else ()):
            namespace = ref.namespace or gateway.namespace
            at = ("tls", "certificateRefs", position)
            if (ref.group, ref.kind) != ("", "Secret"):
                problem = problem or (
                    "InvalidCertificateRef",
                    f"a certificate must be a Secret, not a {ref.kind}",
                    (*at, "kind"),
                )
            elif not self._grants.allow("Gateway", gateway.namespace, "Secret", namespace, ref.name):
                message = f"no ReferenceGrant in namespace {namespace} permits Gateways of {gateway.namespace} to use Secret {ref.name}"
                problem = problem or ("RefNotPermitted", message, (*at, "namespace"))
            else:
                usable.append((namespace, ref.name))
                if not self._has_secret(namespace, ref.name):
                    problem = problem or (
                        "InvalidCertificateRef",
                        f"Secret {namespace}/{ref.name} does not exist",
                        (*at, "name"),
                    )
        reason, message, path = problem or ("", "", ())
        return ListenerStatus(
            listener,
            index,
            resolved=problem is None,
            reason=reason,
            message=message,
            path=path,
            certificates=tuple(usable),
        )

    # routes

    def _attach(
        self, gateway: Gateway, route: HTTPRoute, ref: ParentReference
    ) -> tuple[list[tuple[int, tuple[str, ...]]], str, str]:
        named = [
            (index, listener)
            for index, listener in enumerate(gateway.spec.listeners)
            if (ref.section_name in {None, listener.name}) and (ref.port in {None, listener.port})
        ]
        where = f"Gateway {gateway.namespace}/{gateway.name}"
        if not named:
            wanted = " and ".join(
                [f"named {ref.section_name}"] * bool(ref.section_name) + [f"on port {ref.port}"] * bool(ref.port)
            )
            return [], "NoMatchingParent", f"{where} has no listener {wanted}"
        allowed = [(index, listener) for index, listener in named if self._allows(gateway, listener, route)]
        if not allowed:
            return [], "NotAllowedByListeners", f"{where} does not allow HTTPRoutes of namespace {route.namespace} here"
        found = [(index, hostnames(listener, route)) for index, listener in allowed]
        found = [(index, hosts) for index, hosts in found if hosts]
        if not found:
            names = ", ".join(dict.fromkeys(str(listener.hostname) for _, listener in allowed))
            return [], "NoMatchingListenerHostname", f"{where} serves {names}, none of the route's hostnames"
        return found, "", ""

    def _allows(self, gateway: Gateway, listener: Listener, route: HTTPRoute) -> bool:
        kinds = listener.allowed_routes.kinds
        if listener.protocol not in _HTTP_PROTOCOLS:
            return False
        if kinds and all((kind.group, kind.kind) != (GROUP, "HTTPRoute") for kind in kinds):
            return False
        namespaces = listener.allowed_routes.namespaces
        match namespaces.from_:
            case FromNamespaces.ALL:
                return True
            case FromNamespaces.SAME:
                return route.namespace == gateway.namespace
            case FromNamespaces.SELECTOR if namespaces.selector is not None:
                labels = {**self._namespace_labels.get(route.namespace, {}), NAMESPACE_NAME_LABEL: route.namespace}
                expressions = namespaces.selector.match_expressions
                return selects(namespaces.selector.match_labels, labels) and all(_holds(e, labels) for e in expressions)
            case _:
                return False


def hostnames(listener: Listener, route: HTTPRoute) -> tuple[str, ...]:
    """The hosts of a route on a listener: the intersection of both; none means that the route does not attach."""
    own = listener.hostname.lower() if listener.hostname else ANY_HOST
    wanted = route.spec.hostnames or (own,)
    found = (intersect(own, host) for host in wanted)
    return tuple(dict.fromkeys(host for host in found if host is not None))


def bind_port(port: int) -> int:
    """Where a gateway's port is really bound: gateways run without privileges."""
    return port + PRIVILEGED_OFFSET if port <= _LAST_PRIVILEGED_PORT else port


def resolve_backend(
    route: HTTPRoute, ref: BackendObjectReference, grants: Grants, find: Callable[[str, str], Service | None]
) -> BackendResolution:
    """The service and port of a backendRef; `find` gets the namespace and name of a Service."""
    namespace = ref.namespace or route.namespace
    if (ref.group, ref.kind) != ("", "Service"):
        return BackendResolution(None, None, "InvalidKind", f"a backend must be a Service, not a {ref.kind}")
    if not grants.allow("HTTPRoute", route.namespace, "Service", namespace, ref.name):
        message = f"no ReferenceGrant in namespace {namespace} permits HTTPRoutes of {route.namespace} to use Service {ref.name}"
        return BackendResolution(None, None, "RefNotPermitted", message)
    service = find(namespace, ref.name)
    if service is None:
        return BackendResolution(None, None, "BackendNotFound", f"Service {namespace}/{ref.name} does not exist")
    port = service.port(ref.port) if ref.port is not None else None
    if port is None:
        return BackendResolution(
            service, None, "BackendNotFound", f"Service {namespace}/{ref.name} has no port {ref.port}"
        )
    return BackendResolution(service, port)


def _is_ours(class_name: str, controllers: Mapping[str, str]) -> bool:
    controller = controllers.get(class_name)
    return class_name in DEFAULT_CLASSES if controller is None else controller in CONTROLLERS


def _with_routes(status: ListenerStatus, routes: Sequence[AttachedRoute]) -> ListenerStatus:
    return ListenerStatus(
        status.listener,
        status.index,
        status.accepted,
        status.resolved,
        status.reason,
        status.message,
        status.path,
        status.certificates,
        tuple(routes) if status.accepted else (),
    )


def _refusal(listener: Listener, served: Iterable[ListenerStatus]) -> tuple[str, str, tuple[str | int, ...]] | None:
    """Why a listener cannot be served beside those before it: its protocol, or a port that is taken."""
    if listener.protocol not in _HTTP_PROTOCOLS:
        return (
            "UnsupportedProtocol",
            f"protocol {listener.protocol} is not served yet, only HTTP and HTTPS",
            ("protocol",),
        )
    if listener.protocol == "HTTPS" and (listener.tls is None or listener.tls.mode is not TLSModeType.TERMINATE):
        return ("Invalid", "an HTTPS listener needs tls with a certificate", ("protocol",))
    for other in (status.listener for status in served):
        if other.port == listener.port and other.protocol != listener.protocol:
            message = f"port {listener.port} already serves {other.protocol} (listener {other.name})"
            return ("ProtocolConflict", message, ("protocol",))
        if other.port == listener.port and other.hostname == listener.hostname:
            return ("HostnameConflict", f"listener {other.name} has the same port and hostname", ("hostname",))
        if other.port != listener.port and bind_port(other.port) == bind_port(listener.port):
            taken = bind_port(listener.port)
            message = (
                f"port {taken} is taken: a port below 1024 is bound {PRIVILEGED_OFFSET} higher (listener {other.name})"
            )
            return ("PortUnavailable", message, ("port",))
    return None


def _holds(expression: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression.key)
    match expression.operator:
        case "In":
            return value in expression.values
        case "NotIn":
            return value not in expression.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return False
