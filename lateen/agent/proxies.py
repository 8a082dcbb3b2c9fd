"""The proxies of this host: each file in `proxies_dir` becomes an identity, an SDS socket and a bootstrap, and goes when the file goes."""

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from ca.sds.files import FileSecrets
from ca.sds.secrets import SecretTable
from ca.sds.server import SdsServer, SecretService
from lateen.agent.bootstrap import Mesh, bootstrap, render_bootstrap
from lateen.agent.client import CertificateAuthority
from lateen.agent.identity import ProxyIdentity
from lateen.agent.proxyfile import MAX_BYTES, ProxySpec, parse_proxy
from lateen.agent.settings import read_bounded
from lateen.clock import Clock

MAX_PROXIES = 4096
_Signature = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Running:
    """One proxy that is served."""

    spec: ProxySpec
    identity: ProxyIdentity
    server: SdsServer
    task: asyncio.Task[None]


class Proxies:
    """Follows the directory: call `scan` again and again, then `close`."""

    def __init__(
        self,
        directory: Path,
        mesh: Mesh,
        authority: CertificateAuthority,
        clock: Clock,
        *,
        files: FileSecrets | None = None,
        seconds: int = 0,
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._mesh = mesh
        self._authority = authority
        self._clock = clock
        self._files = files or FileSecrets()
        self._seconds = seconds
        self._seen: dict[str, _Signature] = {}
        self._running: dict[str, Running] = {}
        self._log = structlog.get_logger()

    @property
    def running(self) -> Mapping[str, Running]:
        """Every proxy served now, by file name."""
        return self._running

    async def scan(self) -> None:
        """Bring what runs in line with the files. A file that broke changes nothing, and is reported once."""
        found = dict(self._listing())
        gone = [name for name in self._seen if name not in found]
        for name in gone:
            del self._seen[name]
        await asyncio.gather(*(self._remove(name) for name in gone))
        for name, signature in sorted(found.items()):
            if self._seen.get(name) == signature:
                continue
            self._seen[name] = signature
            try:
                await self._apply(name, parse_proxy(read_bounded(self._directory / name, MAX_BYTES)))
            except FileNotFoundError:
                del self._seen[name]
            except (OSError, ValueError) as error:
                self._log.error("proxy file cannot be used", file=name, reason=str(error), kept=name in self._running)

    async def close(self) -> None:
        """Stop serving; sockets go, bootstraps stay for Envoys that outlive us."""
        await asyncio.gather(*(self._stop(name) for name in list(self._running)))

    def _listing(self) -> Iterator[tuple[str, _Signature]]:
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if not entry.name.endswith(".json") or entry.name.startswith("."):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    state = entry.stat()
                    yield entry.name, (state.st_mtime_ns, state.st_size, state.st_ino)

    async def _apply(self, name: str, spec: ProxySpec) -> None:
        current = self._running.get(name)
        if current is not None and current.spec.without_token() == spec.without_token():
            if current.spec.token != spec.token:
                self._log.info("new join token registered", proxy=spec.key)
                current.identity.offer_token(spec.token)
                self._running[name] = Running(spec, current.identity, current.server, current.task)
            return
        if current is None and len(self._running) >= MAX_PROXIES:
            raise ValueError(f"{MAX_PROXIES} proxies are served already")
        taken = {other.spec.sds_socket for file, other in self._running.items() if file != name}
        if spec.sds_socket in taken:
            raise ValueError(f"sds_socket {spec.sds_socket} belongs to another proxy")
        if current is not None:
            await self._stop(name)
        self._running[name] = await self._start(spec)

    async def _start(self, spec: ProxySpec) -> Running:
        table = SecretTable()
        server = SdsServer(SecretService(table, self._files, spec.key), Path(spec.sds_socket), spec.owner)
        await server.start()
        identity = ProxyIdentity(
            owner=spec.key,
            spiffe_id=spec.spiffe_id(self._mesh.trust_domain),
            token=spec.token,
            authority=self._authority,
            table=table,
            clock=self._clock,
            on_first=lambda: self._write_bootstrap(spec),
            seconds=self._seconds,
        )
        self._log.info("proxy registered", proxy=spec.key, socket=spec.sds_socket)
        return Running(spec, identity, server, asyncio.create_task(identity.run(), name=f"identity {spec.key}"))

    def _write_bootstrap(self, spec: ProxySpec) -> None:
        if not spec.bootstrap_file:
            return
        try:
            write_file(Path(spec.bootstrap_file), render_bootstrap(bootstrap(spec, self._mesh)), spec.owner)
        except OSError as error:
            self._log.error("bootstrap cannot be written", proxy=spec.key, file=spec.bootstrap_file, reason=str(error))

    async def _remove(self, name: str) -> None:
        running = self._running.get(name)
        await self._stop(name)
        if running is not None and running.spec.bootstrap_file:
            remove_file(Path(running.spec.bootstrap_file))

    async def _stop(self, name: str) -> None:
        running = self._running.pop(name, None)
        if running is None:
            return
        running.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running.task
        await running.server.stop()
        self._log.info("proxy gone", proxy=running.spec.key)


def write_file(path: Path, text: str, owner: int | None = None) -> None:
    """Write a 0600 file that readers see whole or not at all; it belongs to `owner` if that is another user."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        if owner is not None:
            os.fchown(descriptor, owner, -1)
    temporary.replace(path)


def remove_file(path: Path) -> None:
    """Remove what `write_file` wrote."""
    path.unlink(missing_ok=True)
