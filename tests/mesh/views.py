"""Builds views from YAML, as users write it."""

from textwrap import dedent

from lateen.mesh.diagnostics import Severity
from lateen.mesh.loader import Loaded, load_mesh_config, load_text
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload

GROUPS = {
    "VirtualService": "networking.istio.io/v1",
    "DestinationRule": "networking.istio.io/v1",
    "IstioGateway": "networking.istio.io/v1",
    "ServiceEntry": "networking.istio.io/v1",
    "WorkloadEntry": "networking.istio.io/v1",
    "WorkloadGroup": "networking.istio.io/v1",
    "Sidecar": "networking.istio.io/v1",
    "PeerAuthentication": "security.istio.io/v1",
    "AuthorizationPolicy": "security.istio.io/v1",
    "RequestAuthentication": "security.istio.io/v1",
    "RateLimitPolicy": "lateen.dev/v1alpha1",
    "Telemetry": "telemetry.istio.io/v1",
    "WasmPlugin": "extensions.istio.io/v1alpha1",
    "TrafficExtension": "extensions.istio.io/v1alpha1",
    "Gateway": "gateway.networking.k8s.io/v1",
    "GatewayClass": "gateway.networking.k8s.io/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "ReferenceGrant": "gateway.networking.k8s.io/v1",
    "Deployment": "apps/v1",
}


def doc(key: str, body: str = "", *, labels: str = "", created: str = "", annotations: str = "") -> str:
    """One document: `Kind/namespace/name` and the rest of the object; `spec:` and below when `body` begins with it."""
    kind, _, rest = key.partition("/")
    namespace, _, name = rest.rpartition("/")
    lines = [
        f"apiVersion: {GROUPS.get(kind, 'v1')}",
        f"kind: {kind.removeprefix('Istio')}",
        "metadata:",
        f"  name: {name}",
    ]
    if namespace:
        lines.append(f"  namespace: {namespace}")
    if labels:
        lines.append(f"  labels: {labels}")
    if annotations:
        lines.append(f"  annotations: {annotations}")
    if created:
        lines.append(f"  creationTimestamp: '{created}'")
    return "\n".join([*lines, dedent(body).strip()]) + "\n"


def load(*documents: str) -> Loaded:
    """Load documents that must be valid."""
    loaded = load_text("---\n".join(documents), "mesh.txt")
    errors = [d for d in loaded.diagnostics if d.severity is Severity.ERROR]
    assert not errors, errors
    return loaded


def view_of(*documents: str, mesh: str = "") -> MeshView:
    """The view of documents that must be valid; `mesh` is the text of mesh.yaml."""
    config, diagnostics = load_mesh_config(mesh, "mesh.yaml")
    assert not any(d.invalid for d in diagnostics), diagnostics
    return MeshView.build(load(*documents).resources, config)


def service(
    key: str, selector: str = "{app: a}", ports: str = "[{port: 80, name: http, targetPort: 8080}]", **kwargs: str
) -> str:
    """A Kubernetes Service `namespace/name`."""
    return doc(f"Service/{key}", f"spec: {{selector: {selector}, ports: {ports}}}", **kwargs)


def workload(key: str, labels: str = "{app: a}", address: str = "10.0.0.1", extra: str = "serviceAccount: sa") -> str:
    """A WorkloadEntry `namespace/name`."""
    return doc(f"WorkloadEntry/{key}", f"spec: {{address: {address}, labels: {labels}, {extra}}}")


def replica(view: MeshView, key: str) -> Workload:
    """The workload `namespace/name`, which must exist."""
    namespace, _, name = key.partition("/")
    found = view.workload(namespace, name)
    assert found is not None
    return found
