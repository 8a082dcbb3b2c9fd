"""The root on disk: one file, 0600 in a directory 0700, made once even if two authorities start at the same moment."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from ca.root import Root, RootError, create_root, decode_root, encode_root

ROOT_FILE = "root.pem"
_LOCK_FILE = "lock"
_MAX_BYTES = 256 * 1024


def load_or_create_root(directory: Path, trust_domain: str, now: datetime) -> tuple[Root, bool]:
    """The root kept in `directory`, and whether it was made just now; RootError says which file is wrong, and how."""
    _private_directory(directory)
    with _locked(directory / _LOCK_FILE):
        path = directory / ROOT_FILE
        try:
            content = _read_private(path)
        except FileNotFoundError:
            root = create_root(trust_domain, now)
            write_private(path, encode_root(root))
            return root, True
        try:
            return decode_root(content, now), False
        except RootError as error:
            raise RootError(f"{path}: {error}") from error


def write_private(path: Path, content: bytes) -> None:
    """Write a 0600 file that is either wholly there or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_private(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RootError(f"{path}: cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise RootError(f"{path}: is not a regular file")
        _check_owner(path, status, "chmod 600")
        return file.read(_MAX_BYTES)


def _private_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_owner(directory, directory.stat(), "chmod 700")


def _check_owner(path: Path, status: os.stat_result, remedy: str) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise RootError(
            f"{path}: mode {mode:04o} lets others read the authority's key: run `{remedy} {path}`, and if it was readable "
            "on a shared machine, remove it to make a new root"
        )
    if status.st_uid != os.geteuid():
        raise RootError(
            f"{path}: belongs to user {status.st_uid}, not to the user {os.geteuid()} who runs the authority"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
