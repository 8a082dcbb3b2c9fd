"""The outside of a document: apiVersion, kind and name, judged before the model of its kind is imported."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from lateen.mesh.diagnostics import Severity
from lateen.mesh.kinds import KINDS, OUR_GROUPS, KindInfo, kind_of, similar_kinds, split_api_version
from lateen.mesh.metadata import DEFAULT_NAMESPACE, Resource
from lateen.mesh.problems import Findings, closest, kind_of_value
from lateen.mesh.yaml_source import SourceMap

_KUBERNETES_GROUPS = {"", "apps"}
_NOT_MODELLED: Mapping[str, frozenset[str]] = {
    "gateway.networking.k8s.io": frozenset(
        {"GRPCRoute", "TCPRoute", "TLSRoute", "UDPRoute", "BackendTLSPolicy", "ListenerSet"}
    ),
    "lateen.dev": frozenset({"Local", "MeshConfig"}),
}
"""Kinds of our own groups that exist but are not resources of the mesh, or not yet."""
_OF_CONTROL_PLANE = {"MeshConfig", "Local"}
_LIKELY = 0.8


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a document says it is. `info` is None when it is not a resource of ours; `findings` says why.

    With a wrong version or group, `info` is the kind that was meant, so that the rest can be checked too.
    """

    info: KindInfo | None
    findings: Findings
    is_mesh_config: bool = False


def read_envelope(value: object, source: SourceMap) -> Envelope:
    """Which kind of resource `value` is."""
    if not isinstance(value, dict):
        findings = Findings("", source, Resource)
        findings.add("LTN0005", f"a document must be an object with apiVersion and kind, got {kind_of_value(value)}")
        return Envelope(None, findings)
    api_version, kind = value.get("apiVersion"), value.get("kind")
    if not isinstance(api_version, str) or not isinstance(kind, str) or not api_version or not kind:
        return Envelope(None, _incomplete(value, source))
    group, version = split_api_version(api_version)
    info = kind_of(group, kind)
    if info is None:
        misplaced = _misplaced(group, kind)
        findings = Findings(_name(kind, value, namespaced=True), source, misplaced.model if misplaced else Resource)
        if misplaced:
            hint = f"did you mean apiVersion: {misplaced.api_version}?"
            findings.add("LTN0101", f"there is no {kind} in apiVersion {api_version}", ("apiVersion",), hint)
            return Envelope(misplaced, findings)
        _not_a_kind(findings, group, kind, api_version)
        return Envelope(None, findings, is_mesh_config=group == "lateen.dev" and kind == "MeshConfig")
    findings = Findings(
        _name(info.id, value, namespaced=info.namespaced), source, info.model, secret=info.id == "Secret"
    )
    if version not in info.versions:
        versions = ", ".join(f"{group}/{v}" if group else v for v in info.versions)
        meant = f"{group}/{closest(version, info.versions) or info.versions[0]}".lstrip("/")
        findings.add(
            "LTN0102",
            f"{kind} has no version {version}, known are {versions}",
            ("apiVersion",),
            f"write apiVersion: {meant}",
        )
    return Envelope(info, findings)


def _name(kind: str, value: Mapping[str, object], *, namespaced: bool) -> str:
    metadata = value.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    parts = [kind]
    if namespaced:
        parts.append(str(metadata.get("namespace") or DEFAULT_NAMESPACE))
    parts.append(str(metadata.get("name") or "?"))
    return "/".join(parts)


def _incomplete(value: Mapping[str, object], source: SourceMap) -> Findings:
    kind = value.get("kind")
    findings = Findings(_name(kind, value, namespaced=True) if isinstance(kind, str) and kind else "", source, Resource)
    for field in ("apiVersion", "kind"):
        given = value.get(field)
        if isinstance(given, str) and given:
            continue
        if field in value:
            findings.add("LTN0106", f"{field} must be a string, got {kind_of_value(given)}", (field,))
            continue
        others = (key for key in value if key not in {"apiVersion", "kind"})
        misspelt = next((key for key in others if closest(key, [field])), "")
        if misspelt:
            findings.add("LTN0104", f'unknown field "{misspelt}"', (misspelt,), f'did you mean "{field}"?')
        else:
            example = (
                kind_hint(kind) if field == "apiVersion" else "a document needs a kind, such as kind: VirtualService"
            )
            findings.add("LTN0105", f"{field} is required", (), example)
    return findings


def kind_hint(kind: object) -> str:
    """The apiVersion that a document of `kind` probably wants."""
    info = next((i for i in KINDS.values() if i.kind == kind), None)
    return (
        f"add apiVersion: {info.api_version}" if info else "add apiVersion, such as apiVersion: networking.istio.io/v1"
    )


def _misplaced(group: str, kind: str) -> KindInfo | None:
    """The kind that was meant when its name is right and its group is not."""
    if kind in _NOT_MODELLED.get(group, ()):
        return None
    elsewhere = [i for i in KINDS.values() if i.kind == kind]
    similar = difflib.get_close_matches(group, OUR_GROUPS - _KUBERNETES_GROUPS, n=3, cutoff=_LIKELY)
    likely = [i for i in elsewhere if i.group in similar]
    return next(iter(likely or (elsewhere if group in OUR_GROUPS else [])), None)


def _not_a_kind(findings: Findings, group: str, kind: str, api_version: str) -> None:
    if kind in _NOT_MODELLED.get(group, ()):
        if kind not in _OF_CONTROL_PLANE:
            findings.add("LTN0103", f"{kind} of {group} is not used by Lateen yet", ("kind",), severity=Severity.INFO)
        return
    similar = closest_kind(group, kind)
    if group in OUR_GROUPS - _KUBERNETES_GROUPS:
        known = sorted(i.kind for i in KINDS.values() if i.group == group)
        findings.add(
            "LTN0101",
            f"unknown kind {kind} in {api_version}",
            ("kind",),
            f"did you mean {similar}?" if similar else f"known kinds: {', '.join(known)}",
        )
    elif similar and group in _KUBERNETES_GROUPS:
        findings.add("LTN0101", f"unknown kind {kind} in {api_version}", ("kind",), f"did you mean {similar}?")
    else:
        findings.add(
            "LTN0103",
            f"{kind} ({api_version}) is not used by the mesh, it is passed over",
            ("kind",),
            severity=Severity.INFO,
        )


def closest_kind(group: str, kind: str) -> str:
    """The kind of `group` (or of any of ours, when the group is ours) that `kind` was probably meant to be."""
    names = {i.kind.lower(): i.kind for i in KINDS.values() if i.group == group}
    if group in _KUBERNETES_GROUPS:
        found = difflib.get_close_matches(kind.lower(), names, n=1, cutoff=0.85)
        return names[found[0]] if found and kind not in _OTHER_CORE_KINDS else ""
    found = difflib.get_close_matches(kind.lower(), names, n=1, cutoff=0.6)
    return names[found[0]] if found else next(iter(similar_kinds(kind)), "")


_OTHER_CORE_KINDS = {"PodTemplate", "ServiceList", "PodList", "NamespaceList", "SecretList"}
