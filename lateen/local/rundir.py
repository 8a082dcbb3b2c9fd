"""Where a run keeps its files, and how others on this host find it.

A run owns `${TMPDIR:-/tmp}/lateen-<uid>/<id>/`, removed when it ends; what must survive (the CA's root, the issuer's keys, the last logs)
stands in `${XDG_STATE_HOME:-~/.local/state}/lateen/<dirname>-<hash>/`. A run is alive while somebody holds the flock on its `lock`.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

# A unix socket's path may have 107 bytes; `<base>/<id>/sds/123.sock` needs 25 of them.
MAX_BASE_LENGTH = 80
MAX_NAME_LENGTH = 50
RUN_ID_BYTES = 3


class RunDirError(Exception):
    """The place for a run's files cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """What run.json says about one replica or gateway."""

    name: str
    namespace: str
    workload: str
    kind: str
    address: str
    app_address: str
    service_account: str
    proxy_url: str = ""
    netns: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)
    app: str = ""
    """How its application stands (`readiness.AppState`); empty for a gateway."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A running mesh, as `run.json` describes it."""

    id: str
    pid: int
    directory: str
    mode: str
    control_plane: str
    logs: str
    trust_domain: str = "cluster.local"
    gateway_url: str = ""
    gateway_https_url: str = ""
    gateway_ca: str = ""
    issuer_keys: str = ""
    issuers: tuple[str, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)
    replicas: tuple[ReplicaInfo, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; ValueError, TypeError or KeyError on anything else."""
        raw = json.loads(text)
        replicas = tuple(ReplicaInfo(**entry) for entry in raw.pop("replicas", ()))
        return cls(replicas=replicas, issuers=tuple(raw.pop("issuers", ())), **raw)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True, slots=True)
class RunDir:
    """The directory of one run, with its lock held through `lock_fd`."""

    id: str
    path: Path
    lock_fd: int

    @property
    def api_socket(self) -> Path:
        return self.path / "api.sock"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def write_info(self, info: RunInfo) -> None:
        """Publish the run: from now on other commands find it."""
        temporary = self.path / "run.json.new"
        temporary.write_text(info.to_json(), encoding="utf-8")
        temporary.replace(self.path / "run.json")


def base_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """The parent of all runs of this user; not created here."""
    base = Path(environ.get("TMPDIR") or "/tmp").absolute() / f"lateen-{os.getuid()}"  # noqa: S108  (checked for its owner below)
    return base if len(os.fsencode(base)) <= MAX_BASE_LENGTH else Path(f"/tmp/lateen-{os.getuid()}")  # noqa: S108


def ensure_base(base: Path) -> Path:
    """Create the parent of all runs; refuse one that somebody else made or can write to."""
    with _told(base, "TMPDIR"):
        base.mkdir(mode=0o711, parents=True, exist_ok=True)
    status = base.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise RunDirError(f"{base} does not belong to this user: remove it or set TMPDIR")
    base.chmod(0o711)
    return base


def create_run_dir(base: Path, *, traversable: bool = False) -> RunDir:
    """Create and lock a fresh run directory. `traversable` lets the user that Envoy runs as in netns mode reach its own files."""
    ensure_base(base)
    run_id = secrets.token_hex(RUN_ID_BYTES)
    path = base / run_id
    with _told(path, "TMPDIR"):
        return _make_run_dir(run_id, path, traversable=traversable)


@contextlib.contextmanager
def _told(path: Path, variable: str) -> Iterator[None]:
    """What the file system refuses, as an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise RunDirError(f"cannot use {path}: {error.strerror}. set {variable} to a directory to write in") from error


def _make_run_dir(run_id: str, path: Path, *, traversable: bool) -> RunDir:
    path.mkdir(mode=0o711 if traversable else 0o700)
    for name in ("logs", "sds", "proxies.d", "bootstrap", "tls"):
        (path / name).mkdir(mode=0o711 if traversable else 0o700)
    # Locked before it has its name: whoever cleans up after dead runs never sees this one unlocked.
    fd = os.open(path / "lock.new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (path / "lock.new").rename(path / "lock")
    return RunDir(run_id, path, fd)


def is_locked(lock: Path) -> bool:
    """Whether a living process holds the flock on `lock`."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def live_runs(base: Path | None = None) -> list[RunInfo]:
    """The meshes that run on this host for this user, oldest first."""
    found: list[tuple[float, RunInfo]] = []
    for path in (base or base_directory()).glob("*/run.json"):
        if not is_locked(path.with_name("lock")):
            continue
        try:
            found.append((path.stat().st_mtime, RunInfo.from_json(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError, KeyError):
            continue  # just being written or removed
    return [info for _, info in sorted(found, key=lambda entry: entry[0])]


def dead_runs(base: Path) -> list[Path]:
    """Directories of runs that nobody holds any more: their reaper was killed together with their runner."""
    return [path.parent for path in base.glob("*/lock") if not is_locked(path)]


@dataclass(frozen=True, slots=True)
class StateDir:
    """What survives a run of one directory. `lock_fd` keeps a second mesh of the same directory from sharing it."""

    path: Path
    lock_fd: int

    @property
    def ca(self) -> Path:
        return self.path / "ca"

    @property
    def issuer(self) -> Path:
        return self.path / "issuer"

    @property
    def last_logs(self) -> Path:
        return self.path / "last-logs"


def state_home() -> Path:
    """The XDG state directory of this user."""
    home = os.environ.get("XDG_STATE_HOME")
    return Path(home) if home else Path(os.environ.get("HOME") or "/var/tmp") / ".local" / "state"  # noqa: S108


def open_state_dir(directory: Path, home: Path) -> StateDir:
    """The state of the mesh in `directory`; a second mesh of it that runs at the same time gets a second state."""
    real = directory.resolve()
    digest = hashlib.sha256(str(real).encode()).hexdigest()[:10]
    slot = 1
    while True:
        path = home / "lateen" / (f"{real.name[:MAX_NAME_LENGTH]}-{digest}" + (f".{slot}" if slot > 1 else ""))
        with _told(path, "XDG_STATE_HOME"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            slot += 1
            continue
        return StateDir(path, fd)


def newest_logs(home: Path) -> Path | None:
    """The logs of the mesh that ended last."""
    kept = [path for path in (home / "lateen").glob("*/last-logs") if path.is_dir()]
    return max(kept, key=lambda path: path.stat().st_mtime, default=None)


def proxy_variable(prefix: str, name: str) -> str:
    """`LATEEN_PROXY_PAYMENTS_API_V1` for the prefix `LATEEN_PROXY` and the workload `payments-api-v1`."""
    return f"{prefix}_{''.join(c if c.isalnum() else '_' for c in name)}".upper()
