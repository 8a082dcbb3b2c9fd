"""Machine code for modules, made ahead of time on this host: optional, and off unless it has a directory to keep it in.

Envoy compiles a module when it first sees it: seconds for a Python filter, at every start. With machine code of its own it starts at once.
Whenever anything does not fit, the portable module is used as it is: another Envoy or processor, a file that is damaged or cut off, a maker
that fails, no room, an Envoy that refuses it. V8 itself checks no more than the head of the machine code, so what is used has its checksum
in its name, and has served a request in an Envoy of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog
from google.protobuf import json_format

from lateen.clock import Clock
from lateen.controlplane.native_modules import DamagedError, NativeModules, machine_key
from lateen.controlplane.plugin_metrics import PluginMetrics
from lateen.controlplane.plugin_process import ProcessTooSlowError, run_bounded
from lateen.controlplane.plugin_trial import trial_bootstrap
from lateen.controlplane.plugins import Native, WasmServing
from lateen.envoy_binary import envoy_path

MAKER: Final = (sys.executable, "-P", "-m", "filters.toolchain.aot")
_SECONDS: Final = 300.0
_VERSION_SECONDS: Final = 30.0
_LOCK: Final = ".lock"
_LOCK_POLL: Final = 0.1
_MOST_BATCH: Final = 20
_MOST_DECIDED: Final = 4_000
_VERSION: Final = re.compile(r"version: ([0-9a-f]+)/([0-9]+\.[0-9]+\.[0-9]+)")


class AheadOfTimeError(Exception):
    """There is no machine code, and why. `outcome` is its label in the metric."""

    def __init__(self, outcome: str, reason: str) -> None:
        """`reason` for people."""
        super().__init__(reason)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Machine:
    """What machine code is good for: one build of Envoy (`REVISION/VERSION`, as it tells in its xDS node) on one kind of processor."""

    envoy: Path
    build: str
    key: str


async def this_machine(envoy: Callable[[], Path] = envoy_path, cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """The Envoy that is run on this host; AheadOfTimeError when it cannot be told from others."""
    try:
        path = envoy()
        digest = await asyncio.to_thread(_sha256, path)
        key = machine_key(digest, await asyncio.to_thread(cpuinfo.read_text))
        _, said = await run_bounded([str(path), "--version"], _VERSION_SECONDS, env={"PATH": os.defpath})
    except (OSError, ValueError, ProcessTooSlowError) as error:
        raise AheadOfTimeError("machine", f"this machine cannot be told from others: {error}") from None
    found = _VERSION.search(said)
    if found is None:
        raise AheadOfTimeError("machine", f"{path} does not tell its version")
    return Machine(path, f"{found[1]}/{found[2]}", key)


class AheadOfTime:
    """Gives modules their machine code, or None; never raises. What was decided for a module holds until it is refused or we end."""

    def __init__(
        self,
        modules: NativeModules,
        directory: Path,
        clock: Clock,
        metrics: PluginMetrics,
        *,
        machine: Callable[[], Machine] | None = None,
        maker: Sequence[str] = MAKER,
        seconds: float = _SECONDS,
    ) -> None:
        """`directory` is where proxies read modules, and what is made here too.

        `maker` is the command that makes it (see filters.toolchain.aot), in at most `seconds`; `machine` stands for this one.
        """
        self._modules = modules
        self._directory = directory
        self._clock = clock
        self._metrics = metrics
        self._machine_of = machine
        self._maker = maker
        self._seconds = seconds
        self._machine: Machine | None = None
        self._decided: dict[str, Native | None] = {}
        self._log = structlog.get_logger()

    def decided(self, digest: str) -> bool:
        """Whether `native` has its last word about a module."""
        return digest in self._decided

    def native(self, digest: str) -> Native | None:
        """What there is of a module now."""
        return self._decided.get(digest)

    async def restore(self, digests: Sequence[str]) -> None:
        """Take over what is there for these modules; the others stay undecided."""
        for digest in digests:
            try:
                found = await self._cached(await self._here(), digest)
            except AheadOfTimeError as error:
                self._without(digest, error)
                continue
            if found is not None:
                self._decide(digest, found)

    async def prepare(self, servings: Sequence[WasmServing]) -> None:
        """Decide about the module of these, which all have the same, are known to run, and lend their configuration to the trial."""
        digest = servings[0].digest
        if digest in self._decided:
            return
        try:
            machine = await self._here()
            found = await self._cached(machine, digest) or await self._make(machine, servings[:_MOST_BATCH])
        except AheadOfTimeError as error:
            self._without(digest, error)
        except Exception as error:  # noqa: BLE001 - the portable module is there
            self._without(digest, AheadOfTimeError("failed", f"{type(error).__name__}: {error}"))
        else:
            self._decide(digest, found)

    async def refused(self, digest: str, reason: str) -> bool:
        """An Envoy did not take it: never again. False when there was none."""
        native = self._decided.get(digest)
        if native is None or self._machine is None:
            return False
        self._without(digest, AheadOfTimeError("refused", f"an envoy has refused it: {reason}"))
        await asyncio.to_thread(self._modules.drop, digest, self._machine.key)
        await asyncio.to_thread(Path(native.path).unlink, missing_ok=True)
        return True

    def _decide(self, digest: str, native: Native | None) -> None:
        """The oldest decisions beyond the bound are forgotten: they will be made again if they are asked for."""
        self._decided[digest] = native
        while len(self._decided) > _MOST_DECIDED:
            del self._decided[next(iter(self._decided))]

    def _without(self, digest: str, error: AheadOfTimeError) -> None:
        self._decide(digest, None)
        self._metrics.natives.labels(error.outcome).inc()
        self._log.warning("no machine code for a module, the portable one is used", sha256=digest, reason=str(error))

    async def _here(self) -> Machine:
        if self._machine is None:
            self._machine = self._machine_of() if self._machine_of is not None else await this_machine()
        return self._machine

    async def _cached(self, machine: Machine, digest: str) -> Native | None:
        try:
            path = await asyncio.to_thread(self._modules.get, digest, machine.key)
            if path is not None:
                path = await asyncio.to_thread(self._modules.lend, path, self._directory)
        except DamagedError as error:
            self._metrics.natives.labels("damaged").inc()
            self._log.error("machine code is damaged, it will be made again", reason=str(error))
            return None
        except OSError as error:
            raise AheadOfTimeError("no room", f"it cannot be read or lent: {error.strerror}") from None
        if path is None:
            return None
        self._metrics.natives.labels("cached").inc()
        return Native(str(path), machine.build)

    async def _make(self, machine: Machine, servings: Sequence[WasmServing]) -> Native:
        digest = servings[0].digest
        try:
            async with self._alone():
                # Another process may have been quicker.
                found = await self._cached(machine, digest)
                if found is not None:
                    return found
                with tempfile.TemporaryDirectory(prefix="lateen-aot-") as name:
                    directory = Path(name)
                    await asyncio.to_thread(_lay_out, directory, servings)
                    saved, data = await self._run(machine, directory)
                    path = await asyncio.to_thread(self._modules.put, digest, machine.key, data)
                    path = await asyncio.to_thread(self._modules.lend, path, self._directory)
        except OSError as error:
            raise AheadOfTimeError("no room", f"it cannot be kept: {error.strerror}") from None
        self._metrics.natives.labels("made").inc()
        self._log.info("module has machine code now", sha256=digest, envoy=machine.build, bytes=len(data), **saved)
        return Native(str(path), machine.build)

    async def _run(self, machine: Machine, directory: Path) -> tuple[dict[str, float], bytes]:
        """The maker's figures, and what it has made."""
        command = [*self._maker, "--envoy", str(machine.envoy), str(directory)]
        try:
            status, said = await run_bounded(command, self._seconds)
        except ProcessTooSlowError as error:
            raise AheadOfTimeError("too slow", f"making it: {error}") from None
        except OSError as error:
            raise AheadOfTimeError("failed", f"the maker cannot be started: {error.strerror}") from None
        try:
            told = json.loads(said.strip().rpartition("\n")[2])
            if status != 0:
                raise AheadOfTimeError("failed", f"making it: {told['error']}")
            figures = {name: float(told[name]) for name in ("seconds_before", "seconds_after")}
            return figures, await asyncio.to_thread((directory / "made.wasm").read_bytes)
        except (ValueError, TypeError, KeyError, OSError):
            last = said.strip().rpartition("\n")[2][:200]
            raise AheadOfTimeError("failed", f"the maker has ended with status {status}: {last}") from None

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One maker at a time for a directory, whatever process it is in; the system lets go of what a dead one held."""
        directory = self._modules.directory
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o711)
        with (directory / _LOCK).open("ab") as file:
            end = self._clock.monotonic() + self._seconds
            while not _locked(file.fileno()):
                if self._clock.monotonic() > end:
                    raise AheadOfTimeError("too slow", "somebody else is making machine code all the time")
                await self._clock.sleep(_LOCK_POLL)
            yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lay_out(directory: Path, servings: Sequence[WasmServing]) -> None:
    """What the maker works with: the module, and a bootstrap with its plugins."""
    module = directory / "module.wasm"
    data = Path(servings[0].path).read_bytes()
    if hashlib.sha256(data).hexdigest() != servings[0].digest:
        raise AheadOfTimeError("failed", f"{servings[0].path} is damaged")
    module.write_bytes(data)
    there = [replace(serving, native=Native(str(module), "")) for serving in servings]
    message = trial_bootstrap(there)
    message.admin.address.pipe.path = str(directory / "admin")
    message.static_resources.listeners[0].address.pipe.path = str(directory / "listener")
    (directory / "bootstrap.json").write_text(json_format.MessageToJson(message, preserving_proto_field_name=True))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
