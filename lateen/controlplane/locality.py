"""Locality load balancing: which endpoints are preferred, and which take over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.mesh.destinationrule import LocalityDistribute, LocalityFailover
from lateen.mesh.services import Endpoint

_SPECIAL = {
    "topology.kubernetes.io/region": 0,
    "topology.kubernetes.io/zone": 1,
    "topology.istio.io/subzone": 2,
}


def parts(locality: str) -> tuple[str, str, str]:
    """Region, zone and sub-zone of `r/z/s`."""
    region, zone, sub_zone, *_ = (*locality.split("/"), "", "", "")
    return region, zone, sub_zone


def message(locality: str) -> base_pb2.Locality:
    """The same as Envoy's Locality."""
    region, zone, sub_zone = parts(locality)
    return base_pb2.Locality(region=region, zone=zone, sub_zone=sub_zone)


def by_failover(own: str, endpoints: Sequence[str], failover: Sequence[LocalityFailover]) -> dict[str, int]:
    """Priority by locality: same sub-zone, zone, region, the named failover region, the others; without gaps."""
    allowed = {rule.to for rule in failover if rule.from_ == parts(own)[0] and rule.to}
    raw: dict[str, int] = {}
    for locality in set(endpoints):
        same = _common(own, locality)
        raw[locality] = 3 - same if same else 3
        if not same and allowed and parts(locality)[0] not in allowed:
            raw[locality] = 4
    return without_gaps(raw)


def _common(left: str, right: str) -> int:
    """How many leading levels are equal."""
    count = 0
    for a, b in zip(parts(left), parts(right), strict=True):
        if a != b:
            break
        count += 1
    return count


def without_gaps(raw: Mapping[str, int]) -> dict[str, int]:
    """Renumber priorities so that they start at zero and have no gaps, which Envoy requires."""
    order = {value: rank for rank, value in enumerate(sorted(set(raw.values())))}
    return {key: order[value] for key, value in raw.items()}


def label_rank(labels: Sequence[str], client: Mapping[str, str], own: str, endpoint: Endpoint) -> int:
    """Priority by `failoverPriority`: the number of leading entries that match decides, all of them is best."""
    matched = 0
    for entry in labels:
        key, equals, wanted = entry.partition("=")
        mine = wanted if equals else _value(key, client, own)
        if _value(key, endpoint.labels, endpoint.locality) != mine:
            break
        matched += 1
    return len(labels) - matched


def _value(key: str, labels: Mapping[str, str], locality: str) -> str:
    if key in _SPECIAL and locality:
        return parts(locality)[_SPECIAL[key]]
    return labels.get(key, "")


def by_distribute(
    own: str, localities: Mapping[str, int], rules: Sequence[LocalityDistribute]
) -> dict[str, int] | None:
    """Weight by locality (endpoint weights given): None when no rule is for us; localities left out get nothing."""
    rule = next((r for r in rules if r.from_ and matches(r.from_, own)), None)
    if rule is None:
        return None
    result: dict[str, int] = {}
    for pattern, share in rule.to.items():
        found = {name: weight for name, weight in localities.items() if matches(pattern, name) and name not in result}
        total = sum(found.values()) or 1
        for name, weight in found.items():
            result[name] = max(1, round(share * 100 * weight / total)) if share else 0
    return {name: weight for name, weight in result.items() if weight}


def matches(pattern: str, locality: str) -> bool:
    """Whether `region/zone/*` covers a locality."""
    for want, have in zip(pattern.split("/"), parts(locality), strict=False):
        if want == "*":
            return True
        if want != have:
            return False
    return True
