"""Telemetry (telemetry.istio.io): metrics, access logs and traces."""

from enum import StrEnum

from pydantic import model_validator

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import (
    Bool,
    Duration,
    LabelSelector,
    NonEmpty,
    Percentage,
    PolicyTargetReference,
    Spec,
    TargetRefs,
    at_most_one,
    one_target,
    rule_error,
)


class WorkloadMode(StrEnum):
    """The role of the proxy."""

    CLIENT_AND_SERVER = "CLIENT_AND_SERVER"
    CLIENT = "CLIENT"
    SERVER = "SERVER"


class ProviderRef(Spec):
    """A provider of the mesh configuration, by name."""

    name: NonEmpty


class ModeSelector(Spec):
    """The role of the proxy to which a block applies."""

    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER


class LiteralTag(Spec):
    """A constant."""

    value: NonEmpty


class EnvironmentTag(Spec):
    """An environment variable of the proxy."""

    name: NonEmpty
    default_value: str | None = None


class HeaderTag(Spec):
    """A request header."""

    name: NonEmpty
    default_value: str | None = None


class FormatterTag(Spec):
    """An access-log format string."""

    value: NonEmpty


class CustomTag(Spec):
    """A tag of spans."""

    literal: LiteralTag | None = None
    environment: EnvironmentTag | None = None
    header: HeaderTag | None = None
    formatter: FormatterTag | None = None

    @model_validator(mode="after")
    def _one(self) -> "CustomTag":
        at_most_one(self, ("literal", "environment", "header", "formatter"))
        return self


class Tracing(Spec):
    """Traces."""

    match: ModeSelector | None = None
    providers: tuple[ProviderRef, ...] = ()
    random_sampling_percentage: Percentage | None = None
    disable_span_reporting: Bool | None = None
    custom_tags: dict[str, CustomTag] = {}
    use_request_id_for_trace_sampling: Bool | None = None
    enable_istio_tags: Bool | None = None
    disable_context_propagation: Bool | None = None


class IstioMetric(StrEnum):
    """Istio's standard metrics."""

    ALL_METRICS = "ALL_METRICS"
    REQUEST_COUNT = "REQUEST_COUNT"
    REQUEST_DURATION = "REQUEST_DURATION"
    REQUEST_SIZE = "REQUEST_SIZE"
    RESPONSE_SIZE = "RESPONSE_SIZE"
    TCP_OPENED_CONNECTIONS = "TCP_OPENED_CONNECTIONS"
    TCP_CLOSED_CONNECTIONS = "TCP_CLOSED_CONNECTIONS"
    TCP_SENT_BYTES = "TCP_SENT_BYTES"
    TCP_RECEIVED_BYTES = "TCP_RECEIVED_BYTES"
    GRPC_REQUEST_MESSAGES = "GRPC_REQUEST_MESSAGES"
    GRPC_RESPONSE_MESSAGES = "GRPC_RESPONSE_MESSAGES"


class MetricSelector(Spec):
    """Which metric an override applies to."""

    metric: IstioMetric | None = None
    custom_metric: NonEmpty | None = None
    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER

    @model_validator(mode="after")
    def _one(self) -> "MetricSelector":
        at_most_one(self, ("metric", "custom_metric"))
        return self


class TagOperation(StrEnum):
    """What happens to a tag."""

    UPSERT = "UPSERT"
    REMOVE = "REMOVE"


class TagOverride(Spec):
    """Set or remove a tag of a metric."""

    operation: TagOperation = TagOperation.UPSERT
    value: str | None = None

    @model_validator(mode="after")
    def _value(self) -> "TagOverride":
        if self.has("operation") and self.operation is TagOperation.UPSERT and not self.value:
            raise rule_error("requires", "value must be set when operation is UPSERT", "operation", hint="add value")
        if self.operation is TagOperation.REMOVE and self.value is not None:
            raise rule_error("requires", "value must not be set when operation is REMOVE", "value", hint="remove value")
        return self


class MetricsOverrides(Spec):
    """Change or switch off a metric."""

    match: MetricSelector | None = None
    disabled: Bool | None = None
    tag_overrides: dict[str, TagOverride] = {}


class Metrics(Spec):
    """Metrics."""

    providers: tuple[ProviderRef, ...] = ()
    overrides: tuple[MetricsOverrides, ...] = ()
    reporting_interval: Duration | None = None


class LogFilter(Spec):
    """A CEL expression that selects what is logged."""

    expression: str | None = None


class AccessLogging(Spec):
    """Access logs."""

    match: ModeSelector | None = None
    providers: tuple[ProviderRef, ...] = ()
    disabled: Bool | None = None
    filter: LogFilter | None = None


class TelemetrySpec(Spec):
    """Telemetry for the workloads selected."""

    selector: LabelSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: TargetRefs = ()
    tracing: tuple[Tracing, ...] = ()
    metrics: tuple[Metrics, ...] = ()
    access_logging: tuple[AccessLogging, ...] = ()

    @model_validator(mode="after")
    def _one_target(self) -> "TelemetrySpec":
        one_target(self)
        return self


class Telemetry(Resource):
    """Metrics, access logs and traces."""

    api_version: str = "telemetry.istio.io/v1"
    kind: str = "Telemetry"
    spec: TelemetrySpec = TelemetrySpec()
