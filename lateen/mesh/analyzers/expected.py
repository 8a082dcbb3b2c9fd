"""Workloads that manifests promise but nobody has registered yet, so that plain files can be analysed without a running mesh."""

from collections.abc import Iterable, Iterator

from lateen.mesh import kubernetes
from lateen.mesh.gateway import Gateway as IstioGateway
from lateen.mesh.selectors import LabelIndex
from lateen.mesh.view import MeshView
from lateen.mesh.workload import WorkloadGroup
from lateen.mesh.workloads import GATEWAY_NAME_LABEL, WORKLOAD_NAME_LABEL, Workload, with_keys

_NO_ADDRESS = "unassigned"
INGRESS_LABELS = {"app": "istio-ingressgateway", "istio": "ingressgateway"}
"""Of the gateway that Istio's installation brings, and `lateen up` too."""


def with_expected_workloads(view: MeshView) -> MeshView:
    """The view with a would-be workload for each Deployment, Pod, WorkloadGroup and Gateway that has no replica yet."""
    registered = LabelIndex((workload.labels, workload) for workload in view.workloads)
    names = {(workload.namespace, workload.name) for workload in view.workloads}
    missing = [
        workload
        for workload in _promised(view)
        if (workload.namespace, workload.name) not in names
        and not any(found.namespace == workload.namespace for found in registered.select(_identifying(workload)))
    ]
    return view.with_workloads(with_keys(missing)) if missing else view


def _identifying(workload: Workload) -> dict[str, str]:
    """The labels replicas of it would have; one without labels is told by its name."""
    return dict(workload.labels) or {WORKLOAD_NAME_LABEL: workload.workload_name}


def _promised(view: MeshView) -> Iterator[Workload]:
    for resource in view.get("Deployment"):
        if isinstance(resource, kubernetes.Deployment):
            template = resource.spec.template
            yield _of_pod(resource.namespace, resource.name, template.metadata.labels, template.spec)
    for resource in view.get("Pod"):
        if isinstance(resource, kubernetes.Pod):
            yield _of_pod(resource.namespace, resource.name, resource.metadata.labels, resource.spec)
    for resource in view.get("WorkloadGroup"):
        if isinstance(resource, WorkloadGroup):
            yield _of_group(resource)
    for gateway in view.k8s_gateways():
        name = f"{gateway.name}-{gateway.spec.gateway_class_name}"
        infrastructure = gateway.spec.infrastructure
        labels = {**(infrastructure.labels if infrastructure else {}), GATEWAY_NAME_LABEL: gateway.name}
        yield _workload(gateway.namespace, name, labels, name, [])
    selectors = [resource.spec.selector for resource in view.get("IstioGateway") if isinstance(resource, IstioGateway)]
    if any(selector and selector.items() <= INGRESS_LABELS.items() for selector in selectors):
        name = INGRESS_LABELS["app"]
        yield _workload(view.root_namespace, name, INGRESS_LABELS, f"{name}-service-account", [])


def _of_pod(namespace: str, name: str, labels: dict[str, str], spec: kubernetes.PodSpec) -> Workload:
    ports = [(port.name or "", port.container_port) for container in spec.containers for port in container.ports]
    return _workload(namespace, name, labels, spec.service_account_name or spec.service_account or "default", ports)


def _of_group(group: WorkloadGroup) -> Workload:
    template = group.spec.template
    labels = {**template.labels, **(group.spec.metadata.labels if group.spec.metadata else {})}
    return _workload(group.namespace, group.name, labels, template.service_account or "default", template.ports.items())


def _workload(
    namespace: str, name: str, labels: dict[str, str], account: str, ports: Iterable[tuple[str, int]]
) -> Workload:
    return Workload(
        name=name,
        namespace=namespace,
        address=_NO_ADDRESS,
        labels=dict(sorted(labels.items())),
        service_account=account,
        ports={port_name or str(number): number for port_name, number in ports},
        workload_name=name,
        from_pod=True,
    )
