"""The pure work of the control plane behind one seam: resources to a view, a view to snapshots."""

from collections.abc import Callable, Iterable
from typing import Protocol

from lateen.controlplane.authorization import no_keys
from lateen.controlplane.blobs import Blob
from lateen.controlplane.bound_policies import workload_limits, workload_policies
from lateen.controlplane.native_findings import native_findings
from lateen.controlplane.native_jwt import KeysOf
from lateen.controlplane.plugins import ServingOf, nothing_served
from lateen.controlplane.proxy import Proxy, ProxyType
from lateen.controlplane.snapshot import Memo, Snapshot, snapshot_for
from lateen.mesh.analysis import analyze
from lateen.mesh.diagnostics import Diagnostic
from lateen.mesh.loader import Located
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView


class Translator(Protocol):
    """What the pusher needs; called in one worker thread, never twice at a time."""

    def view(self, resources: Iterable[Located], mesh: MeshConfig) -> MeshView:
        """Index the resources."""
        ...

    def snapshot(self, view: MeshView, proxy: Proxy) -> Snapshot:
        """Everything `proxy` is to have."""
        ...

    def analyze(self, view: MeshView) -> tuple[Diagnostic, ...]:
        """Findings about how the resources fit together."""
        ...


class MeshTranslator:
    """The real one. Policies and limits are bound once a view and shared by the services' streams."""

    def __init__(
        self,
        keys: KeysOf = no_keys,
        serving: ServingOf = nothing_served,
        plugin_findings: Callable[[MeshView], Iterable[Diagnostic]] = lambda _: (),
    ) -> None:
        """Begin with an empty memory; `keys` are those that proxies verify tokens with, `serving` is what plugins run."""
        self._memo = Memo(keys=keys, serving=serving)
        self._plugin_findings = plugin_findings
        self._services: tuple[MeshView, Snapshot] | None = None

    def view(self, resources: Iterable[Located], mesh: MeshConfig) -> MeshView:
        """See `Translator`."""
        return MeshView.build(resources, mesh)

    def snapshot(self, view: MeshView, proxy: Proxy) -> Snapshot:
        """See `Translator`."""
        if proxy.type is not ProxyType.SERVICE:
            return snapshot_for(view, proxy, self._memo)
        if self._services is None or self._services[0] is not view:
            blobs: tuple[Blob, ...] = (*workload_policies(view), *workload_limits(view))
            self._services = (view, Snapshot.of(blobs))
        return self._services[1]

    def analyze(self, view: MeshView) -> tuple[Diagnostic, ...]:
        """See `Translator`."""
        return (*analyze(view), *native_findings(view), *self._plugin_findings(view))
