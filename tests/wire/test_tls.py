"""TLS without sockets: who gets in, who they are, and which certificate is shown after a rotation."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lateen.wire.tls import TlsSession, server_context
from tests.fakes.pki import Pair, TestAuthority

SERVER = "spiffe://td/ns/istio-system/sa/lateen-extauthz"
CLIENT = "spiffe://td/ns/payments/sa/api"


@dataclass(frozen=True)
class Material:
    cert_chain_pem: bytes
    key_pem: bytes
    roots_pem: bytes


def material(authority: TestAuthority, clients: TestAuthority | None = None) -> Material:
    pair = authority.issue(SERVER, "server.test")
    return Material(pair.certificate.encode(), pair.key.encode(), (clients or authority).root.encode())


class Client:
    """The other side of a session, in memory."""

    def __init__(
        self, directory: Path, roots: TestAuthority, pair: Pair | None, alpn: tuple[str, ...] = ("h2",), name: str = ""
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=roots.root)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if pair is not None:
            file = directory / "client.pem"
            file.write_text(pair.certificate + pair.key)
            context.load_cert_chain(file)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=name or None)

    def meet(self, session: TlsSession, *says: bytes) -> bytes:
        """Shake hands, say something, and return what the server understands; raises what either side raises."""
        heard = b""
        pending = list(says)
        done = False
        for _ in range(10):
            try:
                if not done:
                    self.tls.do_handshake()
                    done = True
                while pending:
                    self.tls.write(pending.pop(0))
            except ssl.SSLWantReadError:
                pass
            if self._out.pending:
                heard += session.receive(self._out.read())
            self._in.write(session.pending())
        return heard

    def hear(self, data: bytes) -> bytes:
        self._in.write(data)
        return self.tls.read(100_000)

    def server_certificate(self) -> x509.Certificate:
        der = self.tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)


def test_both_sides_understand_each_other(tmp_path: Path) -> None:
    authority = TestAuthority()
    held = material(authority)
    session = TlsSession(server_context(lambda: held))
    client = Client(tmp_path, authority, authority.issue(CLIENT))
    assert client.meet(session, b"hello ", b"server" * 10_000) == b"hello " + b"server" * 10_000
    assert session.ready
    assert session.speaks_http2
    assert session.peer_identity() == CLIENT
    assert client.hear(session.encrypt(b"hello client")) == b"hello client"
    assert not session.ended
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    assert session.receive(client._out.read()) == b""
    assert session.ended


@pytest.mark.parametrize("sort", ["none", "of another root", "expired roots"])
def test_without_a_certificate_of_this_mesh_nobody_gets_in(tmp_path: Path, sort: str) -> None:
    authority, other = TestAuthority(), TestAuthority()
    held = material(authority, clients=other if sort == "expired roots" else None)
    session = TlsSession(server_context(lambda: held))
    pair = {"none": None, "of another root": other.issue(CLIENT), "expired roots": authority.issue(CLIENT)}[sort]
    with pytest.raises(ssl.SSLError):
        Client(tmp_path, authority, pair).meet(session, b"hello")
    assert not session.ready


def test_bytes_that_are_no_tls() -> None:
    held = material(TestAuthority())
    session = TlsSession(server_context(lambda: held))
    with pytest.raises(ssl.SSLError):
        session.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


def test_old_versions_are_refused(tmp_path: Path) -> None:
    authority = TestAuthority()
    held = material(authority)
    context = server_context(lambda: held)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_client_that_does_not_choose_http2(tmp_path: Path) -> None:
    authority = TestAuthority()
    held = material(authority)
    session = TlsSession(server_context(lambda: held))
    Client(tmp_path, authority, authority.issue(CLIENT), alpn=()).meet(session)
    assert session.ready
    assert not session.speaks_http2


@pytest.mark.parametrize("name", ["", "https://not.spiffe/a"])
def test_a_certificate_without_an_identity(tmp_path: Path, name: str) -> None:
    authority = TestAuthority()
    held = material(authority)
    session = TlsSession(server_context(lambda: held))
    Client(tmp_path, authority, authority.issue(name, "client.test")).meet(session)
    assert session.ready
    assert session.peer_identity() is None


@pytest.mark.parametrize("name", ["", "server.test"], ids=["without a server name", "with one"])
def test_rotation(tmp_path: Path, name: str) -> None:
    """New handshakes show the new certificate and check against the new roots; the old connection lives on."""
    old, new = TestAuthority(), TestAuthority()
    held = [material(old)]
    context = server_context(lambda: held[-1])
    first_session, first = TlsSession(context), Client(tmp_path, old, old.issue(CLIENT), name=name)
    first.meet(first_session)

    held.append(material(new))
    session, client = TlsSession(context), Client(tmp_path, new, new.issue(CLIENT), name=name)
    client.meet(session)
    assert session.ready
    assert session.peer_identity() == CLIENT
    shown = client.server_certificate().public_bytes(Encoding.PEM)
    assert shown == held[-1].cert_chain_pem
    with pytest.raises(ssl.SSLError):
        Client(tmp_path, new, old.issue(CLIENT), name=name).meet(TlsSession(context), b"hello")
    assert first.hear(first_session.encrypt(b"still here")) == b"still here"


def test_a_pair_that_cannot_be_loaded_changes_nothing(tmp_path: Path) -> None:
    authority = TestAuthority()
    held = [material(authority)]
    context = server_context(lambda: held[-1])
    held.append(Material(b"nonsense", b"nonsense", b"nonsense"))
    session, client = TlsSession(context), Client(tmp_path, authority, authority.issue(CLIENT))
    client.meet(session)
    assert client.server_certificate().public_bytes(Encoding.PEM) == held[0].cert_chain_pem


def test_no_session_is_resumed(tmp_path: Path) -> None:
    """A ticket would let a client in whose root has been taken away since."""
    authority = TestAuthority()
    held = material(authority)
    context = server_context(lambda: held)
    client = Client(tmp_path, authority, authority.issue(CLIENT))
    session = TlsSession(context)
    client.meet(session)
    with pytest.raises(ssl.SSLWantReadError):
        client.hear(b"")
    ticket = client.tls.session
    assert ticket is None or not ticket.has_ticket
