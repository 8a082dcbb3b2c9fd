from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca.authority import Authority, Credentials, Issued, Refusal, RefusedError
from ca.identity import Identity, IdentityError
from ca.issue import issue_certificate
from ca.metrics import render_metrics
from ca.root import CLOCK_SKEW, Root, create_root
from tests.ca.builders import DAY, NOW, csr_for, der, leaf_of, new_authority, new_key, self_signed, signed_by

ORDERS = Identity("orders", "orders-svc", ("orders.orders.svc",))
ORDERS_ID = "spiffe://cluster.local/ns/orders/sa/orders-svc"


def join(authority: Authority, identity: Identity = ORDERS, *, now: datetime = NOW, seconds: int = 0) -> Issued:
    token = authority.tokens.mint(identity, now, timedelta(minutes=1))
    return authority.create_certificate(csr_for(new_key()), seconds, Credentials(token=token), now)


def renew(authority: Authority, issued: Issued, now: datetime = NOW, token: str | None = None) -> Issued:
    credentials = Credentials(token=token, peer_certificate=der(leaf_of(issued.chain)))
    return authority.create_certificate(csr_for(new_key()), 0, credentials, now)


def names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    value = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return value.get_values_for_type(x509.UniformResourceIdentifier), value.get_values_for_type(x509.DNSName)


def test_the_certificate_is_what_istios_workloads_have() -> None:
    leaf = leaf_of(join(new_authority()).chain)
    assert names(leaf) == ([ORDERS_ID], ["orders.orders.svc"])
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    assert list(leaf.subject) == []
    assert leaf.not_valid_before_utc == NOW - CLOCK_SKEW
    assert leaf.not_valid_after_utc == NOW + DAY
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert leaf.serial_number.bit_length() > 64


def test_nothing_but_the_key_is_taken_from_the_request() -> None:
    authority, key = new_authority(), new_key()
    token = authority.tokens.mint(ORDERS, NOW, timedelta(minutes=1))
    csr = csr_for(key, "spiffe://cluster.local/ns/admin/sa/admin", dns="admin.local")
    leaf = leaf_of(authority.create_certificate(csr, 0, Credentials(token=token), NOW).chain)
    assert names(leaf) == ([ORDERS_ID], ["orders.orders.svc"])
    assert leaf.public_key() == key.public_key()
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_the_answer_is_leaf_intermediates_root() -> None:
    anchor_key, issuer_key = new_key(), new_key()
    anchor = self_signed(anchor_key, ca=True)
    issuer = signed_by(anchor, anchor_key, issuer_key)
    authority = Authority(Root(issuer_key, (issuer, anchor)), "cluster.local", DAY / 2)
    chain = [x509.load_pem_x509_certificate(pem.encode()) for pem in join(authority).chain]
    assert chain[1:] == [issuer, anchor]
    chain[0].verify_directly_issued_by(issuer)


def test_no_certificate_outlives_its_root() -> None:
    authority = new_authority(max_lifetime=timedelta(days=9999))
    leaf = leaf_of(join(authority, seconds=10**12).chain)
    assert leaf.not_valid_after_utc == authority.root.anchor.not_valid_after_utc


def test_renewal_keeps_the_identity_and_its_dns_names_and_uses_no_token() -> None:
    authority = new_authority()
    first = join(authority)
    token = authority.tokens.mint(Identity("other", "other"), NOW, timedelta(minutes=1))
    second = renew(authority, first, NOW + DAY / 2, token)
    assert names(leaf_of(second.chain)) == ([ORDERS_ID], ["orders.orders.svc"])
    assert second.renewal
    assert not first.renewal
    assert leaf_of(second.chain).not_valid_after_utc == NOW + DAY * 1.5
    assert len(authority.tokens) == 1


@pytest.mark.parametrize("moment", [DAY, 2 * DAY])
def test_an_expired_certificate_does_not_renew(moment: timedelta) -> None:
    authority = new_authority()
    first = join(authority)
    with pytest.raises(RefusedError, match="expired") as refused:
        renew(authority, first, NOW + moment)
    assert refused.value.kind is Refusal.UNAUTHENTICATED


def test_certificates_of_others_do_not_renew() -> None:
    authority, stranger = new_authority(), new_authority()
    with pytest.raises(RefusedError, match="not one of this authority's"):
        renew(authority, join(stranger))
    other_domain = Authority(authority.root, "other.local", DAY)
    with pytest.raises(RefusedError, match="not of a workload in trust domain"):
        renew(authority, join(other_domain))
    for garbage in (b"", b"garbage"):
        with pytest.raises(RefusedError, match="not one of"):
            authority.create_certificate(csr_for(new_key()), 0, Credentials(peer_certificate=garbage), NOW)
    assert authority.counts["authentication_failure"] == 4
    assert authority.counts["id_extraction_error"] == 1


def test_no_credentials_no_certificate() -> None:
    authority = new_authority()
    for credentials in (Credentials(), Credentials(token="unknown.token")):
        with pytest.raises(RefusedError) as refused:
            authority.create_certificate(csr_for(new_key()), 0, credentials, NOW)
        assert refused.value.kind is Refusal.UNAUTHENTICATED


def test_a_bad_request_does_not_use_up_the_token() -> None:
    authority = new_authority()
    token = authority.tokens.mint(ORDERS, NOW, timedelta(minutes=1))
    with pytest.raises(RefusedError) as refused:
        authority.create_certificate(b"nonsense", 0, Credentials(token=token), NOW)
    assert refused.value.kind is Refusal.INVALID
    assert authority.create_certificate(csr_for(new_key()), 0, Credentials(token=token), NOW).identity == ORDERS_ID


def test_an_authority_whose_root_expired_issues_nothing_and_keeps_the_token() -> None:
    authority = new_authority()
    later = authority.root.anchor.not_valid_after_utc
    token = authority.tokens.mint(ORDERS, later, timedelta(minutes=1))
    with pytest.raises(RefusedError, match="root cannot issue") as refused:
        authority.create_certificate(csr_for(new_key()), 0, Credentials(token=token), later)
    assert refused.value.kind is Refusal.UNAVAILABLE
    assert len(authority.tokens) == 1


def test_metrics_have_istios_names() -> None:
    authority = new_authority()
    join(authority)
    with pytest.raises(RefusedError):
        authority.create_certificate(csr_for(new_key()), 0, Credentials(), NOW)
    with pytest.raises(RefusedError):
        authority.create_certificate(b"", 0, Credentials(), NOW)
    lines = render_metrics(authority, NOW).splitlines()
    for line in (
        "citadel_server_csr_count 3",
        "citadel_server_success_cert_issuance_count 1",
        "citadel_server_authentication_failure_count 1",
        "citadel_server_csr_parsing_err_count 1",
        "citadel_server_csr_sign_err_count 0",
        f"citadel_server_root_cert_expiry_seconds {3650 * 86400}",
        f"citadel_server_root_cert_expiry_timestamp {authority.root.anchor.not_valid_after_utc.timestamp():.0f}",
    ):
        assert line in lines


@pytest.mark.parametrize(
    "fields",
    [
        ("", "sa"),
        ("ns", ""),
        ("ns/sa/admin", "x"),
        ("ns", "../admin"),
        ("ns", "sa/ns/x"),
        ("NS", "sa"),
        ("ns", "sa", ("bad name",)),
        ("ns", "sa", ("spiffe://cluster.local/ns/a/sa/b",)),
        ("ns", "sa", ("a" * 254,)),
        ("ns", "sa", ("a.b",) * 17),
        ("ns\n", "sa"),
    ],
)
def test_impossible_identities_cannot_be_built(fields: tuple[str, ...]) -> None:
    with pytest.raises(IdentityError):
        Identity(*fields)  # type: ignore[arg-type]  # a table of positional fields


def test_secrets_are_in_no_representation() -> None:
    assert "hunter2" not in repr(Credentials(token="hunter2", peer_certificate=b"hunter2"))
    root = create_root("cluster.local", NOW)
    leaf = issue_certificate(root, new_key().public_key(), ORDERS, "cluster.local", NOW, DAY)
    assert leaf.issuer == root.issuer.subject
