import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.root import CLOCK_SKEW, ROOT_LIFETIME, Root, RootError, check_root, create_root, decode_root, encode_root
from tests.ca.builders import DAY, NOW, new_key, self_signed, signed_by


def test_a_new_root_is_p256_for_ten_years_and_back_dated() -> None:
    root = create_root("cluster.local", NOW)
    assert isinstance(root.key, ec.EllipticCurvePrivateKey)
    assert root.key.curve.name == "secp256r1"
    assert root.anchor.not_valid_before_utc == NOW - CLOCK_SKEW
    assert root.anchor.not_valid_after_utc == NOW + ROOT_LIFETIME
    assert ROOT_LIFETIME.days == 3650
    assert root.anchor.extensions.get_extension_for_class(x509.BasicConstraints).critical
    usage = root.anchor.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)


def test_encode_then_decode_is_the_same_root() -> None:
    root = create_root("cluster.local", NOW)
    again = decode_root(encode_root(root), NOW)
    assert again.chain == root.chain
    assert again.key.private_numbers() == root.key.private_numbers()


def test_a_chain_with_an_intermediate_is_accepted_issuer_first() -> None:
    anchor_key, issuer_key = new_key(), new_key()
    anchor = self_signed(anchor_key, ca=True)
    root = Root(issuer_key, (signed_by(anchor, anchor_key, issuer_key), anchor))
    assert decode_root(encode_root(root), NOW).anchor == anchor
    with pytest.raises(RootError, match="does not belong"):
        check_root(Root(issuer_key, (root.chain[1], root.chain[0])), NOW)
    with pytest.raises(RootError, match="chain is broken"):
        check_root(Root(issuer_key, (root.chain[0], self_signed(new_key(), ca=True))), NOW)


@pytest.mark.parametrize(
    ("root", "problem"),
    [
        pytest.param(Root(new_key(), (self_signed(new_key(), ca=True),)), "key does not belong", id="other key"),
        pytest.param(None, "expired at", id="expired"),
        pytest.param(None, "not valid before", id="not yet valid"),
        pytest.param(None, "not an authority's", id="leaf"),
    ],
)
def test_an_unusable_root_is_refused_with_the_reason(root: Root | None, problem: str) -> None:
    if root is None:
        key = new_key()
        certificate = {
            "expired at": self_signed(key, ca=True, ends=NOW),
            "not valid before": self_signed(key, ca=True, begins=NOW + DAY / 2),
            "not an authority's": self_signed(key, ca=False),
        }[problem]
        root = Root(key, (certificate,))
    with pytest.raises(RootError, match=problem):
        decode_root(encode_root(root), NOW)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_unreadable_content_is_refused(content: bytes) -> None:
    with pytest.raises(RootError, match="no readable PEM"):
        decode_root(content, NOW)


def test_the_key_is_in_no_representation() -> None:
    root = create_root("cluster.local", NOW)
    assert "key" not in repr(root).lower()
