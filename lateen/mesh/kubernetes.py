"""The few Kubernetes kinds a mesh needs, with the fields we read; everything else in them is passed over."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lateen.mesh.metadata import ClusterResource, MetadataLabel, Resource
from lateen.mesh.spec import Int, IntOrString, OpenSpec, Port, rule_error, unique


class KubernetesResource(Resource, OpenSpec):
    """A Kubernetes object: fields we do not model are passed over."""


class PodMeta(OpenSpec):
    """Metadata of a pod template."""

    labels: dict[str, MetadataLabel] = {}
    annotations: dict[str, str] = {}


class NamespaceSpec(OpenSpec):
    """Nothing of it is used."""


class Namespace(KubernetesResource, ClusterResource):
    """A namespace; its labels and annotations matter."""

    api_version: str = "v1"
    kind: str = "Namespace"
    spec: NamespaceSpec = NamespaceSpec()


class ServicePort(OpenSpec):
    """A port of a Service."""

    port: Port
    name: str | None = None
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    app_protocol: str | None = None
    target_port: IntOrString | None = None


class ServiceType(StrEnum):
    """How a Service is reachable."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


class ServiceSpec(OpenSpec):
    """Ports, and the labels of the replicas behind them."""

    selector: dict[str, str] = {}
    ports: tuple[ServicePort, ...] = ()
    type: ServiceType = ServiceType.CLUSTER_IP
    cluster_ip: str | None = Field(default=None, alias="clusterIP")
    cluster_ips: tuple[str, ...] = Field(default=(), alias="clusterIPs")
    external_name: str | None = None

    @model_validator(mode="after")
    def _ports(self) -> "ServiceSpec":
        if len(self.ports) > 1:
            for index, port in enumerate(self.ports):
                if not port.name:
                    raise rule_error("required", "name is required when a Service has several ports", "ports", index)
            unique(self.ports, "ports", "name")
        unique(self.ports, "ports", "port", "protocol")
        return self


class Service(KubernetesResource):
    """A name for a set of replicas."""

    api_version: str = "v1"
    kind: str = "Service"
    spec: ServiceSpec = ServiceSpec()


class ServiceAccount(KubernetesResource):
    """The identity of a workload."""

    api_version: str = "v1"
    kind: str = "ServiceAccount"


class EnvVar(OpenSpec):
    """An environment variable; `valueFrom` is passed over."""

    name: str
    value: str | None = None


class ContainerPort(OpenSpec):
    """A port on which the container listens."""

    container_port: Port
    name: str | None = None
    protocol: str = "TCP"


class Container(OpenSpec):
    """A process of a pod."""

    name: str
    image: str | None = None
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    ports: tuple[ContainerPort, ...] = ()


class PodSpec(OpenSpec):
    """Containers and the identity they run as."""

    service_account_name: str | None = None
    service_account: str | None = None
    containers: tuple[Container, ...] = ()


class Pod(KubernetesResource):
    """One replica."""

    api_version: str = "v1"
    kind: str = "Pod"
    spec: PodSpec = PodSpec()


class PodTemplate(OpenSpec):
    """What the replicas of a Deployment look like."""

    metadata: PodMeta = PodMeta()
    spec: PodSpec = PodSpec()


class DeploymentSelector(OpenSpec):
    """Labels of the replicas."""

    match_labels: dict[str, str] = {}


class DeploymentSpec(OpenSpec):
    """How many replicas, and what they look like."""

    replicas: Annotated[Int, Field(ge=0)] = 1
    selector: DeploymentSelector = DeploymentSelector()
    template: PodTemplate


class Deployment(KubernetesResource):
    """A workload."""

    api_version: str = "apps/v1"
    kind: str = "Deployment"
    spec: DeploymentSpec


class Secret(KubernetesResource):
    """Key material; `data` is base64, `string_data` plain."""

    api_version: str = "v1"
    kind: str = "Secret"
    type: str = "Opaque"
    data: dict[str, str] = Field(default={}, repr=False)
    string_data: dict[str, str] = Field(default={}, repr=False)


class ConfigMap(KubernetesResource):
    """Plain data."""

    api_version: str = "v1"
    kind: str = "ConfigMap"
    data: dict[str, str] = {}
