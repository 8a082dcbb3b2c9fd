"""Runs last while a module is built, in the guest: says what it holds, and frees what nobody uses."""

import gc
import json
import sys

from filters.sdk import dispatch
from filters.sdk.config import ConfigError, check_config, config_schema
from filters.sdk.filter import duplicates, overrides, registry
from filters.sdk.handlers import ignores_request, may_wait, without_coroutine

RESPONSE = "on_response"
MARK = b"lateen-filter-manifest:"
"""Read by filters.toolchain.image."""


def manifest() -> dict[str, object]:
    """What the linker and the control plane want to know; from inside, so that nothing is guessed."""
    kinds = [registry[name] for name in sorted(registry)]
    return {
        "filters": [
            {"name": kind.name, "class": kind.__qualname__, "config": config_schema(kind.Config)} for kind in kinds
        ],
        "callbacks": sorted(_callbacks()),
        "modules": sorted(sys.modules),
        "prunable": sorted(set(sys.builtin_module_names) - set(sys.modules)),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def _callbacks() -> set[str]:
    """Those of Envoy's callbacks that the filters need."""
    wanted = {"on_configure"}
    for kind in registry.values():
        request, response = overrides(kind, "on_request"), overrides(kind, "on_response")
        log, tick = overrides(kind, "on_log"), overrides(kind, "on_tick")
        waits = False
        keeps = dispatch.keeps_streams(kind)
        if request or (response and keeps):
            wanted.add("on_request_headers")
        if request and may_wait(kind.on_request):
            wanted |= {"on_request_body", "on_request_trailers"}
            waits = True
        if response:
            wanted.add("on_response_headers")
        if response and may_wait(kind.on_response):
            wanted |= {"on_response_body", "on_response_trailers"}
            waits = True
        if log:
            wanted.add("on_log")
        if tick:
            wanted.add("on_tick")
        if waits or keeps:
            wanted.add("on_delete")
        if waits or tick:
            wanted.add("on_http_call_response")
    return wanted


def freeze() -> bytes:
    """Leave the manifest in memory and free what nobody uses; the result must be kept referenced."""
    if duplicates:
        raise TypeError(f"two filters have the name {duplicates[0]!r}: give one a `name` of its own")
    if problems := [problem for kind in registry.values() for problem in check_config(kind.Config)]:
        raise ConfigError(problems)
    sys.path_importer_cache.clear()  # holds the times of directories that only the build has
    for kind in registry.values():
        if ignores_request(next(base.__dict__[RESPONSE] for base in kind.__mro__ if RESPONSE in base.__dict__)):
            dispatch.ignoring.add(kind.on_response)
        for function in (kind.on_request, kind.on_response):
            plain = without_coroutine(function)
            if plain is not None:
                dispatch.plain[function] = plain
    text = json.dumps(manifest(), sort_keys=True).encode()
    dispatch.exported = frozenset(_callbacks())
    found = MARK + f"{len(text):08x}".encode() + text
    gc.collect()
    return found
