"""What the plugins of a mesh ask for, and whether a module fits what is asked of it. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lateen.controlplane.plugins import LuaServing, WasmServing
from lateen.controlplane.wasm_binary import ModuleFacts
from lateen.controlplane.wasm_fetch import Credentials
from lateen.controlplane.wasm_oci import credentials_of
from lateen.controlplane.wasm_schema import check_config
from lateen.controlplane.wasm_url import ModuleError, ModuleUrl, parse_module_url
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.plugins import wasm_of
from lateen.mesh.trafficextension import TrafficExtension
from lateen.mesh.view import MeshView
from lateen.mesh.wasmplugin import EnvValueSource, PluginType, WasmConfig, WasmPlugin
from lateen.mesh.yaml_source import Path as YamlPath

MAX_PLUGINS = 1_000
_DOCKER_CONFIG = ".dockerconfigjson"
NO_MODULE, NO_USE, NO_FIT, NO_LUA = "LTN0401", "LTN0402", "LTN0403", "LTN0404"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a plugin cannot run as it is written, and where in its document that stands."""

    code: str
    path: YamlPath
    message: str


@dataclass(frozen=True, slots=True)
class Request:
    """One plugin: a module and what it is to be given, or a script. `problem` says that it asks for nothing that could be."""

    key: ResourceKey
    base: YamlPath = ()
    url: ModuleUrl | None = None
    credentials: Credentials | None = field(default=None, repr=False)
    name: str = ""
    config: Mapping[str, Any] | None = None
    env: tuple[tuple[str, str], ...] = ()
    host_env: tuple[str, ...] = ()
    network: bool = False
    script: LuaServing | None = None
    problem: Problem | None = None
    pinned: bool = False
    """Whether a field of its own says the sha256."""

    def blamed(self, error: str, *, digest: bool) -> Problem:
        """A module that cannot be had as a problem: on the line of `sha256` when that is what does not fit."""
        return Problem(NO_MODULE, (*self.base, "sha256" if digest and self.pinned else "url"), error)


def requests_of(view: MeshView) -> dict[ResourceKey, Request]:
    """What each plugin of the mesh asks for, the oldest first."""
    result = {}
    for index, resource in enumerate(view.plugins):
        request = _request(view, resource)
        if index >= MAX_PLUGINS:
            message = f"there are more than {MAX_PLUGINS} plugins"
            request = Request(resource.key, request.base, problem=Problem(NO_MODULE, request.base, message))
        result[resource.key] = request
    return result


def _request(view: MeshView, resource: WasmPlugin | TrafficExtension) -> Request:
    wasm, base = wasm_of(resource)
    if wasm is None:
        lua = resource.spec.lua if isinstance(resource, TrafficExtension) else None
        return Request(resource.key, ("spec", "lua"), script=LuaServing(lua.inline_code if lua is not None else ""))
    try:
        url = parse_module_url(wasm, resource.namespace, _directory(view, resource.key))
    except ModuleError as error:
        return Request(resource.key, base, problem=Problem(NO_MODULE, (*base, "url"), str(error)))
    try:
        credentials = _credentials(view, url)
    except ModuleError as error:
        return Request(resource.key, base, problem=Problem(NO_MODULE, (*base, "imagePullSecret"), str(error)))
    env, host_env = _environment(wasm)
    return Request(
        resource.key, base, url, credentials, wasm.plugin_name or "",
        wasm.plugin_config if wasm.has("plugin_config") else None,
        env, host_env, wasm.type is PluginType.NETWORK, pinned=bool(wasm.sha256),
    )  # fmt: skip


def _directory(view: MeshView, key: ResourceKey) -> Path | None:
    source = view.source(key)
    path = Path(source.file) if source is not None else None
    return path.parent.absolute() if path is not None and path.is_file() else None


def _environment(wasm: WasmConfig) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    variables = wasm.vm_config.env if wasm.vm_config is not None else ()
    inline = tuple(sorted((v.name, v.value or "") for v in variables if v.value_from is EnvValueSource.INLINE))
    return inline, tuple(sorted(v.name for v in variables if v.value_from is EnvValueSource.HOST))


def _credentials(view: MeshView, url: ModuleUrl) -> Credentials | None:
    namespace, name = url.secret
    if not name or url.image is None:
        return None
    secret = view.secret(namespace, name)
    if secret is None:
        raise ModuleError(f"there is no Secret {namespace}/{name}")
    text = secret.string_data.get(_DOCKER_CONFIG)
    if text is None:
        try:
            text = base64.b64decode(secret.data[_DOCKER_CONFIG], validate=True).decode()
        except KeyError:
            raise ModuleError(f"Secret {namespace}/{name} has no {_DOCKER_CONFIG}") from None
        except ValueError:
            raise ModuleError(f"the {_DOCKER_CONFIG} of Secret {namespace}/{name} is not base64") from None
    found = credentials_of(text, url.image.registry)
    if found is None:
        raise ModuleError(f"Secret {namespace}/{name} says nothing of registry {url.image.registry}")
    return found


def fit(request: Request, digest: str, path: str, facts: ModuleFacts) -> WasmServing | Problem:
    """What to serve when the module is this one, or why the plugin does not fit it."""
    name, config = request.name, request.config
    if facts.filters is not None:
        known = ", ".join(facts.filters)
        where: YamlPath = (*request.base, "pluginName")
        if not name and len(facts.filters) == 1:
            name = next(iter(facts.filters))
        if not name:
            return Problem(NO_FIT, where, f"pluginName must say which filter of the module is meant: {known}")
        if name not in facts.filters:
            return Problem(NO_FIT, where, f"the module has no filter {name}, only {known}")
        config = config or {}
        try:
            wrong = check_config(facts.filters[name], config)
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError):  # a schema can be anything
            return Problem(NO_USE, (*request.base, "url"), f"its manifest is damaged: {name} has no usable schema")
        if wrong:
            below, message = wrong[0]
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            subject = f"{below[-1]} " if below and isinstance(below[-1], str) else ""
            return Problem(NO_FIT, (*request.base, "pluginConfig", *below), f"{subject}{message}{more}")
    try:
        configuration = "" if config is None else json.dumps(config, allow_nan=False)
    except ValueError:
        return Problem(
            NO_FIT, (*request.base, "pluginConfig"), "JSON has neither infinity nor what is not a number (NaN)"
        )
    return WasmServing(
        digest, path, name, configuration, request.env, request.host_env, facts.filters is not None, request.network
    )


def refused(request: Request, reason: str) -> Problem:
    """Envoy's words as a problem of the plugin."""
    if request.script is not None:
        return Problem(NO_LUA, ("spec", "lua", "inlineCode"), reason)
    said = reason.removeprefix("invalid configuration: ")
    if said != reason:
        return Problem(NO_FIT, (*request.base, "pluginConfig"), said.replace("; invalid configuration: ", "; "))
    return Problem(NO_USE, (*request.base, "url"), f"envoy does not take the module: {reason}")
