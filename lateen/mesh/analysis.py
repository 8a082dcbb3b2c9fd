"""Findings about how resources fit together: dangling references, conflicts, policies that select nothing. Pure."""

from lateen.mesh.analyzers.authorization import analyze_authorization
from lateen.mesh.analyzers.destination_rules import analyze_destination_rules
from lateen.mesh.analyzers.expected import with_expected_workloads
from lateen.mesh.analyzers.gateways import analyze_gateways
from lateen.mesh.analyzers.policies import analyze_policies
from lateen.mesh.analyzers.report import Report
from lateen.mesh.analyzers.services import analyze_services
from lateen.mesh.analyzers.virtual_services import analyze_virtual_services
from lateen.mesh.diagnostics import Diagnostic
from lateen.mesh.view import MeshView

_ANALYZERS = (
    analyze_virtual_services,
    analyze_destination_rules,
    analyze_gateways,
    analyze_policies,
    analyze_authorization,
    analyze_services,
)


def analyze(view: MeshView) -> tuple[Diagnostic, ...]:
    """All findings, by file, line and column; none of them makes a resource invalid in itself.

    A Deployment, Pod, WorkloadGroup or Gateway whose replicas are not registered yet counts as one workload.
    """
    report = Report(with_expected_workloads(view))
    for analyzer in _ANALYZERS:
        analyzer(report)
    return report.diagnostics
