"""The loop that keeps an identity, on a clock that moves only when told, with the real authority's core behind it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ca.authority import Authority, RefusedError
from ca.authority import Credentials as CaCredentials
from ca.identity import Identity
from ca.root import create_root
from ca.sds.secrets import CERTIFICATE, ROOTS, SecretTable
from lateen.agent.client import CaRefusedError, CaUnavailableError, Pair, Token
from lateen.agent.csr import WrongCertificateError, make_csr, merge_roots, verify_answer
from lateen.agent.identity import ProxyIdentity
from lateen.agent.keys import make_key
from lateen.agent.rotation import State
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from tests.fakes.clock import FakeClock

ORDERS = "spiffe://cluster.local/ns/default/sa/orders"
LIFE = 3600.0


class DirectAuthority:
    """The authority's decisions without the wire; `down` makes it unreachable. Keeps what it was sent."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock, self.down, self.sent = clock, False, list[tuple[str, bytes]]()
        self.core = Authority(create_root("cluster.local", clock.now()), "cluster.local", timedelta(seconds=LIFE))

    def token(self, account: str = "orders") -> str:
        return self.core.tokens.mint(Identity("default", account), self._clock.now(), timedelta(minutes=10))

    def roots(self) -> bytes:
        return self.core.root.anchor_pem.encode()

    async def create_certificate(self, csr_pem: bytes, seconds: int, credentials: Token | Pair) -> tuple[str, ...]:
        if self.down:
            raise CaUnavailableError("unreachable")
        self.sent.append((type(credentials).__name__, csr_pem))
        if isinstance(credentials, Token):
            given = CaCredentials(token=credentials.text)
        else:
            leaf = x509.load_pem_x509_certificate(credentials.chain_pem)
            given = CaCredentials(peer_certificate=leaf.public_bytes(serialization.Encoding.DER))
        try:
            return self.core.create_certificate(csr_pem, seconds, given, self._clock.now()).chain
        except RefusedError as error:
            raise CaRefusedError(error.reason) from error


class Setting:
    """An identity that runs, and everything around it."""

    def __init__(self, token: Callable[[DirectAuthority], str]) -> None:
        self.clock, self.table, self.first = FakeClock(), SecretTable(), 0
        self.authority = DirectAuthority(self.clock)
        self.identity = ProxyIdentity(
            owner="default/orders",
            spiffe_id=ORDERS,
            token=token(self.authority),
            authority=self.authority,
            table=self.table,
            clock=self.clock,
            on_first=self._first,
            unit=lambda: 0.5,
        )

    def _first(self) -> None:
        self.first += 1

    def state(self) -> State:
        return self.identity.state

    def served(self) -> bytes:
        """The chain served now; its key must belong to it."""
        entry = self.table.get(CERTIFICATE)
        if entry is None:
            return b""
        return secret_pb2.Secret.FromString(entry.data).tls_certificate.certificate_chain.inline_bytes


@asynccontextmanager
async def running(token: Callable[[DirectAuthority], str] = DirectAuthority.token) -> AsyncIterator[Setting]:
    setting = Setting(token)
    task = asyncio.create_task(setting.identity.run())
    try:
        await setting.clock.advance(0)
        yield setting
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_first_certificate_is_served_and_rotated_at_half_life_with_a_new_key() -> None:
    async with running() as setting:
        first = setting.served()
        assert first
        assert setting.table.get(ROOTS) is not None
        await setting.clock.advance(LIFE * 0.5 - 1)
        assert setting.served() == first
        await setting.clock.advance(2)
        second = setting.served()
        assert second != first
        keys = [x509.load_pem_x509_certificate(each).public_key() for each in (first, second)]
        assert keys[0] != keys[1]
        await setting.clock.advance(LIFE * 10)
        assert setting.state() is State.SERVING
        assert [kind for kind, _ in setting.authority.sent[:3]] == ["Token", "Pair", "Pair"]
        assert setting.first == 1


async def test_only_requests_for_a_signature_leave_the_agent() -> None:
    async with running() as setting:
        await setting.clock.advance(LIFE * 3)
        assert len(setting.authority.sent) > 3
        for _, sent in setting.authority.sent:
            assert sent.startswith(b"-----BEGIN CERTIFICATE REQUEST-----")
            assert sent.count(b"-----BEGIN") == 1


async def test_an_outage_leaves_the_last_certificate_served_and_ends_by_itself() -> None:
    async with running() as setting:
        first = setting.served()
        setting.authority.down = True
        await setting.clock.advance(LIFE * 0.8)
        assert setting.served() == first
        assert setting.identity.failed > 3
        setting.authority.down = False
        await setting.clock.advance(60)
        assert setting.served() != first
        assert setting.state() is State.SERVING


async def test_after_expiry_the_last_certificate_stays_and_a_new_token_revives() -> None:
    async with running() as setting:
        first = setting.served()
        setting.authority.down = True
        await setting.clock.advance(LIFE * 2)
        assert setting.state() is State.EXPIRED
        assert setting.served() == first
        setting.authority.down = False
        await setting.clock.advance(LIFE)
        assert setting.served() == first
        setting.identity.offer_token(setting.authority.token())
        await setting.clock.advance(0)
        assert setting.state() is State.SERVING


async def test_an_authority_that_is_down_at_the_start_is_waited_for() -> None:
    def token(authority: DirectAuthority) -> str:
        authority.down = True
        return authority.token()

    async with running(token) as setting:
        await setting.clock.advance(60)
        assert (setting.served(), setting.state()) == (b"", State.JOINING)
        setting.authority.down = False
        await setting.clock.advance(31)
        assert setting.state() is State.SERVING


async def test_a_used_token_is_asked_once_and_a_new_one_at_once() -> None:
    async with running(lambda _: "used.token") as setting:
        await setting.clock.advance(LIFE)
        assert len(setting.authority.sent) == 1
        assert setting.state() is State.REFUSED
        setting.identity.offer_token(setting.authority.token())
        await setting.clock.advance(0)
        assert setting.state() is State.SERVING


async def test_a_token_of_another_identity_is_not_served() -> None:
    async with running(lambda authority: authority.token("admin")) as setting:
        await setting.clock.advance(LIFE)
        assert setting.served() == b""
        assert setting.state() is State.REFUSED
        assert "sa/admin, not for" in setting.identity.rotation.problem


async def test_a_suspended_machine_notices_that_time_went_by() -> None:
    async with running() as setting:
        first = setting.served()
        # The clock jumps over the rotation and the sleeper is woken once, late.
        setting.clock.tick(LIFE * 0.9)
        await setting.clock.advance(0)
        assert setting.served() != first


def test_answers_that_are_not_for_us_are_refused() -> None:
    clock = FakeClock()
    authority, key = DirectAuthority(clock), make_key()

    def answer(account: str = "orders") -> tuple[str, ...]:
        credentials = CaCredentials(token=authority.token(account))
        return authority.core.create_certificate(make_csr(key, ORDERS), 0, credentials, clock.now()).chain

    good = answer()
    assert verify_answer(good, key, ORDERS, clock.now()).chain_pem.count(b"BEGIN") == 1
    other_root = create_root("cluster.local", clock.now()).anchor_pem
    for chain, problem in (
        ((), "not a certificate chain"),
        (("nonsense",), "not a certificate chain"),
        (good[:1], "no root"),
        ((good[0], other_root), "not a certificate chain"),
        (answer("admin"), "for spiffe://cluster.local/ns/default/sa/admin, not for"),
        ((authority.core.root.anchor_pem,) * 2, "another key"),
    ):
        with pytest.raises(WrongCertificateError, match=problem):
            verify_answer(chain, key, ORDERS, clock.now())
    with pytest.raises(WrongCertificateError, match="another key"):
        verify_answer(good, make_key(), ORDERS, clock.now())
    with pytest.raises(WrongCertificateError, match="expired"):
        verify_answer(good, key, ORDERS, clock.now() + timedelta(days=1))


def test_roots_are_merged_without_repetition() -> None:
    clock = FakeClock()
    first, second = (create_root("cluster.local", clock.now()).anchor_pem.encode() for _ in range(2))
    assert merge_roots(first, first) == first
    assert merge_roots(first + second, second) == first + second
    assert merge_roots(first, second) == first + second
