"""Joining, end to end: the real authority, the real agent, and our own SDS client in place of Envoy."""

import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from lateen.adsclient.tls import SdsIdentity
from tests.agent.harness import Agent, Authority, eventually

pytestmark = pytest.mark.e2e


async def test_a_token_becomes_a_certificate_on_the_proxys_socket(authority: Authority, agent: Agent) -> None:
    token = authority.token("default", "orders", dns_names=("orders.default.svc",))
    socket = agent.register("orders", token)
    eventually(lambda: agent.issued("orders") == 1, "a certificate")
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    async with SdsIdentity(socket) as identity:
        held = identity.current
    leaf = x509.load_pem_x509_certificate(held.cert_chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://cluster.local/ns/default/sa/orders"
    ]
    assert names.value.get_values_for_type(x509.DNSName) == ["orders.default.svc"]
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert held.roots_pem == authority.root_file.read_bytes()
