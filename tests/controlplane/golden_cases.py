"""Golden files: input above the first marker, what is expected of Envoy's configuration below.

    # why this case exists
    # proxy: sidecar default/client-0 REDIRECT
    # with: bookstore
    kind: VirtualService ...
    # ---- expect: routes 9080
    ...

`with` loads `golden/base/NAME.yaml` beside the input; after `expect:` stand the kind of resource and a pattern for its names. `order`
is of listeners too, but only the names of their filters.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

from lateen.controlplane import names
from lateen.controlplane.blobs import Blob
from lateen.controlplane.proxy import Mode, Proxy, ProxyType
from lateen.controlplane.snapshot import Snapshot, snapshot_for
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.core.v3 import extension_pb2
from lateen.envoyapi.envoy.config.endpoint.v3 import endpoint_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from lateen.mesh.loader import Located, load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView

GOLDEN = Path(__file__).parent / "golden"
MARKER = "# ---- expect: "
KINDS: dict[str, tuple[str, type[Message]]] = {
    "clusters": (names.CDS, cluster_pb2.Cluster),
    "endpoints": (names.EDS, endpoint_pb2.ClusterLoadAssignment),
    "listeners": (names.LDS, listener_pb2.Listener),
    "routes": (names.RDS, route_pb2.RouteConfiguration),
    "secrets": (names.SDS, secret_pb2.Secret),
    "extensions": (names.ECDS, extension_pb2.TypedExtensionConfig),
}
_PROXY = re.compile(r"^# proxy: (\w+) (\S+)/(\S+) (NONE|REDIRECT)$", re.MULTILINE)
_WITH = re.compile(r"^# with: (\S+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden file."""

    path: Path
    text: str
    expectations: tuple[tuple[str, str], ...]  # header, YAML text

    @property
    def located(self) -> tuple[tuple[Located, ...], MeshConfig]:
        """The resources, and the mesh's settings when the file has some."""
        located: list[Located] = []
        mesh = MeshConfig()
        bases = [GOLDEN / "base" / f"{name}.yaml" for name in _WITH.findall(self.text)]
        for name, text in [(base.name, base.read_text()) for base in bases] + [(self.path.name, self.text)]:
            loaded = load_text(text, name)
            problems = [d.message for d in loaded.diagnostics if d.invalid]
            assert not problems, f"{name}: {problems}"
            located.extend(loaded.resources)
            mesh = loaded.mesh or mesh
        return tuple(located), mesh

    def proxy(self, view: MeshView) -> Proxy:
        """The proxy whose configuration is looked at."""
        found = _PROXY.search(self.text)
        assert found is not None, f"{self.path.name} does not say `# proxy: ...`"
        workload = view.workload(found[2], found[3])
        assert workload is not None, f"{self.path.name}: no workload {found[2]}/{found[3]}"
        return Proxy(
            id=f"{found[1]}~{workload.address}~{workload.name}.{workload.namespace}~{workload.namespace}.svc.cluster.local",
            type=ProxyType(found[1]),
            name=workload.name,
            namespace=workload.namespace,
            address=workload.address,
            app_address="127.0.0.1",
            mode=Mode(found[4]),
            labels=workload.labels,
            service_account=workload.service_account,
            workload_name=workload.workload_name,
        )

    def snapshot(self) -> Snapshot:
        """Translate."""
        resources, mesh = self.located
        view = MeshView.build(resources, mesh)
        return snapshot_for(view, self.proxy(view))


def load_case(path: Path) -> Case:
    text, *parts = path.read_text().split(MARKER)
    split = [part.partition("\n") for part in parts]
    return Case(path, text, tuple((header.strip(), body.strip()) for header, _, body in split))


def cases() -> list[Path]:
    return sorted(GOLDEN.glob("*.yaml"))


def render(snapshot: Snapshot, header: str) -> str:
    """What an expectation's header asks for, as YAML."""
    kind, _, pattern = header.partition(" ")
    if kind == "diagnostics":
        found: list[Any] = [f"{d.resource} {d.file}:{d.line} {d.path}: {d.message}" for d in snapshot.diagnostics]
    elif kind == "order":
        found = [
            _order(blob)
            for name, blob in sorted(snapshot.resources[names.LDS].items())
            if fnmatch.fnmatchcase(name, pattern)
        ]
    else:
        type_url, message = KINDS[kind]
        blobs = snapshot.resources.get(type_url, {})
        chosen = [blobs[name] for name in sorted(blobs) if not pattern or fnmatch.fnmatchcase(name, pattern)]
        # by way of JSON, because MessageToDict leaves OrderedDicts in the packed parts
        found = [
            json.loads(json_format.MessageToJson(message.FromString(blob.data), preserving_proto_field_name=True))
            for blob in chosen
        ]
    return yaml.safe_dump(found, sort_keys=True, default_flow_style=None, width=140, allow_unicode=True).strip()


def _order(blob: Blob) -> dict[str, Any]:
    """Of each chain of a listener the network filters, the HTTP filters in place of the connection manager."""
    listener = listener_pb2.Listener.FromString(blob.data)
    chains = []
    last = [listener.default_filter_chain] if listener.HasField("default_filter_chain") else []
    for chain in [*listener.filter_chains, *last]:
        found = []
        for item in chain.filters:
            manager = hcm.HttpConnectionManager()
            http = item.typed_config.Unpack(manager)
            found += [part.name for part in manager.http_filters] if http else [item.name]
        chains.append(found)
    return {listener.name: chains}


def rewrite(case: Case, snapshot: Snapshot) -> None:
    """Put what is generated now below the markers."""
    parts = [f"{MARKER}{header}\n{render(snapshot, header)}\n" for header, _ in case.expectations]
    case.path.write_text(case.text + "".join(parts))
