"""Our models and Istio's own CRDs must give the same verdict, over drawn documents and over samples with one thing changed."""

import re
from functools import cache

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lateen.mesh.diagnostics import Diagnostic
from lateen.mesh.kinds import KINDS, KindInfo
from lateen.mesh.loader import validate
from lateen.mesh.problems import Findings
from lateen.mesh.yaml_source import SourceMap
from tests.mesh.crd_documents import documents, mutations
from tests.mesh.crd_oracle import SAMPLES, VALIDATION, Json, Violation, schemas, violations

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the oracle is not here")

# Where we differ on purpose: (kind, path, why). Everything else is a bug in the models.
WE_REJECT = (
    (
        "*",
        r"\.(idleTimeout|ttl|budgetInterval)$",
        "the CRD takes any text for these durations; Istio fails on it later",
    ),
    (
        "HTTPRoute",
        r"\.rules\[\d+\]\.matches$",
        "replacePrefixMatch needs a prefix; the CRD forgets it when two backends replace one",
    ),
)
WE_ACCEPT = (
    (
        "RequestAuthentication",
        r"\.jwtRules\[\d+\]\.presence$",
        "newer than the CRD, valid in Istio's validation corpus",
    ),
)

_JUDGED = [info for info in KINDS.values() if (info.group, info.kind) in schemas()] if SAMPLES.is_dir() else []
_MANY = {"VirtualService", "DestinationRule", "IstioGateway", "Gateway", "HTTPRoute"}


def _document(info: KindInfo, spec: Json) -> dict[str, Json]:
    return {"apiVersion": info.api_version, "kind": info.kind, "metadata": {"name": "a"}, "spec": spec}


def _ours(info: KindInfo, document: dict[str, Json]) -> list[Diagnostic]:
    findings = Findings("x", SourceMap("x", "", 1), info.model)
    validate(info.model, document, findings)
    return findings.diagnostics


def _intended(table: tuple[tuple[str, str, str], ...], info: KindInfo, path: str) -> bool:
    return any(kind in {"*", info.id} and re.search(pattern, path) for kind, pattern, _ in table)


def _compare(info: KindInfo, spec: Json) -> None:
    document = _document(info, spec)
    theirs: list[Violation] = violations(info.group, info.kind, document)
    ours = _ours(info, document)
    if theirs and not ours:
        theirs = [v for v in theirs if not _intended(WE_ACCEPT, info, v.path)]
    elif ours and not theirs:
        ours = [d for d in ours if not _intended(WE_REJECT, info, f".{d.path}")]
    assert bool(theirs) == bool(ours), f"CRD: {theirs}\nours: {[(d.path, d.message) for d in ours]}"


@cache
def _corpus() -> dict[tuple[str, str], list[Json]]:
    found: dict[tuple[str, str], list[Json]] = {}
    for file in sorted([*SAMPLES.rglob("*.yaml"), *VALIDATION.glob("*-valid.yaml")]):
        text = file.read_text().replace("001:db8::", '"001:db8::"').replace("presence: REQUIRED", "")
        for document in yaml.load_all(text, yaml.CSafeLoader):
            if document:
                key = document["apiVersion"].rpartition("/")[0], document["kind"]
                found.setdefault(key, []).append(document.get("spec", {}))
    return found


def _specs_of(info: KindInfo) -> list[Json]:
    return _corpus().get((info.group, info.kind), [])


@pytest.mark.parametrize("info", _JUDGED, ids=lambda info: info.id)
def test_drawn_documents(info: KindInfo) -> None:
    schema = schemas()[info.group, info.kind]["properties"]["spec"]

    @settings(
        max_examples=300 if info.id in _MANY else 80,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(documents(schema))
    def agree(spec: Json) -> None:
        _compare(info, spec)

    agree()


@pytest.mark.parametrize("info", [i for i in _JUDGED if _specs_of(i)], ids=lambda info: info.id)
def test_changed_samples(info: KindInfo) -> None:
    @settings(
        max_examples=300 if info.id in _MANY else 80,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(_specs_of(info)).flatmap(mutations))
    def agree(spec: Json) -> None:
        _compare(info, spec)

    agree()


def test_the_drawn_documents_are_of_both_sorts() -> None:
    """A judge that always says the same is no judge."""
    info = KINDS["VirtualService"]
    verdicts: set[bool] = set()

    @settings(max_examples=60, derandomize=True, deadline=None, phases=[Phase.generate])
    @given(documents(schemas()[info.group, info.kind]["properties"]["spec"]))
    def collect(spec: Json) -> None:
        verdicts.add(bool(violations(info.group, info.kind, _document(info, spec))))

    collect()
    assert verdicts == {True, False}


def test_every_intended_difference_still_exists() -> None:
    rewrite = {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}
    backend = {"name": "a", "port": 1, "filters": [rewrite]}
    exact = [{"path": {"type": "Exact", "value": "/a"}}]
    route = _document(KINDS["HTTPRoute"], {"rules": [{"matches": exact, "backendRefs": [backend, backend]}]})
    assert not violations("gateway.networking.k8s.io", "HTTPRoute", route)
    assert [d.path for d in _ours(KINDS["HTTPRoute"], route)] == ["spec.rules[0].matches"]
    rule = {"tcp": {"idleTimeout": "x"}}
    destination = _document(KINDS["DestinationRule"], {"host": "a", "trafficPolicy": {"connectionPool": rule}})
    assert not violations("networking.istio.io", "DestinationRule", destination)
    assert _ours(KINDS["DestinationRule"], destination)
    presence = _document(KINDS["RequestAuthentication"], {"jwtRules": [{"issuer": "a", "presence": "REQUIRED"}]})
    assert violations("security.istio.io", "RequestAuthentication", presence)
    assert not _ours(KINDS["RequestAuthentication"], presence)
