"""Which engine enforces the policies of a workload: its own label, else its namespace's, else the mesh's setting."""

from collections.abc import Mapping

from lateen.mesh.kinds import ResourceKey
from lateen.mesh.meshconfig import EnforcementEngine
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload

ENFORCEMENT_LABEL = "lateen.dev/enforcement"


def engine_of(view: MeshView, workload: Workload) -> EnforcementEngine:
    """A label with a value that does not exist counts as none (and is LTN0304)."""
    namespace = view.resource(ResourceKey("Namespace", "", workload.namespace))
    labels = namespace.metadata.labels if namespace is not None else {}
    return labelled(workload.labels) or labelled(labels) or view.mesh.enforcement


def labelled(labels: Mapping[str, str]) -> EnforcementEngine | None:
    """What the label says, if it is one of the engines."""
    value = labels.get(ENFORCEMENT_LABEL, "")
    return next((engine for engine in EnforcementEngine if engine.value == value), None)
