"""TrafficExtension (extensions.istio.io, Istio 1.30): a WebAssembly or Lua filter."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import Int32, LabelSelector, PolicyTargetReference, Spec, TargetRefs, one_target, rule_error
from lateen.mesh.wasmplugin import TrafficSelector, WasmConfig

LONGEST_LUA = 65_536
"""Characters of a script, as Istio's validation has it."""


class ExtensionPhase(StrEnum):
    """Where in the filter chain the extension stands."""

    UNSPECIFIED = "UNSPECIFIED"
    AUTHN = "AUTHN"
    AUTHZ = "AUTHZ"
    STATS = "STATS"


class LuaConfig(Spec):
    """A script for Envoy's Lua filter."""

    inline_code: Annotated[str, Field(min_length=1, max_length=LONGEST_LUA)]


class TrafficExtensionSpec(Spec):
    """The filter and where it runs."""

    selector: LabelSelector | None = None
    target_refs: TargetRefs = ()
    phase: ExtensionPhase | None = None
    priority: Int32 | None = None
    match: tuple[TrafficSelector, ...] = ()
    wasm: WasmConfig | None = None
    lua: LuaConfig | None = None

    @property
    def target_ref(self) -> PolicyTargetReference | None:
        """The older spelling of a single target, which this kind never had."""
        return None

    @model_validator(mode="after")
    def _one_filter(self) -> "TrafficExtensionSpec":
        one_target(self, ("selector", "target_refs"))
        if (self.wasm is None) == (self.lua is None):
            raise rule_error("one_of", "exactly one of wasm or lua must be set", *(["lua"] if self.lua else []))
        return self


class TrafficExtension(Resource):
    """A WebAssembly or Lua filter."""

    api_version: str = "extensions.istio.io/v1alpha1"
    kind: str = "TrafficExtension"
    spec: TrafficExtensionSpec
