"""Policies before the listeners that need them: ext_authz must have taken a policy before Envoy is told to ask it."""

from collections.abc import Iterable, Mapping

from lateen.controlplane.connection import Connection
from lateen.controlplane.names import LDS, WORKLOAD_POLICY
from lateen.controlplane.snapshot import Snapshot

GATE_SECONDS = 2.0
"""How long a listener waits at most. After that it goes out: ext_authz denies a target it does not know."""

HELD = frozenset({LDS})


def needed_policies(workload_key: str, services: Snapshot | None) -> Mapping[str, str]:
    """Name and hash of the policies that requests to this workload are decided by."""
    policies = services.resources.get(WORKLOAD_POLICY, {}) if services else {}
    blob = policies.get(workload_key)
    return {workload_key: blob.hash} if blob is not None else {}


def all_taken(needed: Mapping[str, str], connections: Iterable[Connection]) -> bool:
    """Whether every connected ext_authz has answered for all of them; true when none is connected.

    One that refuses a policy keeps its last one, or denies: there is nothing to wait for.
    """
    return all(
        connection.session.holds(WORKLOAD_POLICY, name) == version or connection.session.refuses(WORKLOAD_POLICY, name)
        for connection in connections
        if WORKLOAD_POLICY in connection.types and connection.session.subscribed(WORKLOAD_POLICY)
        for name, version in needed.items()
    )
