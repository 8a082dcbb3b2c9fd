"""WorkloadEntry and WorkloadGroup (networking.istio.io): replicas outside Kubernetes, and for us every replica."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import Int32, Port, Spec, UInt32, at_most_one, rule_error

_UNIX = "unix://"
_PORT_NAME = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")
_PORT_NAME_LIMIT = 63


def _address(value: str) -> str:
    if value.startswith(_UNIX):
        if value[len(_UNIX) :][:1] not in {"/", "@"}:
            raise rule_error(
                "address", "UDS must be an absolute path or abstract socket", hint="write unix:///path or unix://@name"
            )
        if value.endswith("/"):
            raise rule_error("address", "UDS may not be a dir", hint="remove the slash at the end")
    return value


class Endpoint(Spec):
    """Address, ports and labels of one replica (Istio's WorkloadEntry message, whole or as a template)."""

    address: Annotated[str, Field(max_length=256), AfterValidator(_address)] | None = None
    ports: Annotated[dict[str, Port], Field(max_length=128)] = {}
    labels: Annotated[dict[str, str], Field(max_length=256)] = {}
    network: Annotated[str, Field(max_length=2048)] | None = None
    locality: Annotated[str, Field(max_length=2048)] | None = None
    weight: UInt32 | None = None
    service_account: Annotated[str, Field(max_length=253)] | None = None

    @model_validator(mode="after")
    def _ports(self) -> "Endpoint":
        if (self.address or "").startswith(_UNIX) and self.has("ports"):
            raise rule_error("requires", "UDS may not include ports", "ports", hint="remove ports")
        for name in self.ports:
            if len(name) >= _PORT_NAME_LIMIT or not _PORT_NAME.fullmatch(name):
                hint = "use letters, digits and '-', less than 63 of them"
                raise rule_error("port_name", "port name must be valid", "ports", name, hint=hint)
        return self


class WorkloadEntrySpec(Endpoint):
    """A replica: it has an address, or at least a network."""

    @model_validator(mode="after")
    def _addressed(self) -> "WorkloadEntrySpec":
        if self.address is None and self.network is None:
            raise rule_error("required", "address is required")
        return self


class WorkloadEntry(Resource):
    """One replica of a workload."""

    api_version: str = "networking.istio.io/v1"
    kind: str = "WorkloadEntry"
    spec: WorkloadEntrySpec


class GroupMetadata(Spec):
    """Labels and annotations of the entries of a group."""

    labels: Annotated[dict[str, str], Field(max_length=256)] = {}
    annotations: Annotated[dict[str, str], Field(max_length=256)] = {}


class HTTPHeader(Spec):
    """A header of a probe request."""

    name: Annotated[str, Field(pattern=r"^[-_A-Za-z0-9]+$")] | None = None
    value: str | None = None


def _scheme(value: str) -> str:
    if value not in {"", "HTTP", "HTTPS"}:
        raise PydanticCustomError("enum_text", "scheme must be one of [HTTP, HTTPS]")
    return value


class HTTPHealthCheck(Spec):
    """Probe by an HTTP GET."""

    path: str | None = None
    port: Port
    host: str | None = None
    scheme: Annotated[str, AfterValidator(_scheme)] | None = None
    http_headers: tuple[HTTPHeader, ...] = ()


class TCPHealthCheck(Spec):
    """Probe by a connection."""

    host: str | None = None
    port: Port


class ExecHealthCheck(Spec):
    """Probe by a command."""

    command: tuple[Annotated[str, Field(min_length=1)], ...]


class GrpcHealthCheck(Spec):
    """Probe by gRPC health checking."""

    port: Port | None = None
    service: str | None = None


Count = Annotated[Int32, Field(ge=0)]


class ReadinessProbe(Spec):
    """When a replica is ready."""

    initial_delay_seconds: Count | None = None
    timeout_seconds: Count | None = None
    period_seconds: Count | None = None
    success_threshold: Count | None = None
    failure_threshold: Count | None = None
    http_get: HTTPHealthCheck | None = None
    tcp_socket: TCPHealthCheck | None = None
    exec: ExecHealthCheck | None = None
    grpc: GrpcHealthCheck | None = None

    @model_validator(mode="after")
    def _one(self) -> "ReadinessProbe":
        at_most_one(self, ("http_get", "tcp_socket", "exec", "grpc"))
        return self


class WorkloadGroupSpec(Spec):
    """What the entries of a group have in common."""

    metadata: GroupMetadata | None = None
    template: Endpoint
    probe: ReadinessProbe | None = None


class WorkloadGroup(Resource):
    """A template for WorkloadEntries."""

    api_version: str = "networking.istio.io/v1"
    kind: str = "WorkloadGroup"
    spec: WorkloadGroupSpec
