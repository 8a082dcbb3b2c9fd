import base64
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ca.signing import MAX_CSR_BYTES, CsrRefusedError, clamp_lifetime, parse_csr
from tests.ca.builders import csr_for, new_key

GOOD = csr_for(new_key())
GOOD_DER = x509.load_pem_x509_csr(GOOD).public_bytes(serialization.Encoding.DER)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(ec.generate_private_key(ec.SECP256R1()), id="P-256"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), id="P-384"),
        pytest.param(rsa.generate_private_key(65537, 2048), id="RSA-2048"),
    ],
)
def test_strong_keys_are_accepted(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    assert parse_csr(csr_for(key)) == key.public_key()


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        pytest.param(rsa.generate_private_key(65537, 1024), "1024 bits", id="RSA-1024"),  # noqa: S505 - it is what must be refused
        pytest.param(rsa.generate_private_key(3, 2048), "exponent", id="RSA e=3"),
        pytest.param(ec.generate_private_key(ec.SECP521R1()), "secp521r1", id="P-521"),
        pytest.param(ec.generate_private_key(ec.SECP256K1()), "secp256k1", id="secp256k1"),
    ],
)
def test_weak_or_odd_keys_are_refused(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, problem: str) -> None:
    with pytest.raises(CsrRefusedError, match=problem):
        parse_csr(csr_for(key))


def test_other_kinds_of_keys_are_refused() -> None:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    pem = request.sign(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CsrRefusedError, match="key type"):
        parse_csr(pem)


def test_a_request_signed_by_another_key_is_refused() -> None:
    # The public key of one request under the signature of another: what somebody without the private key could make.
    victim = (
        x509.load_pem_x509_csr(csr_for(new_key()))
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    attacker_key = new_key()
    attacker = attacker_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    forged = (
        x509.load_pem_x509_csr(csr_for(attacker_key)).public_bytes(serialization.Encoding.DER).replace(attacker, victim)
    )
    with pytest.raises(CsrRefusedError, match="signature does not match"):
        parse_csr(_pem(forged))


def test_size_is_bounded_before_anything_is_parsed() -> None:
    with pytest.raises(CsrRefusedError, match="larger"):
        parse_csr(GOOD + b"\n" * MAX_CSR_BYTES)
    parse_csr(GOOD + b"\n" * (MAX_CSR_BYTES - len(GOOD)))


def test_a_version_that_does_not_exist_is_refused() -> None:
    raw = bytearray(GOOD_DER)
    raw[raw.index(b"\x02\x01\x00") + 2] = 1
    with pytest.raises(CsrRefusedError, match="not a readable"):
        parse_csr(_pem(bytes(raw)))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_requests_are_refused_or_well_signed(data: st.DataObject) -> None:
    raw = bytearray(GOOD_DER)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(raw) - 1))
        raw[position] = data.draw(st.integers(0, 255))
    try:
        key = parse_csr(_pem(bytes(raw)))
    except CsrRefusedError:
        return
    assert key == x509.load_pem_x509_csr(GOOD).public_key()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000))
@example(b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n")
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    for pem in (content, _pem(content)):
        with pytest.raises(CsrRefusedError):
            parse_csr(pem)


@pytest.mark.parametrize(
    ("requested", "granted"),
    [(0, HOUR), (-5, HOUR), (60, timedelta(minutes=1)), (10**18, 2 * HOUR), (7201, 2 * HOUR)],
)
def test_lifetime_is_the_default_or_within_the_maximum(requested: int, granted: timedelta) -> None:
    assert clamp_lifetime(requested, HOUR, 2 * HOUR) == granted


def _pem(content: bytes) -> bytes:
    body = base64.encodebytes(content)
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----\n"
