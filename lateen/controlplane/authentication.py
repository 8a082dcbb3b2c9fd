"""Who may have what over ADS: the peer's certificate must say what its node claims."""

from collections.abc import Iterable, Mapping

from lateen.controlplane.names import PUSH_ORDER, WORKLOAD_LIMITS, WORKLOAD_POLICY
from lateen.controlplane.proxy import Proxy, ProxyType
from lateen.mesh.identity import SCHEME, SpiffeId

_SANS = "x509_subject_alternative_name"

SERVICE_TYPES: Mapping[str, frozenset[str]] = {
    "lateen-extauthz": frozenset({WORKLOAD_POLICY}),
    "lateen-ratelimit": frozenset({WORKLOAD_LIMITS}),
}
"""What our own services, by service account in the root namespace, may subscribe to."""


class Denied(Exception):  # noqa: N818 - an answer of the protocol
    """The peer may not have what it asks for; the text is safe to tell it."""


def peer_of(auth_context: Mapping[str, Iterable[bytes]]) -> SpiffeId:
    """The peer of a mutually authenticated connection; Denied unless its certificate has exactly one SPIFFE id."""
    names = [san.decode(errors="replace") for san in auth_context.get(_SANS, ())]
    ids = [name for name in names if name.startswith(SCHEME)]
    if len(ids) != 1:
        raise Denied(f"the client certificate must carry one spiffe id, it carries {len(ids)}")
    try:
        return SpiffeId.parse(ids[0])
    except ValueError as error:
        raise Denied(f"the client certificate's identity {error}") from error


def authorize(peer: SpiffeId, proxy: Proxy, trust_domains: Iterable[str], root_namespace: str) -> frozenset[str]:
    """The type URLs that the peer may have as `proxy`; Denied when its certificate is not that proxy's."""
    if peer.trust_domain not in set(trust_domains):
        raise Denied(f"{peer} is of another trust domain")
    if proxy.namespace != peer.namespace:
        raise Denied(f"{peer} may not act as {proxy.name} of namespace {proxy.namespace}")
    if proxy.service_account != peer.service_account:
        raise Denied(f"{peer} may not act with service account {proxy.service_account}")
    if proxy.type is not ProxyType.SERVICE:
        return frozenset(PUSH_ORDER)
    types = SERVICE_TYPES.get(peer.service_account) if peer.namespace == root_namespace else None
    if types is None:
        raise Denied(f"{peer} is not one of the services that may read policies and limits")
    return types


def check_registered(peer: SpiffeId, registered_service_account: str | None) -> None:
    """Denied when the workload is known under another service account than the peer's."""
    if registered_service_account is not None and registered_service_account != peer.service_account:
        raise Denied(f"{peer} may not act as a workload registered with service account {registered_service_account}")
