"""The ECDS resources of plugins, each made once and shared by the proxies that have it for as long as one has it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import structlog

from lateen.controlplane import names
from lateen.controlplane.blobs import Blob, Blobs
from lateen.controlplane.plugins import (
    Awaited,
    Serving,
    ServingOf,
    WasmServing,
    extension_config,
    nothing_served,
    resource_name,
)
from lateen.controlplane.proxy import Proxy
from lateen.mesh.plugins import Plugin


class Extensions:
    """Makes and remembers the resources. A module goes by its path to proxies that can read it, and as it is to all others."""

    def __init__(self, interner: Blobs, serving: ServingOf = nothing_served) -> None:
        """`serving` says what there is of each plugin now; it may be asked from any thread."""
        self._interner = interner
        self._serving = serving
        self._log = structlog.get_logger()
        self._made: weakref.WeakValueDictionary[tuple[object, ...], Blob] = weakref.WeakValueDictionary()

    def blobs(self, plugins: Iterable[Plugin], proxy: Proxy) -> Iterator[Blob]:
        """The resources of one proxy."""
        for plugin in plugins:
            yield self._blob(plugin, proxy)

    def _blob(self, plugin: Plugin, proxy: Proxy) -> Blob:
        serving = self._serving(plugin.key)
        if isinstance(serving, WasmServing) and serving.native is not None and serving.native.build != proxy.build:
            serving = replace(serving, native=None)
        code_path = ""
        if isinstance(serving, WasmServing) and str(Path(serving.path).parent) != proxy.modules_dir:
            code_path = serving.path
        code = None
        if code_path and (resource_name(plugin), plugin.fail_open, serving, code_path) not in self._made:
            try:
                code = Path(code_path).read_bytes()
            except OSError as error:  # the keeper will have it back; until then the proxy goes on with what it has
                self._log.error("a stored module cannot be read", path=code_path, error=error.strerror)
                serving, code_path = Awaited.AWAITED, ""
        key = (resource_name(plugin), plugin.fail_open, serving, code_path)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = self._new(plugin, serving, code)
        return found

    def _new(self, plugin: Plugin, serving: Serving | Awaited | None, code: bytes | None) -> Blob:
        awaited = isinstance(serving, Awaited)
        message = extension_config(plugin, None if isinstance(serving, Awaited) else serving, code)
        # A stub that lets everything pass does no harm meanwhile: nobody has to wait for better.
        waits = awaited and not plugin.fail_open
        return self._interner.intern(names.ECDS, message.name, message, [plugin.key], awaited=waits)
