"""WasmPlugin (extensions.istio.io): a WebAssembly filter."""

from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import (
    FreeForm,
    Int32,
    LabelSelector,
    PolicyTargetReference,
    Port,
    Spec,
    TargetRefs,
    one_target,
    rule_error,
    unique,
)
from lateen.mesh.urls import scheme_of

_SCHEMES = {"", "http", "https", "file", "oci"}


def _module_url(value: str) -> str:
    scheme = scheme_of(value)
    if scheme is None:
        scheme = scheme_of(f"http://{value}")
    try:
        urlsplit(value)
    except ValueError as error:  # brackets that do not fit, as Go's parser has it
        raise PydanticCustomError("url", "url is no address: {reason}", {"reason": str(error)}) from None
    if scheme not in _SCHEMES:
        raise PydanticCustomError("url", "url must have schema one of [http, https, file, oci]")
    return value


class PluginPhase(StrEnum):
    """Where in the filter chain the plugin stands."""

    UNSPECIFIED_PHASE = "UNSPECIFIED_PHASE"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


class PullPolicy(StrEnum):
    """When the module is fetched."""

    UNSPECIFIED_POLICY = "UNSPECIFIED_POLICY"
    IfNotPresent = "IfNotPresent"
    Always = "Always"


class FailStrategy(StrEnum):
    """What happens when the module fails."""

    FAIL_CLOSE = "FAIL_CLOSE"
    FAIL_OPEN = "FAIL_OPEN"
    FAIL_RELOAD = "FAIL_RELOAD"


class PluginType(StrEnum):
    """HTTP or network filter."""

    UNSPECIFIED_PLUGIN_TYPE = "UNSPECIFIED_PLUGIN_TYPE"
    HTTP = "HTTP"
    NETWORK = "NETWORK"


class WorkloadMode(StrEnum):
    """The role of the proxy: client, server or both."""

    UNDEFINED = "UNDEFINED"
    CLIENT = "CLIENT"
    SERVER = "SERVER"
    CLIENT_AND_SERVER = "CLIENT_AND_SERVER"


class PortNumber(Spec):
    """A port by number."""

    number: Port


class TrafficSelector(Spec):
    """Which traffic runs through the plugin."""

    mode: WorkloadMode | None = None
    ports: tuple[PortNumber, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> "TrafficSelector":
        unique(self.ports, "ports", "number")
        return self


class EnvValueSource(StrEnum):
    """Where an environment variable comes from."""

    INLINE = "INLINE"
    HOST = "HOST"


class EnvVar(Spec):
    """An environment variable of the module."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    value_from: EnvValueSource = EnvValueSource.INLINE
    value: Annotated[str, Field(max_length=2048)] | None = None

    @model_validator(mode="after")
    def _inline_value(self) -> "EnvVar":
        if self.value_from is EnvValueSource.HOST and self.value is not None:
            raise rule_error("one_of", "value may only be set when valueFrom is INLINE", "value")
        return self


class VmConfig(Spec):
    """Settings of the virtual machine."""

    env: Annotated[tuple[EnvVar, ...], Field(max_length=256)] = ()

    @model_validator(mode="after")
    def _unique(self) -> "VmConfig":
        unique(self.env, "env", "name")
        return self


class WasmConfig(Spec):
    """The module, and what it is given."""

    url: Annotated[str, Field(min_length=1), AfterValidator(_module_url)]
    sha256: Annotated[str, Field(pattern=r"^$|^[a-f0-9]{64}$")] | None = None
    image_pull_policy: PullPolicy | None = None
    image_pull_secret: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    verification_key: str | None = None
    plugin_config: FreeForm = {}
    plugin_name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    fail_strategy: FailStrategy | None = None
    vm_config: VmConfig | None = None
    type: PluginType | None = None


class WasmPluginSpec(WasmConfig):
    """The module and where it runs."""

    selector: LabelSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: TargetRefs = ()
    phase: PluginPhase | None = None
    priority: Int32 | None = None
    match: tuple[TrafficSelector, ...] = ()

    @model_validator(mode="after")
    def _one_target(self) -> "WasmPluginSpec":
        one_target(self)
        return self


class WasmPlugin(Resource):
    """A WebAssembly filter."""

    api_version: str = "extensions.istio.io/v1alpha1"
    kind: str = "WasmPlugin"
    spec: WasmPluginSpec
