"""AuthorizationPolicy (security.istio.io): who may call a workload."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import LabelSelector, PolicyTargetReference, Spec, TargetRefs, one_target, rule_error


class Action(StrEnum):
    """What a matching policy does."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


ServiceAccounts = Annotated[tuple[Annotated[str, Field(max_length=320)], ...], Field(max_length=16)]


class Source(Spec):
    """Where a request comes from; all fields that are set must match."""

    principals: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    request_principals: tuple[str, ...] = ()
    not_request_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    ip_blocks: tuple[str, ...] = ()
    not_ip_blocks: tuple[str, ...] = ()
    remote_ip_blocks: tuple[str, ...] = ()
    not_remote_ip_blocks: tuple[str, ...] = ()
    service_accounts: ServiceAccounts = ()
    not_service_accounts: ServiceAccounts = ()
    trust_domains: tuple[str, ...] = ()
    not_trust_domains: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _identity_once(self) -> "Source":
        if self.has("service_accounts") or self.has("not_service_accounts"):
            for field in ("principals", "not_principals", "namespaces", "not_namespaces"):
                if self.has(field):
                    alias = type(self).model_fields[field].alias or field
                    raise rule_error("one_of", "cannot set serviceAccounts with namespaces or principals", alias)
        return self


class Operation(Spec):
    """What is asked for; all fields that are set must match."""

    hosts: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    not_ports: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()


class From(Spec):
    """One entry of `from`."""

    source: Source | None = None


class To(Spec):
    """One entry of `to`."""

    operation: Operation | None = None


class Condition(Spec):
    """One entry of `when`."""

    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()


class Rule(Spec):
    """Matches when some `from`, some `to` and every `when` match; an absent list matches everything."""

    from_: Annotated[tuple[From, ...], Field(max_length=512)] = ()
    to: tuple[To, ...] = ()
    when: tuple[Condition, ...] = ()


class ExtensionProviderRef(Spec):
    """The external authorizer of a CUSTOM policy, by its name in the mesh configuration."""

    name: str | None = None


class AuthorizationPolicySpec(Spec):
    """Rules for the workloads selected."""

    selector: LabelSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: TargetRefs = ()
    rules: Annotated[tuple[Rule, ...], Field(max_length=512)] = ()
    action: Action = Action.ALLOW
    provider: ExtensionProviderRef | None = None

    @model_validator(mode="after")
    def _one_target(self) -> "AuthorizationPolicySpec":
        one_target(self)
        return self


class AuthorizationPolicy(Resource):
    """Who may call a workload."""

    api_version: str = "security.istio.io/v1"
    kind: str = "AuthorizationPolicy"
    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()
