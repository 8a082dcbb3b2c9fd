"""RateLimitPolicy, compiled: what Envoy is to send for a limit, and what the rate limit service is to count. Pure.

Both sides are derived from the same `CompiledLimit`, so a descriptor that Envoy sends and the entries that the service expects
cannot drift apart: `envoy_rate_limits` (limit_actions.py) makes the actions, `workload_limit` the service's message.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lateen.envoyapi.lateen.v1alpha1 import workload_pb2
from lateen.mesh.ratelimitpolicy import Descriptor, Limit, LimitMatch, RateLimitPolicy, Unit

DOMAIN = "lateen"
POLICY_KEY = "policy"
MATCH_KEY = "match"
MATCH_VALUE = "yes"

STAGE_ALLOW = 0
STAGE_DENY = 1


class Source(StrEnum):
    """Where the value of a descriptor entry comes from."""

    FIXED = "fixed"
    HEADER = "header"
    PATH = "path"
    PRINCIPAL = "principal"
    CLAIM = "claim"
    REMOTE_ADDRESS = "remote_address"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a descriptor; `argument` is the header's name, the claim's path joined by `.`, or the fixed value."""

    key: str
    source: Source
    argument: str = ""


@dataclass(frozen=True, slots=True)
class HeaderCondition:
    """A header that must match: `regex` is RE2 over the whole value; without one, the header must be present, or absent."""

    name: str
    regex: str | None
    present: bool = True


@dataclass(frozen=True, slots=True)
class CompiledLimit:
    """One limit of one policy: when it applies (`conditions`, all of them), what it counts by, how much is allowed."""

    policy: str
    name: str
    conditions: tuple[HeaderCondition, ...]
    entries: tuple[Entry, ...]
    requests_per_unit: int
    unit: str
    unlimited: bool
    shadow: bool
    failure_mode: str

    @property
    def identifier(self) -> str:
        """`namespace/policy/limit`, the value of the first entry: what makes descriptors of two limits different."""
        return f"{self.policy}/{self.name}"

    @property
    def stage(self) -> int:
        """The stage of Envoy's rate limit filter: one filter allows, the other denies when the service cannot answer."""
        return STAGE_DENY if self.failure_mode == "deny" else STAGE_ALLOW


def compile_limits(policy: RateLimitPolicy) -> tuple[CompiledLimit, ...]:
    """The limits of a policy in its own order."""
    owner = f"{policy.metadata.namespace}/{policy.metadata.name}"
    return tuple(_compile(owner, policy, limit) for limit in policy.spec.limits)


def _compile(owner: str, policy: RateLimitPolicy, limit: Limit) -> CompiledLimit:
    conditions = _conditions(limit.match) if limit.match else ()
    entries = [Entry(POLICY_KEY, Source.FIXED, f"{owner}/{limit.name}")]
    if conditions:
        entries.append(Entry(MATCH_KEY, Source.FIXED, MATCH_VALUE))
    entries += [_entry(descriptor) for descriptor in limit.descriptors]
    return CompiledLimit(
        policy=owner,
        name=limit.name,
        conditions=conditions,
        entries=tuple(entries),
        requests_per_unit=limit.requests or 0,
        unit=str(limit.per or Unit.SECOND),
        unlimited=limit.unlimited,
        shadow=limit.shadow or policy.spec.shadow,
        failure_mode=str(policy.spec.failure_mode),
    )


def _entry(descriptor: Descriptor) -> Entry:
    if descriptor.header is not None:
        name = descriptor.header.name.lower()
        return Entry(f"header:{name}", Source.HEADER, name)
    if descriptor.path is not None:
        return Entry("path", Source.PATH)
    if descriptor.source_principal is not None:
        return Entry("principal", Source.PRINCIPAL)
    if descriptor.claim is not None:
        return Entry(f"claim:{descriptor.claim.name}", Source.CLAIM, descriptor.claim.name)
    if descriptor.remote_address is not None:
        return Entry("remote_address", Source.REMOTE_ADDRESS)
    return Entry("value", Source.FIXED, descriptor.value or "")


def _conditions(match: LimitMatch) -> tuple[HeaderCondition, ...]:
    conditions = []
    if match.paths:
        alternatives = "|".join(path_regex(path) for path in match.paths)
        conditions.append(HeaderCondition(":path", rf"(?:{alternatives})(?:\?.*)?"))
    if match.methods:
        conditions.append(HeaderCondition(":method", "|".join(string_regex(method) for method in match.methods)))
    for header in match.headers:
        if header.exact is not None:
            regex: str | None = re.escape(header.exact)
        elif header.prefix is not None:
            regex = re.escape(header.prefix) + ".*"
        else:
            regex = header.regex
        conditions.append(HeaderCondition(header.name.lower(), regex, present=header.present is not False))
    return tuple(conditions)


def string_regex(pattern: str, character: str = ".") -> str:
    """Istio's string match (`abc`, `abc*`, `*abc`, `*`) as RE2 over the whole value; `character` is what `*` stands for."""
    if pattern == "*":
        return f"{character}+"
    if pattern.endswith("*"):
        return f"{re.escape(pattern[:-1])}{character}*"
    if pattern.startswith("*"):
        return f"{character}*{re.escape(pattern[1:])}"
    return re.escape(pattern)


def path_regex(pattern: str) -> str:
    """A path as in AuthorizationPolicy's `paths`: a string match, or a template of `{*}` (one segment) and a last `{**}`.

    The query string is not part of the path, so nothing here matches a `?`.
    """
    if "{*}" not in pattern and "{**}" not in pattern:
        return string_regex(pattern, "[^?]")
    segments = {"{*}": "[^/?]+", "{**}": "[^?]*"}
    return "/".join(segments.get(segment, re.escape(segment)) for segment in pattern.split("/"))


def workload_limits(target: str, limits: Iterable[tuple[CompiledLimit, str, int]]) -> workload_pb2.WorkloadLimits:
    """The service's message for a workload; each limit comes with the file and line of its policy."""
    return workload_pb2.WorkloadLimits(
        target=target,
        domain=DOMAIN,
        limits=[
            workload_pb2.Limit(
                policy=limit.policy,
                name=limit.name,
                entries=_expected(limit.entries),
                requests_per_unit=limit.requests_per_unit,
                unit=limit.unit,
                shadow=limit.shadow,
                failure_mode=limit.failure_mode,
                unlimited=limit.unlimited,
                file=file,
                line=line,
            )
            for limit, file, line in limits
        ],
    )


def _expected(entries: Sequence[Entry]) -> list[workload_pb2.LimitEntry]:
    return [
        workload_pb2.LimitEntry(key=entry.key, value=entry.argument)
        if entry.source is Source.FIXED
        else workload_pb2.LimitEntry(key=entry.key, any_value=True)
        for entry in entries
    ]
