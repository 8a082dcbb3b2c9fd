"""RateLimitPolicy (lateen.dev): how many requests a workload accepts, and by what they are counted."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import (
    Bool,
    LabelSelector,
    NonEmpty,
    Spec,
    TargetRefs,
    UInt32,
    at_most_one,
    exactly_one,
    one_target,
    rule_error,
    unique,
)


class FailureMode(StrEnum):
    """What happens to requests when limits cannot be counted."""

    ALLOW = "allow"
    DENY = "deny"


class Unit(StrEnum):
    """The window of a limit."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


class HeaderMatch(Spec):
    """A condition on a request header."""

    name: NonEmpty
    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None
    present: Bool | None = None

    @model_validator(mode="after")
    def _one(self) -> "HeaderMatch":
        exactly_one(self, ("exact", "prefix", "regex", "present"))
        return self


class LimitMatch(Spec):
    """The requests a limit counts; all fields that are set must match. Paths are written as in AuthorizationPolicy."""

    paths: tuple[NonEmpty, ...] = ()
    methods: tuple[NonEmpty, ...] = ()
    headers: tuple[HeaderMatch, ...] = ()


class HeaderDescriptor(Spec):
    """Count by the value of a header."""

    name: NonEmpty


class ClaimDescriptor(Spec):
    """Count by a verified JWT claim; `a.b` is claim `b` in claim `a`."""

    name: NonEmpty


class PathDescriptor(Spec):
    """Count by path."""


class SourcePrincipalDescriptor(Spec):
    """Count by the verified identity of the caller."""


class RemoteAddressDescriptor(Spec):
    """Count by the address of the client."""


class Descriptor(Spec):
    """One attribute by which requests are counted apart; a request without it is not limited."""

    header: HeaderDescriptor | None = None
    path: PathDescriptor | None = None
    source_principal: SourcePrincipalDescriptor | None = None
    claim: ClaimDescriptor | None = None
    remote_address: RemoteAddressDescriptor | None = None
    value: NonEmpty | None = None

    @model_validator(mode="after")
    def _one(self) -> "Descriptor":
        exactly_one(self, ("header", "path", "source_principal", "claim", "remote_address", "value"))
        return self


class Limit(Spec):
    """`requests` per `per`, for each combination of descriptor values."""

    also_called: ClassVar[Mapping[str, str]] = {
        "unit": "per",
        "requestsPerUnit": "requests",
        "requests_per_unit": "requests",
    }

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    match: LimitMatch | None = None
    descriptors: Annotated[tuple[Descriptor, ...], Field(max_length=8)] = ()
    requests: UInt32 | None = None
    per: Unit | None = None
    shadow: Bool = False
    unlimited: Bool = False

    @model_validator(mode="after")
    def _amount(self) -> "Limit":
        if self.unlimited:
            at_most_one(self, ("requests", "unlimited"))
            at_most_one(self, ("per", "unlimited"))
        elif self.requests is None or self.per is None:
            raise rule_error("required", "requests and per are required, or unlimited: true")
        return self


class RateLimitPolicySpec(Spec):
    """Limits for the workloads selected."""

    selector: LabelSelector | None = None
    target_refs: TargetRefs = ()
    failure_mode: FailureMode = FailureMode.ALLOW
    shadow: Bool = False
    limits: Annotated[tuple[Limit, ...], Field(min_length=1, max_length=256)]

    @model_validator(mode="after")
    def _consistent(self) -> "RateLimitPolicySpec":
        one_target(self, ("selector", "target_refs"))
        unique(self.limits, "limits", "name")
        return self


class RateLimitPolicy(Resource):
    """How many requests a workload accepts."""

    api_version: str = "lateen.dev/v1alpha1"
    kind: str = "RateLimitPolicy"
    spec: RateLimitPolicySpec
