"""What to run for a directory of manifests. Pure: resources and lateen.yaml in, workloads and findings out.

A Deployment (or a bare Pod) becomes a workload with one process per container and replica; a Gateway API Gateway becomes a workload with an
Envoy only, as does an Istio ingress gateway that the manifests expect to exist.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple, Protocol

from lateen.mesh import gateway as istio_gateway
from lateen.mesh import gatewayapi, kubernetes
from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.localconfig import LocalSpec
from lateen.mesh.metadata import Resource
from lateen.mesh.yaml_source import SourceMap

GATEWAY_NAME_LABEL = "gateway.networking.k8s.io/gateway-name"
WORKLOAD_NAME_LABEL = "service.istio.io/workload-name"
INGRESS_LABELS = {"app": "istio-ingressgateway", "istio": "ingressgateway"}
# Classes whose gateways are not ingress proxies, or run elsewhere.
OTHER_CLASSES = frozenset({"istio-waypoint", "istio-east-west", "istio-remote"})
# Images that stand for the proxy itself in Istio's manifests.
PROXY_IMAGES = ("auto", "istio/proxyv2")
DEFAULT_APP_PORT = 8080
_TLS_PROTOCOLS = frozenset({"HTTPS", "TLS"})
UNPRIVILEGED_PORTS = 1024
PRIVILEGED_PORT_OFFSET = 8000


class Located(Protocol):
    """A resource and where it was written."""

    @property
    def resource(self) -> Resource: ...
    @property
    def source(self) -> SourceMap: ...


class WorkloadKind(StrEnum):
    """The node type of the workload's proxies."""

    SIDECAR = "sidecar"
    ROUTER = "router"


@dataclass(frozen=True, slots=True)
class Container:
    """One process of each replica."""

    name: str
    command: tuple[str, ...]
    workdir: str
    env: tuple[tuple[str, str], ...] = ()
    ports: tuple[int, ...] = ()

    @property
    def port(self) -> int:
        """Where the process is told to listen."""
        return self.ports[0] if self.ports else DEFAULT_APP_PORT


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment, a Pod or a gateway. `service_ports` are its named target ports, by the name of the service port."""

    name: str
    namespace: str
    kind: WorkloadKind
    replicas: int
    labels: Mapping[str, str]
    service_account: str
    containers: tuple[Container, ...] = ()
    service_ports: Mapping[str, int] = field(default_factory=dict)
    listen_ports: tuple[int, ...] = ()
    gateway_protocols: tuple[tuple[int, bool], ...] = ()
    """Of a gateway: each port it binds, and whether clients speak TLS to it."""
    log_name: str = ""

    def replica_name(self, index: int) -> str:
        """The name of a replica's WorkloadEntry."""
        return f"{self.name}-{index}"


@dataclass(frozen=True, slots=True)
class ServiceName:
    """A Service as applications call it: needs a VIP and a line in the hosts files of netns mode."""

    name: str
    namespace: str
    ports: tuple[int, ...]
    headless: bool = False


class GatewayPort(NamedTuple):
    """A port of a gateway's Service."""

    name: str
    port: int
    target_port: int
    tls: bool


@dataclass(frozen=True, slots=True)
class GatewayService:
    """The Service that a generated gateway brings along."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    ports: tuple[GatewayPort, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything to run. With an error among the findings nothing should be started."""

    workloads: tuple[Workload, ...] = ()
    services: tuple[ServiceName, ...] = ()
    gateway_services: tuple[GatewayService, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()


def bind_port(port: int) -> int:
    """The port where a gateway really listens for a declared one."""
    return port + PRIVILEGED_PORT_OFFSET if port < UNPRIVILEGED_PORTS else port


def make_plan(resources: Iterable[Located], local: LocalSpec, root_namespace: str) -> Plan:
    """Decide what runs."""
    located = sorted(resources, key=lambda item: str(item.resource.key))
    diagnostics: list[Diagnostic] = []
    services = [r for item in located if isinstance(r := item.resource, kubernetes.Service)]
    workloads: list[Workload] = []
    for item in located:
        match item.resource:
            case kubernetes.Deployment() as deployment:
                template = deployment.spec.template
                pod = _PodSource(
                    item,
                    template.metadata.labels,
                    template.spec,
                    ("spec", "template", "spec"),
                    deployment.spec.replicas,
                )
                workloads.extend(_pod_workload(pod, services, local, diagnostics))
            case kubernetes.Pod() as bare:
                pod = _PodSource(item, bare.metadata.labels, bare.spec, ("spec",), 1)
                workloads.extend(_pod_workload(pod, services, local, diagnostics))
            case _:
                pass
    routers = _Routers([r for item in located if isinstance(r := item.resource, istio_gateway.Gateway)], workloads)
    for item in located:
        if isinstance(item.resource, gatewayapi.Gateway):
            routers.add_gateway(item.resource)
    routers.add_classic_ingress(root_namespace)
    names = [
        *(ServiceName(s.name, s.namespace, _port_numbers(s), s.spec.cluster_ip == "None") for s in services),
        *(ServiceName(g.name, g.namespace, tuple(p.port for p in g.ports)) for g in routers.services),
    ]
    return Plan(_with_log_names(workloads), tuple(names), tuple(routers.services), tuple(diagnostics))


@dataclass(frozen=True, slots=True)
class _PodSource:
    item: Located
    labels: Mapping[str, str]
    spec: kubernetes.PodSpec
    path: tuple[str | int, ...]
    replicas: int


def _pod_workload(
    pod: _PodSource, services: Sequence[kubernetes.Service], local: LocalSpec, diagnostics: list[Diagnostic]
) -> list[Workload]:
    resource = pod.item.resource
    containers: list[Container] = []
    named_ports: dict[str, int] = {}
    gateway = False
    for index, container in enumerate(pod.spec.containers):
        image = container.image or ""
        if image.partition(":")[0].endswith(PROXY_IMAGES):
            gateway = len(pod.spec.containers) == 1
            continue
        mapped = local.image(image)
        if mapped is None:
            diagnostics.append(_unmapped(pod, index, image))
            continue
        ports = tuple(port.container_port for port in container.ports)
        named_ports |= {port.name: port.container_port for port in container.ports if port.name}
        env = {**mapped.env, **{v.name: v.value for v in container.env if v.value is not None}}
        command = (*mapped.command, *container.args)
        containers.append(Container(container.name, command, mapped.workdir, tuple(env.items()), ports))
    if not containers and not gateway:
        return []
    labels = {**pod.labels, WORKLOAD_NAME_LABEL: resource.name}
    selecting = [s for s in services if _selects(s, resource.namespace, pod.labels)]
    targets = {port.name or str(port.port): port.target_port for s in selecting for port in s.spec.ports}
    service_ports = {name: named_ports[t] for name, t in targets.items() if isinstance(t, str) and t in named_ports}
    kind = WorkloadKind.ROUTER if gateway else WorkloadKind.SIDECAR
    account = pod.spec.service_account_name or pod.spec.service_account or "default"
    numbers = {t for t in targets.values() if isinstance(t, int)} | {p for s in selecting for p in _port_numbers(s)}
    listen = () if gateway else tuple(sorted({p for c in containers for p in c.ports} | set(service_ports.values())))
    if not gateway and not listen:
        listen = tuple(sorted(numbers)) or (DEFAULT_APP_PORT,)
        containers[0] = replace(containers[0], ports=listen)
    return [
        Workload(
            name=resource.name,
            namespace=resource.namespace,
            kind=kind,
            replicas=pod.replicas,
            labels=labels,
            service_account=account,
            containers=tuple(containers),
            service_ports=service_ports,
            listen_ports=listen,
        )
    ]


def _unmapped(pod: _PodSource, index: int, image: str) -> Diagnostic:
    path = (*pod.path, "containers", index, "image")
    position = pod.item.source.position(path)
    bare = image.partition("@")[0]
    return Diagnostic(
        code="LTN0901",
        severity=Severity.ERROR,
        message=f'image "{image}" has no local command',
        resource=str(pod.item.resource.key),
        path=".".join(str(part) for part in path),
        file=pod.item.source.file,
        line=position.line,
        column=position.column,
        hint=f'add to lateen.yaml, under spec.images:  "{bare}": {{command: [python3, -m, lateen.local.demo_app]}}',
        source_line=pod.item.source.line_text(position.line),
    )


def _selects(service: kubernetes.Service, namespace: str, labels: Mapping[str, str]) -> bool:
    selector = service.spec.selector
    return service.namespace == namespace and bool(selector) and selector.items() <= labels.items()


def _port_numbers(service: kubernetes.Service) -> tuple[int, ...]:
    return tuple(port.port for port in service.spec.ports)


@dataclass(slots=True)
class _GatewayPort:
    name: str
    tls: bool


def _selected_ports(gateways: Sequence[istio_gateway.Gateway], labels: Mapping[str, str]) -> dict[int, _GatewayPort]:
    """Ports that Istio Gateways open on a workload with these labels."""
    found: dict[int, _GatewayPort] = {}
    for gateway in gateways:
        if gateway.spec.selector.items() <= labels.items():
            for server in gateway.spec.servers:
                tls = server.port.protocol.upper() in _TLS_PROTOCOLS
                found.setdefault(server.port.number, _GatewayPort(server.port.name, tls))
    return found


@dataclass(slots=True)
class _Routers:
    """Gateways found so far: their workloads, and the Services that come with them."""

    istio_gateways: Sequence[istio_gateway.Gateway]
    workloads: list[Workload]
    services: list[GatewayService] = field(default_factory=list)

    def add_gateway(self, gateway: gatewayapi.Gateway) -> None:
        """The proxy that a Gateway API Gateway brings."""
        gateway_class = gateway.spec.gateway_class_name
        if gateway_class in OTHER_CLASSES or gateway.spec.addresses:
            return
        name = f"{gateway.name}-{gateway_class}"
        infrastructure = gateway.spec.infrastructure
        labels = {
            **(infrastructure.labels if infrastructure else {}),
            GATEWAY_NAME_LABEL: gateway.name,
            "gateway.networking.k8s.io/gateway-class-name": gateway_class,
            WORKLOAD_NAME_LABEL: name,
            "service.istio.io/canonical-name": name,
        }
        ports = {
            listener.port: _GatewayPort(listener.name, listener.protocol.upper() in _TLS_PROTOCOLS)
            for listener in gateway.spec.listeners
        }
        for number, port in _selected_ports(self.istio_gateways, labels).items():
            ports.setdefault(number, port)
        self._add(name, gateway.namespace, labels, ports)

    def add_classic_ingress(self, root_namespace: str) -> None:
        """Istio's samples select `istio: ingressgateway`, which its installation brings: so do we, when somebody asks for it."""
        selectors = [gateway.spec.selector for gateway in self.istio_gateways]
        wanted = any(selector and selector.items() <= INGRESS_LABELS.items() for selector in selectors)
        if not wanted or any(w.labels.get("istio") == "ingressgateway" for w in self.workloads):
            return
        name = INGRESS_LABELS["app"]
        labels = {**INGRESS_LABELS, WORKLOAD_NAME_LABEL: name}
        self._add(name, root_namespace, labels, _selected_ports(self.istio_gateways, labels))

    def _add(self, name: str, namespace: str, labels: Mapping[str, str], ports: Mapping[int, _GatewayPort]) -> None:
        numbers = sorted(ports)
        self.workloads.append(
            Workload(
                name=name,
                namespace=namespace,
                kind=WorkloadKind.ROUTER,
                replicas=1,
                labels=dict(labels),
                service_account=f"{name}-service-account" if name == INGRESS_LABELS["app"] else name,
                listen_ports=tuple(bind_port(number) for number in numbers),
                gateway_protocols=tuple((bind_port(number), ports[number].tls) for number in numbers),
            )
        )
        service_ports = tuple(
            GatewayPort(f"{ports[number].name}-{number}", number, bind_port(number), ports[number].tls)
            for number in numbers
        )
        self.services.append(GatewayService(name, namespace, {WORKLOAD_NAME_LABEL: name}, service_ports))


def _with_log_names(workloads: Sequence[Workload]) -> tuple[Workload, ...]:
    """Names for logs and variables: the workload's own, with the namespace where two namespaces have the same name."""
    seen: set[str] = set()
    named = []
    for workload in workloads:
        log_name = workload.name if workload.name not in seen else f"{workload.name}.{workload.namespace}"
        seen.add(workload.name)
        named.append(replace(workload, log_name=log_name))
    return tuple(named)


def expand_env(container: Container) -> dict[str, str]:
    """The container's variables, with Kubernetes' `$(NAME)` references to earlier ones resolved."""
    env: dict[str, str] = {}
    for name, value in container.env:
        env[name] = re.sub(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)", lambda m: env.get(m[1], m[0]), value)
    return env
