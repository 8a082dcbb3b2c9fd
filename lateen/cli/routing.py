"""`lateen explain route`: where a proxy would send a request, and which rule says so. The same routes that the proxy is given are asked."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from google.protobuf.duration_pb2 import Duration

from lateen.addresses import is_address
from lateen.cli import pluginsof
from lateen.cli.choices import request_headers
from lateen.cli.exits import CommandError, Exit
from lateen.cli.meshview import find_workload, view_of_files, view_of_running
from lateen.cli.output import Format, emit, render_data
from lateen.cli.pluginsof import NO_STATES, Applied, States
from lateen.controlplane import names
from lateen.controlplane.proxy import Mode, Proxy, ProxyType
from lateen.controlplane.simulate import Request, Taken, destinations, take_route, virtual_host
from lateen.controlplane.snapshot import Snapshot, snapshot_for
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.endpoint.v3 import endpoint_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.envoyapi.envoy.extensions.filters.http.fault.v3 import fault_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.plugins import Side
from lateen.mesh.view import MeshView
from lateen.mesh.virtualservice import VirtualService
from lateen.mesh.workloads import Workload
from lateen.policy.paths import normalized_path

_PORTS: Final = {"http": 80, "https": 443}
_FAULT: Final = "envoy.filters.http.fault"
_MILLION: Final = 1_000_000
_DENOMINATORS: Final = (100, 10_000, _MILLION)
_MAX_ENDPOINTS: Final = 8
_OUTBOUND_PARTS: Final = 4


@dataclass(frozen=True, slots=True)
class Rule:
    """A route that was looked at: the rule it comes from, where that stands, why it does not match (empty: it does)."""

    rule: str
    position: str
    reason: str


@dataclass(frozen=True, slots=True)
class Destination:
    """A cluster that the request may go to; `share` of 1."""

    cluster: str
    share: float
    endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PluginsAt:
    """The plugins that the request passes at one proxy, as a `CLIENT` or a `SERVER`, in order."""

    workload: str
    side: str
    port: int
    plugins: tuple[Applied, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a request goes. Without destinations `answer` says what the proxy itself answers; `problem` is why it gets nowhere."""

    request: str
    source: str
    routes: str
    host: str = ""
    rules: tuple[Rule, ...] = ()
    destinations: tuple[Destination, ...] = ()
    answer: str = ""
    extras: tuple[str, ...] = ()
    problem: str = ""
    plugins: tuple[PluginsAt, ...] = ()


def route(  # noqa: PLR0917
    method: str,
    url: str,
    source: str,
    headers: Sequence[str],
    files: Sequence[Path],
    fmt: Format,
    control_plane: str | None,
) -> None:
    """Print where the request goes; exit code 1 when it gets nowhere."""
    if files:
        view = view_of_files(files)
        states = pluginsof.states_of_files(view)
    else:
        from lateen.cli.apiclient import ControlPlane, find_control_plane

        with ControlPlane(find_control_plane(control_plane)) as api:
            view = view_of_running(api)
            states = pluginsof.states_of(api.get("/v1/plugins"))
    workload = find_workload(view, source)
    explanation = explain(view, workload, method, url, request_headers(headers), live=not files, states=states)
    text = render_data(asdict(explanation), fmt) if fmt in {Format.JSON, Format.YAML} else render(explanation)
    emit(text)
    raise SystemExit(Exit.FINDINGS if explanation.problem else Exit.OK)


def explain(
    view: MeshView,
    workload: Workload,
    method: str,
    url: str,
    headers: Mapping[str, str],
    *,
    live: bool,
    states: States = NO_STATES,
) -> Explanation:
    """What the proxy of `workload` does with a request; a gateway is asked as from outside.

    `live`: replicas have addresses. `states`: how it stands with plugins.
    """
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise CommandError(Exit.USAGE, f"not a URL: {url}", "write http://HOST:PORT/PATH")
    path = normalized_path(parts.path or "/", view.mesh.path_normalization.normalization)
    if path is None:
        raise CommandError(Exit.USAGE, f"the proxy answers 400 to the path {parts.path}", "encode it: %C3%A9")
    query = f"?{parts.query}" if parts.query else ""
    request = Request(method.upper(), headers.get("host", parts.netloc), path + query, headers, parts.scheme)
    snapshot = snapshot_for(view, _proxy_of(workload))
    port = parts.port or _PORTS[parts.scheme]
    configuration = _configuration(snapshot, workload, request, port)
    taken = take_route(configuration, request)
    base = Explanation(f"{request.method} {url}", workload.key, configuration.name)
    explanation = _explanation(view, snapshot, taken, base)
    problem = _problem(view, snapshot, explanation.destinations, parts.hostname, live=live)
    if workload.is_gateway:
        port = next((p for p, wanted in _gateway_ports(snapshot).items() if configuration.name in wanted), port)
    plugins = _plugins(view, workload, port, explanation.destinations, states)
    return replace(explanation, problem=explanation.problem or problem, plugins=tuple(plugins))


def _plugins(
    view: MeshView, workload: Workload, port: int, targets: Sequence[Destination], states: States
) -> Iterator[PluginsAt]:
    """At the caller's proxy and at those of the workloads that the request may come to; nothing of proxies without plugins."""
    places = {(workload.key, Side.CLIENT, port): workload}
    for target in targets:
        parts = target.cluster.split("|")
        if len(parts) != _OUTBOUND_PARTS:
            continue
        behind = [
            (other, own)
            for other in view.workloads
            for service, at, own in view.services_of(other)
            if service.hostname == parts[-1] and str(at.number) == parts[1]
        ]
        chosen = [(other, own) for other, own in behind if f"{other.address}:{own}" in target.endpoints]
        places |= {(other.key, Side.SERVER, own): other for other, own in chosen or behind}
    for (key, side, number), other in places.items():
        found = pluginsof.passed(view, other, side, number, states)
        if found:
            yield PluginsAt(key, side.name, number, found)


def _proxy_of(workload: Workload) -> Proxy:
    return Proxy(
        id=f"explain~{workload.key}",
        type=ProxyType.ROUTER if workload.is_gateway else ProxyType.SIDECAR,
        name=workload.name,
        namespace=workload.namespace,
        address=workload.address if is_address(workload.address) else "127.0.0.1",
        mode=Mode.NONE,
        labels=workload.labels,
        service_account=workload.service_account,
        workload_name=workload.workload_name,
    )


def _configuration(snapshot: Snapshot, workload: Workload, request: Request, port: int) -> route_pb2.RouteConfiguration:
    """The route configuration behind the port: a sidecar's HTTP proxy has one for all ports, a gateway some for each."""
    known = {
        name: route_pb2.RouteConfiguration.FromString(blob.data)
        for name, blob in snapshot.resources.get(names.RDS, {}).items()
    }
    if not workload.is_gateway:
        return known[names.HTTP_PROXY_ROUTES]
    ports = {bound: tuple(wanted) for bound, wanted in _gateway_ports(snapshot).items()}
    wanted = ports.get(port) or [name for name in known if name.split(".")[1:2] == [str(port)]]
    found = [known[name] for name in wanted if name in known]
    if not found:
        hint = f"it listens on {', '.join(map(str, sorted(ports)))}" if ports else ""
        raise CommandError(Exit.FINDINGS, f"the gateway {workload.key} has no HTTP port {port}", hint)
    return next((one for one in found if virtual_host(one, request.authority) is not None), found[0])


def _gateway_ports(snapshot: Snapshot) -> dict[int, list[str]]:
    """The names of the route configurations that each port of a gateway uses."""
    found: dict[int, list[str]] = {}
    for blob in snapshot.resources.get(names.LDS, {}).values():
        listener = listener_pb2.Listener.FromString(blob.data)
        for chain in listener.filter_chains:
            for item in chain.filters:
                manager = http_connection_manager_pb2.HttpConnectionManager()
                if item.typed_config.Unpack(manager) and manager.rds.route_config_name:
                    ports = found.setdefault(listener.address.socket_address.port_value, [])
                    ports.append(manager.rds.route_config_name)
    return found


def _explanation(view: MeshView, snapshot: Snapshot, taken: Taken, base: Explanation) -> Explanation:
    host = "" if taken.host is None else taken.host.name
    base = replace(base, host=host, rules=tuple(_rules(view, taken)))
    chosen = taken.route
    if chosen is None:
        where = f"no route of {host} matches" if host else "no virtual host has this name"
        return replace(base, problem=f"{where}: the proxy answers 404")
    base = replace(base, answer=_own_answer(chosen), extras=tuple(_extras(chosen)))
    if base.answer:
        return base
    weights = destinations(chosen)
    total = sum(weight for _, weight in weights) or 1
    targets = tuple(Destination(name, weight / total, _endpoints(snapshot, name)) for name, weight in weights if weight)
    return replace(base, destinations=targets)


def _problem(view: MeshView, snapshot: Snapshot, targets: Sequence[Destination], host: str, *, live: bool) -> str:
    for target in targets:
        if target.cluster == names.BLACK_HOLE:
            policy = "outboundTrafficPolicy is REGISTRY_ONLY: the proxy answers 502"
            return f"the mesh knows no {host}{_similar(view, host)}, and {policy}"
        if target.cluster == names.PASSTHROUGH and (similar := _similar(view, host)):
            return f"the mesh knows no {host}{similar}"
        known = target.cluster in snapshot.resources.get(names.EDS, {})
        if not known and target.cluster.startswith("outbound|") and not target.endpoints:
            return f"no service or subset is behind {target.cluster}: the proxy answers 503 (500 for an HTTPRoute)"
        if live and known and not target.endpoints:
            return f"{target.cluster} has no endpoint that serves: the proxy answers 503"
    return ""


def _similar(view: MeshView, host: str) -> str:
    """`, did you mean ...?` when a service has nearly this name."""
    labels = host.count(".") + 1
    known = {".".join(hostname.split(".")[:labels]) for hostname in view.services}
    close = difflib.get_close_matches(host, known, n=1, cutoff=0.8)
    return f", did you mean {close[0]}?" if close else ""


def _rules(view: MeshView, taken: Taken) -> Iterator[Rule]:
    routes = list(taken.host.routes) if taken.host is not None else []
    places = _places(view, routes)
    for index, passed in enumerate(taken.looked_at):
        rule, position = places[index]
        yield Rule(rule, position, passed.reason)


def _places(view: MeshView, routes: Sequence[rc.Route]) -> list[tuple[str, str]]:
    """The rule that each route comes from, and its file and line, as exactly as the metadata tells."""
    origins = [_origin(each) for each in routes]
    indexes: dict[str, Iterator[int]] = {}
    places: list[tuple[str, str]] = []
    for origin in origins:
        if origin not in indexes:
            indexes[origin] = iter(_rule_numbers(view, origin, origins.count(origin)))
        number = next(indexes[origin], None)
        key = _key(origin)
        source = view.source(key) if key is not None else None
        path = ("spec", "http", number) if number is not None else ("spec",)
        position = f"{source.file}:{source.position(path).line}" if source is not None else ""
        places.append((origin + (f" http[{number}]" if number is not None else ""), position))
    return places


def _rule_numbers(view: MeshView, origin: str, count: int) -> list[int]:
    """Which `http` rule of a VirtualService each of its routes is; nothing when some rule was left out or delegated."""
    key = _key(origin)
    resource = view.resource(key) if key is not None else None
    if not isinstance(resource, VirtualService):
        return []
    numbers = [index for index, rule in enumerate(resource.spec.http) for _ in range(max(1, len(rule.match)))]
    return numbers if len(numbers) == count else []


def _origin(each: rc.Route) -> str:
    return (
        str(each.metadata.filter_metadata["lateen"].fields["origin"].string_value) if each.HasField("metadata") else ""
    )


def _key(origin: str) -> ResourceKey | None:
    kind, _, rest = origin.partition("/")
    namespace, _, name = rest.partition("/")
    return ResourceKey(kind, namespace, name) if name else None


def _endpoints(snapshot: Snapshot, cluster: str) -> tuple[str, ...]:
    """Those that EDS has, or that stand in the cluster itself."""
    by_eds = snapshot.resources.get(names.EDS, {}).get(cluster)
    within = snapshot.resources.get(names.CDS, {}).get(cluster)
    if by_eds is not None:
        assignment = endpoint_pb2.ClusterLoadAssignment.FromString(by_eds.data)
    elif within is not None:
        assignment = cluster_pb2.Cluster.FromString(within.data).load_assignment
    else:
        return ()
    sockets = [e.endpoint.address.socket_address for group in assignment.endpoints for e in group.lb_endpoints]
    return tuple(f"{socket.address}:{socket.port_value}" for socket in sockets)


def _own_answer(chosen: rc.Route) -> str:
    if chosen.HasField("direct_response"):
        return f"the proxy answers {chosen.direct_response.status} itself"
    if not chosen.HasField("redirect"):
        return ""
    redirect = chosen.redirect
    parts = (
        ("scheme", redirect.scheme_redirect),
        ("host", redirect.host_redirect),
        ("port", str(redirect.port_redirect or "")),
        ("path", redirect.path_redirect),
        ("prefix", redirect.prefix_rewrite),
    )
    changes = ", ".join(f"{name} {value}" for name, value in parts if value)
    code = rc.RedirectAction.RedirectResponseCode.Name(redirect.response_code)
    return f"the proxy redirects ({code.lower().replace('_', ' ')}) to {changes or 'the same URL'}"


def _extras(chosen: rc.Route) -> Iterator[str]:
    """What else happens to the request, in short."""
    action = chosen.route
    if chosen.HasField("route"):
        rewritten = action.prefix_rewrite or action.regex_rewrite.substitution
        if rewritten:
            yield f"path rewritten to {rewritten}"
        if action.host_rewrite_literal:
            yield f"host rewritten to {action.host_rewrite_literal}"
        yield f"timeout {_seconds(action.timeout)}" if _nonzero(action.timeout) else "no timeout"
        policy = action.retry_policy
        if policy.num_retries.value:
            each = f", {_seconds(policy.per_try_timeout)} each" if _nonzero(policy.per_try_timeout) else ""
            yield f"up to {policy.num_retries.value} retries{each} on {policy.retry_on}"
        for mirror in action.request_mirror_policies:
            yield f"mirrored to {mirror.cluster}"
    fault = fault_pb2.HTTPFault()
    if _FAULT in chosen.typed_per_filter_config and chosen.typed_per_filter_config[_FAULT].Unpack(fault):
        if fault.HasField("delay"):
            yield f"delayed by {_seconds(fault.delay.fixed_delay)} for {_percent(fault.delay.percentage)}"
        if fault.HasField("abort"):
            yield f"aborted for {_percent(fault.abort.percentage)}"


def _nonzero(value: Duration) -> bool:
    return bool(value.seconds or value.nanos)


def _seconds(value: Duration) -> str:
    return f"{value.seconds + value.nanos / 1e9:g}s"


def _percent(value: object) -> str:
    numerator, denominator = getattr(value, "numerator", 0), getattr(value, "denominator", 0)
    return f"{100 * numerator / _DENOMINATORS[denominator]:g} %"


def render(explanation: Explanation) -> str:
    """The explanation for people."""
    lines = [f"{explanation.request}  from {explanation.source}"]
    if explanation.host:
        lines.append(f"  host {explanation.host}, in the routes {explanation.routes}")
    for rule in explanation.rules:
        where = f" ({rule.position})" if rule.position else ""
        lines.append(f"  {'✗' if rule.reason else '✓'}  {rule.rule or 'built in'}{where}")
        if rule.reason:
            lines.append(f"       {rule.reason}")
    if explanation.answer:
        lines.append(f"  {explanation.answer}")
    for target in explanation.destinations:
        lines.append(f"  → {100 * target.share:.3g} %  {_readable(target.cluster)}")
        known = [endpoint for endpoint in target.endpoints if is_address(endpoint.rpartition(":")[0].strip("[]"))]
        shown = known[:_MAX_ENDPOINTS]
        more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
        if shown:
            lines.append(f"       {' '.join(shown)}{more}")
    if explanation.extras:
        lines.append(f"  {'; '.join(explanation.extras)}")
    if explanation.problem:
        lines.append(f"  problem: {explanation.problem}")
    for place in explanation.plugins:
        lines.append(f"  plugins at {place.workload} ({place.side.lower()}, port {place.port}):")
        lines += pluginsof.lines(place.plugins, "    ")
    return "\n".join(lines)


def _readable(cluster: str) -> str:
    parts = cluster.split("|")
    if len(parts) != _OUTBOUND_PARTS:
        return cluster
    _, port, subset, host = parts
    return f"{host}:{port}" + (f", subset {subset}" if subset else "") + f"  ({cluster})"
