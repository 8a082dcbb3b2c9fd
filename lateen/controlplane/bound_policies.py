"""Policies resolved for our services: one WorkloadPolicy or WorkloadLimits for each workload key that something selects."""

from __future__ import annotations

from collections.abc import Iterator

from lateen.controlplane import names
from lateen.controlplane.blobs import Blob, Blobs
from lateen.envoyapi.lateen.v1alpha1 import workload_pb2
from lateen.mesh.authorizationpolicy import Action, AuthorizationPolicy
from lateen.mesh.engine import engine_of
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.meshconfig import EnforcementEngine
from lateen.mesh.metadata import Resource
from lateen.mesh.requestauthentication import RequestAuthentication
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload
from lateen.policy.limits import compile_limits
from lateen.policy.limits import workload_limits as compile_workload_limits


def workload_policies(view: MeshView, blobs: Blobs | None = None) -> tuple[Blob, ...]:
    """What ext_authz enforces, by workload key."""
    return tuple(_policies(view, blobs if blobs is not None else Blobs()))


def _policies(view: MeshView, blobs: Blobs) -> Iterator[Blob]:
    for workload in _by_key(view):
        policies = [p for p in view.authorization_policies(workload) if p.spec.action is not Action.CUSTOM]
        authentications = view.request_authentications(workload)
        if (not policies and not authentications) or engine_of(view, workload) is EnforcementEngine.NATIVE:
            continue  # the proxy asks nobody, or only the authorizers that CUSTOM policies name
        message = workload_pb2.WorkloadPolicy(
            target=workload.key,
            namespace=workload.namespace,
            labels=dict(workload.labels),
            service_account=workload.service_account,
            trust_domain=view.trust_domain,
            trust_domain_aliases=view.mesh.trust_domain_aliases,
            root_namespace=view.root_namespace,
            trusted_hops=_trusted_hops(view),
            path_normalization=str(view.mesh.path_normalization.normalization),
            authorization_policies=[_attached(view, policy) for policy in policies],
            request_authentications=[_attached(view, rule) for rule in authentications],
        )
        origins = [resource.key for resource in (*policies, *authentications)]
        yield blobs.intern(names.WORKLOAD_POLICY, workload.key, message, origins)


def workload_limits(view: MeshView, blobs: Blobs | None = None) -> tuple[Blob, ...]:
    """What the rate limit service counts, by workload key."""
    return tuple(_limits(view, blobs if blobs is not None else Blobs()))


def _limits(view: MeshView, blobs: Blobs) -> Iterator[Blob]:
    for workload in _by_key(view):
        policies = view.rate_limit_policies(workload)
        if policies:
            limits = [(limit, *_position(view, p.key)) for p in policies for limit in compile_limits(p)]
            message = compile_workload_limits(workload.key, limits)
            yield blobs.intern(names.WORKLOAD_LIMITS, workload.key, message, [p.key for p in policies])


def _by_key(view: MeshView) -> list[Workload]:
    """One replica of each key: replicas that share a key are alike."""
    first: dict[str, Workload] = {}
    for workload in view.workloads:
        first.setdefault(workload.key, workload)
    return [first[key] for key in sorted(first)]


def _trusted_hops(view: MeshView) -> int:
    topology = view.mesh.default_config.gateway_topology or {}
    hops = topology.get("numTrustedProxies")
    return hops if isinstance(hops, int) and hops > 0 else 0


def _attached(view: MeshView, resource: Resource) -> workload_pb2.AttachedResource:
    file, line = _position(view, resource.key)
    created = resource.metadata.creation_timestamp
    spec = getattr(resource, "spec", None)
    return workload_pb2.AttachedResource(
        api_version=resource.api_version,
        kind=resource.kind,
        namespace=resource.namespace,
        name=resource.name,
        file=file,
        line=line,
        spec_json=spec.model_dump_json(by_alias=True, exclude_unset=True) if spec is not None else "{}",
        annotations=dict(resource.metadata.annotations),
        created_unix=int(created.timestamp()) if created is not None else 0,
        rule_lines=_rule_lines(view, resource),
    )


def _rule_lines(view: MeshView, resource: Resource) -> list[int]:
    """The line of each rule, for explanations; nothing where fields have no lines of their own."""
    source = view.source(resource.key)
    if source is None:
        return []
    if isinstance(resource, AuthorizationPolicy):
        return [source.position(("spec", "rules", i)).line for i in range(len(resource.spec.rules))]
    if isinstance(resource, RequestAuthentication):
        return [source.position(("spec", "jwtRules", i)).line for i in range(len(resource.spec.jwt_rules))]
    return []


def _position(view: MeshView, key: ResourceKey) -> tuple[str, int]:
    """Where a resource stands in its file, for explanations."""
    source = view.source(key)
    return (source.file, source.position(()).line) if source is not None else ("", 0)
