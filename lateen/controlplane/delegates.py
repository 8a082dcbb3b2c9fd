"""Delegate VirtualServices: a root rule hands its matches to another VirtualService's rules (one level)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from lateen.controlplane.findings import Findings
from lateen.mesh import virtualservice as vs
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.spec import StringMatch

Lookup = Callable[[str, str], vs.VirtualService | None]
_INHERITED = (
    "rewrite", "timeout", "retries", "fault", "mirror", "mirror_percentage", "mirrors", "cors_policy", "headers"
)  # fmt: skip
_SINGLE = ("uri", "scheme", "method", "authority")
_MAPS = ("headers", "without_headers", "query_params")
_PLAIN = ("port", "source_namespace", "stat_prefix")


class _ConflictError(Exception):
    """The two matches exclude one another."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One HTTP rule with the VirtualService that wrote it (its namespace expands short hosts)."""

    rule: vs.VsHttpRoute
    origin: ResourceKey
    namespace: str
    path: str


def rules(root: vs.VirtualService, lookup: Lookup, findings: Findings) -> Iterator[Rule]:
    """The rules in order, delegates put in place of the rules that name them."""
    for index, rule in enumerate(root.spec.http):
        path = f"spec.http[{index}]"
        if rule.delegate is None:
            yield Rule(rule, root.key, root.namespace, path)
            continue
        namespace = rule.delegate.namespace or root.namespace
        target = lookup(namespace, rule.delegate.name or "")
        if target is None or target.spec.hosts:
            problem = "does not exist" if target is None else "has hosts, so it cannot be delegated to"
            findings.add(root.key, f"delegate VirtualService {namespace}/{rule.delegate.name} {problem}", path)
            continue
        yield from _merged(rule, target, findings)


def _merged(root: vs.VsHttpRoute, target: vs.VirtualService, findings: Findings) -> Iterator[Rule]:
    for index, child in enumerate(target.spec.http):
        path = f"spec.http[{index}]"
        if child.delegate is not None:
            findings.add(target.key, "a delegate cannot delegate again", path)
            continue
        try:
            match = _merge_matches(root.match, child.match)
        except _ConflictError as error:
            findings.add(target.key, f"match is not a subset of the root rule's: {error}", path)
            continue
        inherited = {name: getattr(root, name) for name in _INHERITED if not getattr(child, name)}
        name = "-".join(filter(None, (root.name, child.name)))
        merged = child.model_copy(update={**inherited, "match": match, "name": name})
        yield Rule(merged, target.key, target.namespace, path)


def _merge_matches(
    roots: tuple[vs.HTTPMatchRequest, ...], children: tuple[vs.HTTPMatchRequest, ...]
) -> tuple[vs.HTTPMatchRequest, ...]:
    if not roots or not children:
        return children or roots
    return tuple(_merge(root, child) for root in roots for child in children)


def _merge(root: vs.HTTPMatchRequest, child: vs.HTTPMatchRequest) -> vs.HTTPMatchRequest:
    update: dict[str, object] = {"name": "-".join(filter(None, (root.name, child.name)))}
    for field in _SINGLE:
        update[field] = _narrow(field, getattr(root, field), getattr(child, field))
    for field in _MAPS:
        wide, narrow = getattr(root, field), getattr(child, field)
        update[field] = {
            key: _narrow(key, wide.get(key), narrow.get(key)) for key in sorted(wide.keys() | narrow.keys())
        }
    for field in _PLAIN:
        wide, narrow = getattr(root, field), getattr(child, field)
        if wide and narrow and wide != narrow:
            raise _ConflictError(f"{field} {narrow!r} is not {wide!r}")
        update[field] = narrow or wide
    labels = dict(root.source_labels)
    for key, value in child.source_labels.items():
        if labels.setdefault(key, value) != value:
            raise _ConflictError(f"source label {key}={value} is not {labels[key]!r}")
    update["source_labels"] = labels
    update["gateways"] = child.gateways or root.gateways
    update["ignore_uri_case"] = child.ignore_uri_case or root.ignore_uri_case
    return child.model_copy(update=update)


def _narrow(field: str, wide: StringMatch | None, narrow: StringMatch | None) -> StringMatch | None:
    """The narrower of two conditions on one property; a conflict unless it lies inside the wider one."""
    if wide is None or narrow is None:
        return narrow or wide
    if wide == narrow or (wide.exact is None and wide.prefix is None and wide.regex is None):
        return narrow
    if wide.regex is not None or narrow.regex is not None:
        raise _ConflictError(f"{field} is a regular expression on one side")
    value = narrow.exact if narrow.exact is not None else narrow.prefix
    if value is not None and wide.prefix is not None and value.startswith(wide.prefix):
        return narrow
    raise _ConflictError(f"{field} {value!r} is outside of {wide.exact or wide.prefix!r}")
