"""ServiceEntry (networking.istio.io): a service that is not declared as a Kubernetes Service."""

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import Port, Spec, WorkloadSelector, at_most_one, rule_error, unique
from lateen.mesh.workload import WorkloadEntrySpec


class Location(StrEnum):
    """Whether the service is part of the mesh."""

    MESH_EXTERNAL = "MESH_EXTERNAL"
    MESH_INTERNAL = "MESH_INTERNAL"


class ServiceEntryResolution(StrEnum):
    """How addresses are found (Istio's ServiceEntry.Resolution)."""

    NONE = "NONE"
    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    DYNAMIC_DNS = "DYNAMIC_DNS"


class ServiceEntryPort(Spec):
    """A port of the service."""

    number: Port
    name: Annotated[str, Field(max_length=256)]
    protocol: Annotated[str, Field(max_length=256)] | None = None
    target_port: Port | None = None


def _not_star(value: str) -> str:
    if value == "*":
        raise rule_error(
            "host", "hostname cannot be wildcard", hint="name a host, or a part of one such as *.example.com"
        )
    return value


Host = Annotated[str, AfterValidator(_not_star)]
Address = Annotated[str, Field(max_length=64)]


class ServiceEntrySpec(Spec):
    """Hosts, ports and endpoints."""

    hosts: Annotated[tuple[Host, ...], Field(min_length=1, max_length=256)]
    addresses: Annotated[tuple[Address, ...], Field(max_length=256)] = ()
    ports: Annotated[tuple[ServiceEntryPort, ...], Field(max_length=256)] = ()
    location: Location = Location.MESH_EXTERNAL
    resolution: ServiceEntryResolution = ServiceEntryResolution.NONE
    endpoints: Annotated[tuple[WorkloadEntrySpec, ...], Field(max_length=4096)] = ()
    workload_selector: WorkloadSelector | None = None
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _endpoints(self) -> "ServiceEntrySpec":
        at_most_one(self, ("workload_selector", "endpoints"), "only one of workloadSelector or endpoints can be set")
        resolution = self.resolution
        if resolution is ServiceEntryResolution.NONE and self.has("endpoints"):
            raise rule_error(
                "requires", "NONE mode cannot set endpoints", "endpoints", hint="add resolution: STATIC or DNS"
            )
        if resolution is ServiceEntryResolution.DNS_ROUND_ROBIN and len(self.endpoints) > 1:
            message = "DNS_ROUND_ROBIN mode cannot have multiple endpoints"
            raise rule_error("requires", message, "endpoints", 1, hint="keep one endpoint, or use resolution: DNS")
        if resolution not in {ServiceEntryResolution.NONE, ServiceEntryResolution.STATIC}:
            for index, address in enumerate(self.addresses):
                if "/" in address:
                    message = "CIDR addresses are allowed only for NONE/STATIC resolution types"
                    raise rule_error(
                        "requires", message, "addresses", index, hint="use resolution: STATIC, or a single address"
                    )
        return self

    @model_validator(mode="after")
    def _ports(self) -> "ServiceEntrySpec":
        unique(self.ports, "ports", "name")
        unique(self.ports, "ports", "number")
        return self


class ServiceEntry(Resource):
    """A service that is not declared as a Kubernetes Service."""

    api_version: str = "networking.istio.io/v1"
    kind: str = "ServiceEntry"
    spec: ServiceEntrySpec
