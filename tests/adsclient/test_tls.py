"""`SdsIdentity` against the agent's own secret service, and gRPC servers and clients that live on what it gives."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from ca.identity import Identity
from ca.issue import issue_certificate
from ca.root import Root, create_root
from ca.sds.secrets import CERTIFICATE, ROOTS, Certificate, Roots, SecretTable
from ca.sds.server import SdsServer, SecretService
from lateen.adsclient.tls import SdsIdentity, TlsMaterial
from lateen.wire.grpcio.server import peer_identity

SECONDS = 10
SERVER_NAME = "lateen-extauthz.istio-system.svc"
CLIENT_ID = "spiffe://cluster.local/ns/default/sa/client"


class AgentSocket:
    """The agent's side: one identity on a unix socket, issued by `root`."""

    def __init__(self, path: Path, root: Root, identity: Identity) -> None:
        self.path, self.root, self.identity, self.table = path, root, identity, SecretTable()
        self._server: SdsServer | None = None

    async def start(self) -> None:
        self._server = SdsServer(SecretService(self.table), self.path)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()

    def issue(self, issuer: Root | None = None, trusted: Root | None = None) -> bytes:
        """Serve a fresh certificate; returns it."""
        issuer, now, key = issuer or self.root, datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
        leaf = issue_certificate(issuer, key.public_key(), self.identity, "cluster.local", now, timedelta(hours=1))
        chain = leaf.public_bytes(serialization.Encoding.PEM)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.table.put(ROOTS, Roots((trusted or self.root).anchor_pem.encode()))
        self.table.put(CERTIFICATE, Certificate(chain, pem))
        return chain


@pytest.fixture
def root() -> Root:
    return create_root("cluster.local", datetime.now(UTC))


@pytest.fixture
async def server_agent(root: Root) -> AsyncIterator[AgentSocket]:
    with tempfile.TemporaryDirectory(prefix="ltn-") as folder:
        agent = AgentSocket(Path(folder, "s.sock"), root, Identity("istio-system", "lateen-extauthz", (SERVER_NAME,)))
        await agent.start()
        yield agent
        await agent.stop()


@pytest.fixture
async def client_agent(root: Root) -> AsyncIterator[AgentSocket]:
    with tempfile.TemporaryDirectory(prefix="ltn-") as folder:
        agent = AgentSocket(Path(folder, "c.sock"), root, Identity("default", "client"))
        await agent.start()
        yield agent
        await agent.stop()


async def who(_: bytes, context: Any) -> bytes:  # noqa: ANN401 - gRPC's
    """Answer with the caller's identity."""
    return (peer_identity(context) or "nobody").encode()


async def serve(identity: SdsIdentity) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("test.Who", {"Ask": grpc.unary_unary_rpc_method_handler(who)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_secure_port("127.0.0.1:0", identity.server_credentials())
    await server.start()
    return server, port


async def ask(port: int, credentials: grpc.ChannelCredentials, name: str = SERVER_NAME) -> str:
    """One call on a connection of its own: the identity the server saw."""
    options = [
        ("grpc.ssl_target_name_override", name),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.Who/Ask")
        return (await call(b"", timeout=SECONDS)).decode()


async def until(holds: Callable[[], bool]) -> None:
    """Poll, within bounds."""
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110 - what is waited for happens in another task's own time
            await asyncio.sleep(0.01)


async def changed(identity: SdsIdentity, chain: bytes) -> None:
    """Wait until the identity holds `chain`."""
    await until(lambda: identity.current.cert_chain_pem == chain)


async def test_both_sides_prove_who_they_are_and_rotate_without_a_restart(
    server_agent: AgentSocket, client_agent: AgentSocket
) -> None:
    server_agent.issue()
    client_agent.issue()
    async with SdsIdentity(server_agent.path) as mine, SdsIdentity(client_agent.path) as theirs:
        server, port = await serve(mine)
        assert await ask(port, theirs.channel_credentials()) == CLIENT_ID
        # A change of roots in the order of a rotation: both trusted, both rotated, only then is the old one gone.
        new_root = create_root("cluster.local", datetime.now(UTC))
        for agent, identity in ((server_agent, mine), (client_agent, theirs)):
            agent.root = new_root
            await changed(identity, agent.issue())
        assert await ask(port, theirs.channel_credentials()) == CLIENT_ID
        await server.stop(0)


async def test_no_certificate_or_a_strangers_is_refused(server_agent: AgentSocket, root: Root) -> None:
    server_agent.issue()
    async with SdsIdentity(server_agent.path) as mine:
        server, port = await serve(mine)
        roots = root.anchor_pem.encode()
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(port, grpc.ssl_channel_credentials(roots))
        with tempfile.TemporaryDirectory(prefix="ltn-") as folder:
            stranger = AgentSocket(Path(folder, "x.sock"), root, Identity("default", "client"))
            await stranger.start()
            stranger.issue(issuer=create_root("cluster.local", datetime.now(UTC)))
            async with SdsIdentity(stranger.path) as other:
                with pytest.raises(grpc.aio.AioRpcError):
                    await ask(port, other.channel_credentials())
            await stranger.stop()
        await server.stop(0)


async def test_the_servers_name_and_root_are_verified(server_agent: AgentSocket, client_agent: AgentSocket) -> None:
    server_agent.issue()
    client_agent.issue()
    async with SdsIdentity(server_agent.path) as mine, SdsIdentity(client_agent.path) as theirs:
        server, port = await serve(mine)
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(port, theirs.channel_credentials(), "lateen-controlplane.istio-system.svc")
        await changed(theirs, client_agent.issue(trusted=create_root("cluster.local", datetime.now(UTC))))
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(port, theirs.channel_credentials())
        await server.stop(0)


async def test_an_agent_that_comes_late_or_back_is_followed(client_agent: AgentSocket) -> None:
    await client_agent.stop()
    identity = SdsIdentity(client_agent.path)
    with pytest.raises(LookupError, match="is the agent running"):
        _ = identity.current
    identity.start()
    assert not identity.ready
    first = client_agent.issue()
    await client_agent.start()
    async with asyncio.timeout(SECONDS):
        await identity.wait_ready()
    await client_agent.stop()
    assert identity.current.cert_chain_pem == first
    await client_agent.start()
    await changed(identity, client_agent.issue())
    await identity.close()
    assert identity.ready


async def test_an_unusable_secret_is_refused_and_the_last_good_one_kept(client_agent: AgentSocket) -> None:
    good = client_agent.issue()
    with capture_logs() as lines:
        async with SdsIdentity(client_agent.path) as identity:
            client_agent.table.put(CERTIFICATE, Certificate(b"", b""))
            await until(lambda: any(line["event"] == "secret refused" for line in lines))
            assert identity.current.cert_chain_pem == good
            await changed(identity, client_agent.issue())


def test_the_key_is_in_no_representation() -> None:
    assert "secret" not in repr(TlsMaterial(b"chain", b"secret", b"roots"))


class Context:
    """What gRPC knows of a peer."""

    def __init__(self, *uris: bytes) -> None:
        self._properties = {"peer_uri": uris, "x509_subject_alternative_name": uris}

    def auth_context(self) -> dict[str, tuple[bytes, ...]]:
        return self._properties


@pytest.mark.parametrize(
    ("uris", "identity"),
    [
        ((), None),
        ((CLIENT_ID.encode(),), CLIENT_ID),
        ((b"https://cluster.local/ns/default/sa/client",), None),
        ((CLIENT_ID.encode(), b"spiffe://cluster.local/ns/default/sa/admin"), None),
    ],
)
def test_a_peer_is_who_its_one_spiffe_uri_says(uris: tuple[bytes, ...], identity: str | None) -> None:
    assert peer_identity(Context(*uris)) == identity
