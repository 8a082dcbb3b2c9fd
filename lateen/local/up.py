"""`lateen up DIR`: from a directory of manifests to a running mesh, and back to nothing."""

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lateen.envoy_binary import envoy_path
from lateen.local import commands, netns, ports, reaper
from lateen.local.commands import Site
from lateen.local.following import Following
from lateen.local.leases import (
    LOOPBACK_RANGES,
    NETNS_RANGES,
    VIP_RANGES,
    Lease,
    NoLeaseError,
    lease_network,
    loopback_is_free,
    unrouted,
)
from lateen.local.mesh import Mesh, StartError
from lateen.local.placement import NoRoomError
from lateen.local.plan import Plan
from lateen.local.ports import PortsTakenError
from lateen.local.report import render_started, variables
from lateen.local.rundir import (
    RunDir,
    RunDirError,
    base_directory,
    create_run_dir,
    dead_runs,
    ensure_base,
    live_runs,
    open_state_dir,
    state_home,
)
from lateen.local.source import Source, read_directory
from lateen.local.supervisor import Supervisor
from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.render import render_diagnostics

EXIT_OK, EXIT_HOST, EXIT_INVALID, EXIT_TIMEOUT, EXIT_BUG = 0, 2, 3, 5, 70
DEFAULT_TIMEOUT = 60.0
T = TypeVar("T")
COMMAND_GRACE_SECONDS = 5.0
# No bug of ours: nothing can be written, or opened any more.
HOST_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class _Stopped(Exception):  # noqa: N818  (not an error)
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run(
    directory: Path,
    *,
    exec_command: str | None = None,
    mode: str = commands.LOOPBACK,
    timeout: float = DEFAULT_TIMEOUT,
    colour: bool | None = None,
    ahead_of_time: bool = False,
) -> int:
    """Run the mesh of `directory`; returns the exit code.

    Interactive without `exec_command`: until Ctrl-C or SIGTERM. With it: until that shell command, started when every proxy is in sync, has
    ended, and its status is the result. 2: the host cannot run it, 3: the directory is invalid, 5: not in sync within `timeout` seconds.
    """
    coloured = sys.stderr.isatty() if colour is None else colour
    started = time.monotonic()
    source, plan, problems = _read(directory)
    if problems:
        _say(render_diagnostics(problems, colour=coloured))
    if plan is None:
        return EXIT_INVALID
    try:
        if mode == commands.NETNS:
            netns.check_host(os.geteuid())
        envoy_path()
    except (netns.NetnsError, FileNotFoundError) as error:
        _say(f"error: {error}")
        return EXIT_HOST
    try:
        return asyncio.run(_run(source, plan, _Wish(mode, exec_command, timeout, started, coloured, ahead_of_time)))
    except (RunDirError, NoLeaseError, NoRoomError, PortsTakenError, netns.NetnsError) as error:
        _say(f"error: {error}")
        return EXIT_HOST
    except OSError as error:
        if error.errno not in HOST_TROUBLE:
            raise
        _say(f"error: {error.strerror}: {error.filename or f'{base_directory()} or {state_home()}'}")
        return EXIT_HOST


def _say(text: str) -> None:
    """Talk goes to stderr; stdout belongs to the command of --exec."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _read(directory: Path) -> tuple[Source, Plan | None, list[Diagnostic]]:
    source = read_directory(directory.resolve() if directory.is_dir() else directory)
    plan = source.plan()
    problems = [d for d in (*source.diagnostics, *plan.diagnostics) if d.severity is not Severity.INFO]
    if not plan.workloads and not problems:
        problems = [
            Diagnostic(
                code="LTN0905",
                severity=Severity.ERROR,
                message="nothing to run: there is no Deployment, Pod or Gateway here",
                file=str(directory),
                hint="name a directory of Istio and Kubernetes YAML, such as envoy-configs/payments",
            )
        ]
    failed = any(d.severity is Severity.ERROR for d in problems)
    return source, None if failed else plan, problems


@dataclass(frozen=True, slots=True)
class _Wish:
    """How the user wants the mesh to run."""

    mode: str
    command: str | None
    timeout: float
    started: float
    colour: bool
    ahead_of_time: bool


async def _run(source: Source, plan: Plan, wish: _Wish) -> int:
    return await _Session(source, plan, wish).run()


class _Session:
    """One run, from the first lock to the last process."""

    def __init__(self, source: Source, plan: Plan, wish: _Wish) -> None:
        self._source = source
        self._plan = plan
        self._wish = wish
        self._signal: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        mesh = await self._create()
        if sys.stderr.isatty():
            count = sum(workload.replicas for workload in self._plan.workloads)
            _say(f"starting {count} replicas of {self._source.directory}, each with its Envoy")
        try:
            return await self._serve(mesh)
        finally:
            await mesh.close()

    def _on_signal(self, number: int) -> None:
        if not self._signal.done():
            self._signal.set_result(number)

    async def _create(self) -> Mesh:
        base = ensure_base(base_directory())
        for dead in dead_runs(base):
            await asyncio.to_thread(clean_up_dead_run, dead)
        ports.check(ports.needed(self._plan, self._wish.mode, issuers=bool(self._source.local.issuers)))
        lease, vips = _lease(self._wish.mode)
        state = open_state_dir(self._source.directory, state_home())
        run = create_run_dir(base, traversable=self._wish.mode == commands.NETNS)
        site = Site(
            run=run,
            mode=self._wish.mode,
            lease=lease,
            directory=self._source.directory,
            mesh_config=self._source.mesh_config,
            state_ca=state.ca,
            issuer_keys=state.issuer,
            trust_domain=self._source.mesh.trust_domain,
            root_namespace=self._source.mesh.root_namespace,
            envoy=_envoy_for(self._wish.mode, run),
            issuers=self._source.local.issuers,
            ahead_of_time=self._wish.ahead_of_time,
        )
        network = netns.Network(run.id, lease, vips) if vips is not None else None
        held = [run.lock_fd, state.lock_fd, lease.fd, *([vips.fd] if vips else [])]
        supervisor = Supervisor(run, held)
        return Mesh(site, state, self._source, self._plan, supervisor, network, _say)

    async def _serve(self, mesh: Mesh) -> int:
        try:
            await self._interruptible(self._start(mesh))
            mesh.publish()
            await self._interruptible(
                mesh.wait_until_synced(
                    self._wish.timeout - (time.monotonic() - self._wish.started), strict=self._wish.command is not None
                )
            )
        except _Stopped as stopped:
            return 128 + stopped.number
        except StartError as error:
            _say(f"error: {error}\nall logs: {mesh.state.last_logs}")
            return EXIT_TIMEOUT
        except TimeoutError as error:
            _say(
                f"error: the mesh is not in sync after {time.monotonic() - self._wish.started:.0f} s, because of\n{error}"
            )
            if self._wish.command is not None:
                _say(f"all logs: {mesh.state.last_logs}")
                return EXIT_TIMEOUT
        return await (
            self._interactive(mesh) if self._wish.command is None else self._execute(mesh, self._wish.command)
        )

    async def _start(self, mesh: Mesh) -> None:
        await mesh.supervisor.open()
        await mesh.start()

    async def _interruptible(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` unless a signal comes first."""
        task = asyncio.ensure_future(work)
        waiting: set[asyncio.Future[Any]] = {task, self._signal}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, StartError, TimeoutError):
            await task
        raise _Stopped(self._signal.result())

    async def _interactive(self, mesh: Mesh) -> int:
        mesh.publish()
        proxies = await mesh.proxies() or {}
        seconds = time.monotonic() - self._wish.started
        tries, alone = self._source.local.try_it, len(live_runs()) <= 1
        _say(render_started(mesh.info(), proxies, tries, seconds, alone=alone, colour=self._wish.colour))
        following = Following(mesh, self._source, _say, colour=self._wish.colour)
        try:
            await self._interruptible(following.run())
        except _Stopped:
            _say("stopping")
            return EXIT_OK
        return EXIT_BUG

    async def _execute(self, mesh: Mesh, command: str) -> int:
        # `lateen` and `python3` in the command are those that run here, whether or not the virtual environment is active.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
        environment = {**os.environ, **variables(mesh.info()), "PATH": path, reaper.MARKER: mesh.site.run.id}
        child = await asyncio.create_subprocess_shell(command, env=environment)
        following = asyncio.ensure_future(Following(mesh, self._source, _say, colour=self._wish.colour).run())
        ended = asyncio.ensure_future(child.wait())
        try:
            waiting: set[asyncio.Future[Any]] = {ended, following, self._signal}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self._signal.done() and not ended.done():
                await self._pass_on(self._signal.result(), child, ended)
            elif following.done() and not ended.done():
                child.kill()
                await ended
                return EXIT_BUG
            status = await ended
        finally:
            following.cancel()
        return status if status >= 0 else 128 - status

    async def _pass_on(self, number: int, child: asyncio.subprocess.Process, ended: "asyncio.Future[int]") -> None:
        """Let the command end by the signal that we got, and make it if it does not."""
        from_terminal = number == signal.SIGINT and sys.stdin is not None and sys.stdin.isatty()
        if not from_terminal:  # else it got the signal as well
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ended), None if from_terminal else COMMAND_GRACE_SECONDS)
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                child.kill()


def _lease(mode: str) -> tuple[Lease, Lease | None]:
    if mode != commands.NETNS:
        return lease_network(LOOPBACK_RANGES, loopback_is_free), None
    free = unrouted(netns.routes())
    return lease_network(NETNS_RANGES, free), lease_network(VIP_RANGES, free)


def _envoy_for(mode: str, run: RunDir) -> Path:
    """The Envoy to execute; in netns mode a copy, if the user it runs as cannot reach the original."""
    path = envoy_path().resolve()
    reachable = all(parent.stat().st_mode & 0o001 for parent in path.parents) and path.stat().st_mode & 0o001
    if mode != commands.NETNS or reachable:
        return path
    copy = run.path / "envoy"
    shutil.copyfile(path, copy)
    copy.chmod(0o755)
    return copy


def clean_up_dead_run(path: Path) -> None:
    """Finish what a runner and a reaper that were both killed have left behind."""
    reaper.sweep(path.name)
    reaper.clean_up(str(path))
