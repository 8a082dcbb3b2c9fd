"""The loop that keeps one proxy's identity in its secret table."""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from ca.sds.secrets import CERTIFICATE, ROOTS, Certificate, Roots, SecretTable
from lateen.agent.client import CaRefusedError, CaUnavailableError, CertificateAuthority, Pair, Token
from lateen.agent.csr import WrongCertificateError, make_csr, merge_roots, verify_answer
from lateen.agent.keys import key_pem, make_key
from lateen.agent.rotation import Credential, Rotation, State
from lateen.clock import Clock

_LONGEST_SLEEP = timedelta(minutes=1)


class ProxyIdentity:
    """Obtains and renews the certificate of `spiffe_id`; `on_first` is called once, when the first one is served."""

    def __init__(
        self,
        *,
        owner: str,
        spiffe_id: str,
        token: str,
        authority: CertificateAuthority,
        table: SecretTable,
        clock: Clock,
        on_first: Callable[[], None],
        seconds: int = 0,
        unit: Callable[[], float] = random.random,
    ) -> None:
        self.rotation = Rotation(token)
        self.issued = 0
        self.failed = 0
        self._spiffe_id = spiffe_id
        self._authority = authority
        self._table = table
        self._clock = clock
        self._on_first = on_first
        self._seconds = seconds
        self._unit = unit
        self._pair: Pair | None = None
        self._offered = asyncio.Event()
        self._log = structlog.get_logger().bind(proxy=owner, identity=spiffe_id)

    @property
    def not_after(self) -> datetime | None:
        """When the certificate served now expires."""
        return self.rotation.not_after

    @property
    def state(self) -> State:
        """For health and metrics."""
        return self.rotation.state(self._clock.now())

    def offer_token(self, token: str) -> None:
        """A new join token was registered."""
        if self.rotation.offer(token, self._clock.now()):
            self._offered.set()

    async def run(self) -> None:
        """Ask, serve, wait, for ever."""
        while True:
            wait = self.rotation.wait(self._clock.now())
            if wait is None or wait > timedelta(0):
                await self._pause(wait)
                continue
            try:
                await self._ask()
            except Exception as error:  # noqa: BLE001 - a certificate must not expire in silence because of a bug of ours
                self._log.exception("certificate could not be renewed")
                self.failed += 1
                self.rotation.unavailable(f"{type(error).__name__}: {error}", self._clock.now(), self._unit())

    async def _pause(self, wait: timedelta | None) -> None:
        """Sleep in short pieces, so that a clock that jumps (a suspended laptop) is noticed; a new token ends the sleep."""
        self._offered.clear()
        waiting: set[asyncio.Task[object]] = {asyncio.create_task(self._offered.wait())}
        if wait is not None:
            waiting.add(asyncio.create_task(self._sleep(min(wait, _LONGEST_SLEEP))))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _sleep(self, wait: timedelta) -> None:
        await self._clock.sleep(wait.total_seconds())

    async def _ask(self) -> None:
        kind = self.rotation.credential(self._clock.now())
        used = self.rotation.token if kind is Credential.TOKEN else ""
        credentials = Token(used) if used else self._pair
        if credentials is None:
            return
        key = make_key()
        try:
            chain = await self._authority.create_certificate(make_csr(key, self._spiffe_id), self._seconds, credentials)
            verified = verify_answer(chain, key, self._spiffe_id, self._clock.now())
            roots = merge_roots(self._authority.roots(), verified.root_pem)
        except (CaRefusedError, WrongCertificateError) as error:
            self._refused(used, str(error))
        except (CaUnavailableError, OSError, ValueError) as error:
            self.failed += 1
            self.rotation.unavailable(str(error), self._clock.now(), self._unit())
            self._report("certificate authority unavailable")
        else:
            self._pair = Pair(verified.chain_pem, key_pem(key))
            self.rotation.succeeded(used, self._clock.now(), verified.not_after, self._unit())
            self._serve(roots, verified.not_after)

    def _serve(self, roots: bytes, not_after: datetime) -> None:
        if self._pair is None:
            return
        # Roots first: whoever takes the new certificate then knows whom to trust.
        self._table.put(ROOTS, Roots(roots))
        self._table.put(CERTIFICATE, Certificate(self._pair.chain_pem, self._pair.key_pem))
        self.issued += 1
        self._log.info("certificate served", renewed=self.issued > 1, not_after=not_after.isoformat())
        if self.issued == 1:
            self._on_first()

    def _refused(self, used: str, problem: str) -> None:
        self.failed += 1
        self.rotation.refused(used, problem, self._clock.now(), self._unit())
        self._report("certificate refused")

    def _report(self, event: str) -> None:
        """Every failure at first, then only each doubling: an outage must not fill the disk."""
        failures = self.rotation.failures
        if failures & (failures - 1) == 0:
            self._log.warning(event, reason=self.rotation.problem, state=self.state.value, failures=failures)
