"""Findings about how resources fit together: each code with what triggers it and what comes close."""

from pathlib import Path

import pytest

from lateen.mesh.analysis import analyze
from lateen.mesh.diagnostics import CODES, Diagnostic, Severity
from lateen.mesh.loader import load_paths
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView
from tests.mesh import analysis_cases, authorization_cases
from tests.mesh.analysis_cases import (
    SVC,
    NearMiss,
    Trigger,
    W,
    deployment,
    k8s_gateway,
    rules,
    to,
)
from tests.mesh.views import doc, load, service, view_of, workload

EXAMPLE = Path(__file__).parents[2] / "envoy-configs" / "payments"
SAMPLES = Path("/work/shared/oracle/istio/samples")
TRIGGERS = (*analysis_cases.TRIGGERS, *authorization_cases.TRIGGERS)
NEAR_MISSES = (*analysis_cases.NEAR_MISSES, *authorization_cases.NEAR_MISSES)
OURS = {code for code in CODES if code.startswith(("IST", "LTN02"))} - {"IST0106"}


@pytest.mark.parametrize("case", TRIGGERS, ids=lambda case: case.id)
def test_trigger(case: Trigger) -> None:
    found = [d for d in analyze(view_of(*case.documents, mesh=case.mesh)) if d.code == case.code]
    assert [(d.severity, d.resource, d.path) for d in found] == [(case.severity, case.resource, case.path)]
    (finding,) = found
    assert case.message in finding.message
    assert case.hint in finding.hint
    assert not finding.invalid


@pytest.mark.parametrize("case", NEAR_MISSES, ids=lambda case: case.id)
def test_near_miss(case: NearMiss) -> None:
    assert [d for d in analyze(view_of(*case.documents, mesh=case.mesh)) if d.code == case.code] == []


def test_every_code_has_a_trigger_and_a_near_miss() -> None:
    assert {case.code for case in TRIGGERS} == OURS
    assert {case.code for case in NEAR_MISSES} == OURS


@pytest.mark.parametrize("case", TRIGGERS, ids=lambda case: case.id)
def test_a_finding_points_at_the_very_field(case: Trigger) -> None:
    """The line it names holds the last key of its path, and the column is where that key, or the item, begins."""
    for finding in analyze(view_of(*case.documents, mesh=case.mesh)):
        assert finding.file == "mesh.txt"
        assert finding.line > 0
        step = finding.path.rpartition(".")[2]
        rest = finding.source_line[finding.column - 1 :]
        if not step.endswith("]"):
            assert rest.startswith((step, f'"{step}"', f"'{step}'")), finding


def test_findings_come_by_line_and_their_text_keeps_to_the_house_style() -> None:
    findings: list[Diagnostic] = []
    for case in TRIGGERS:
        found = analyze(view_of(*case.documents, mesh=case.mesh))
        places = [(d.file, d.line, d.column) for d in found]
        assert places == sorted(places)
        findings += found
    for finding in findings:
        assert not finding.message.endswith("."), finding
        assert not finding.hint.endswith("."), finding


def test_the_example_is_clean() -> None:
    loaded = load_paths([EXAMPLE])
    made_by_the_runner = load(doc("Secret/payments/payments-tls", "type: kubernetes.io/tls")).resources
    mesh = loaded.mesh or MeshConfig()
    assert analyze(MeshView.build([*loaded.resources, *made_by_the_runner], mesh)) == ()
    without = analyze(MeshView.build(loaded.resources, mesh))
    assert [d.code for d in without] == ["IST0101"], "without the runner's certificate it would be missing"


def _sample(*paths: str) -> list[Diagnostic]:
    loaded = load_paths([SAMPLES / path for path in paths])
    assert not loaded.invalid
    return [
        d
        for d in analyze(MeshView.build(loaded.resources, loaded.mesh or MeshConfig()))
        if d.severity is not Severity.INFO
    ]


BOOKINFO = "bookinfo/platform/kube/bookinfo.yaml"


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="Istio's samples are not here")
@pytest.mark.parametrize(
    "paths",
    [
        (BOOKINFO, "bookinfo/gateway-api/bookinfo-gateway.yaml"),
        (
            BOOKINFO,
            "bookinfo/platform/kube/bookinfo-versions.yaml",
            "bookinfo/networking/destination-rule-reviews.yaml",
        ),
        (
            "helloworld/helloworld.yaml",
            "helloworld/gateway-api/helloworld-gateway.yaml",
            "helloworld/gateway-api/helloworld-route.yaml",
            "helloworld/gateway-api/helloworld-versions.yaml",
        ),
        ("httpbin/httpbin.yaml", "httpbin/gateway-api/httpbin-gateway.yaml"),
        ("curl/curl.yaml", "sleep/sleep.yaml", "tcp-echo/tcp-echo.yaml", "jwt-server/jwt-server.yaml"),
        ("external",),
    ],
    ids=lambda paths: paths[-1],
)
def test_istios_samples_are_clean(paths: tuple[str, ...]) -> None:
    assert _sample(*paths) == []


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="Istio's samples are not here")
def test_istios_own_ingress_gateway_counts_as_installed() -> None:
    found = _sample(
        BOOKINFO,
        "bookinfo/networking/bookinfo-gateway.yaml",
        "bookinfo/networking/virtual-service-all-v1.yaml",
        "bookinfo/networking/destination-rule-all.yaml",
    )
    assert {(d.code, d.severity.value) for d in found} == {("IST0173", "warning")}


# workloads that nobody has registered yet


def test_a_deployment_counts_until_its_replicas_are_registered() -> None:
    misfit = service("n/a", ports="[{port: 80, name: http, targetPort: web}]")
    before = analyze(view_of(misfit, deployment()))
    assert [d.code for d in before] == ["LTN0211"]
    registered = workload("n/a-1", "{app: a, service.istio.io/workload-name: a}", extra="ports: {web: 8080}")
    assert analyze(view_of(misfit, deployment(), registered)) == (), "what really runs is what counts"


def test_a_deployment_of_another_namespace_does_not_help() -> None:
    assert [d.code for d in analyze(view_of(SVC, deployment("m/a")))] == ["LTN0210"]


def test_a_gateway_counts_as_a_workload() -> None:
    policy = "spec: {selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: gw}}, rules: [{}]}"
    assert analyze(view_of(k8s_gateway(), doc("AuthorizationPolicy/n/p", policy))) == ()


def test_the_view_that_was_asked_about_stays_as_it_was() -> None:
    view = view_of(SVC, deployment())
    analyze(view)
    assert view.workloads == ()


# bounds


@pytest.mark.timeout(60)
def test_very_many_findings_take_no_time() -> None:
    """Hints look for similar names, which is slow, so they stop after a while."""
    services = [service(f"n/service-{number}") for number in range(1500)]
    broken = [
        to(f"host: sevrice-{number}", f"[x{number}.corp]").replace("name: vs", f"name: vs-{number}")
        for number in range(1500)
    ]
    findings = [d for d in analyze(view_of(W, *services, *broken)) if d.code == "IST0101"]
    assert len(findings) == 1500
    assert findings[0].hint.startswith("did you mean")


@pytest.mark.timeout(60)
def test_a_virtual_service_of_thousands_of_rules_takes_no_time() -> None:
    matches = [f"[{{uri: {{exact: /{number}}}}}]" for number in range(3000)]
    assert analyze(view_of(SVC, W, rules(*matches))) == ()
