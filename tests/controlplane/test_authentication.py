"""Who may have what."""

import pytest

from lateen.controlplane.authentication import Denied, authorize, check_registered, peer_of
from lateen.controlplane.names import PUSH_ORDER, WORKLOAD_LIMITS, WORKLOAD_POLICY
from lateen.controlplane.proxy import Proxy, ProxyType
from lateen.mesh.identity import SpiffeId

SAN = "x509_subject_alternative_name"


def proxy(namespace: str = "shop", account: str = "app", kind: ProxyType = ProxyType.SIDECAR) -> Proxy:
    return Proxy("id", kind, "app-1", namespace, "127.0.0.1", service_account=account)


def allowed(peer: SpiffeId, claim: Proxy) -> frozenset[str]:
    return authorize(peer, claim, ("cluster.local", "old.example"), "istio-system")


def test_the_peer_is_the_one_spiffe_id_of_its_certificate() -> None:
    assert peer_of({SAN: [b"app.shop.svc", b"spiffe://td/ns/shop/sa/app"]}) == SpiffeId("td", "shop", "app")


@pytest.mark.parametrize(
    "names",
    [
        [],
        [b"app.shop.svc"],
        [b"spiffe://td/ns/shop/sa/app", b"spiffe://td/ns/shop/sa/b"],
        [b"spiffe://td/shop/app"],
        [b"spiffe://td/ns//sa/app"],
    ],
)
def test_anything_else_is_nobody(names: list[bytes]) -> None:
    with pytest.raises(Denied):
        peer_of({SAN: names})


@pytest.mark.parametrize("domain", ["cluster.local", "old.example"])
def test_a_proxy_may_have_the_types_of_proxies(domain: str) -> None:
    assert allowed(SpiffeId(domain, "shop", "app"), proxy()) == frozenset(PUSH_ORDER)


@pytest.mark.parametrize(
    ("peer", "claim"),
    [
        (SpiffeId("evil.example", "shop", "app"), proxy()),
        (SpiffeId("cluster.local", "till", "app"), proxy()),
        (SpiffeId("cluster.local", "shop", "till"), proxy()),
        (SpiffeId("cluster.local", "shop", "app"), proxy(kind=ProxyType.SERVICE)),
        (
            SpiffeId("cluster.local", "shop", "lateen-extauthz"),
            proxy(account="lateen-extauthz", kind=ProxyType.SERVICE),
        ),
        (SpiffeId("cluster.local", "istio-system", "app"), proxy("istio-system", kind=ProxyType.SERVICE)),
    ],
)
def test_whoever_claims_to_be_another_is_denied(peer: SpiffeId, claim: Proxy) -> None:
    with pytest.raises(Denied):
        allowed(peer, claim)


@pytest.mark.parametrize(
    ("account", "types"), [("lateen-extauthz", {WORKLOAD_POLICY}), ("lateen-ratelimit", {WORKLOAD_LIMITS})]
)
def test_our_services_may_have_their_own_type_only(account: str, types: set[str]) -> None:
    peer = SpiffeId("cluster.local", "istio-system", account)
    assert allowed(peer, proxy("istio-system", account, ProxyType.SERVICE)) == types


def test_the_registered_service_account_counts() -> None:
    peer = SpiffeId("cluster.local", "shop", "app")
    check_registered(peer, None)
    check_registered(peer, "app")
    with pytest.raises(Denied):
        check_registered(peer, "till")
