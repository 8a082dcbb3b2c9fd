"""Secrets that lie in files, under the names Istio's API uses: `file-cert:CHAIN~KEY` and `file-root:ROOTS`.

Only files below directories the operator named are read: a proxy must not make the agent read what it could not read itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ca.sds.secrets import Certificate, Roots

CERTIFICATE_PREFIX = "file-cert:"
ROOTS_PREFIX = "file-root:"
_MAX_BYTES = 1024 * 1024
_BEGIN = b"-----BEGIN "


class FileSecretError(ValueError):
    """The named files cannot be served; the message says why, without their content."""


@dataclass(frozen=True, slots=True)
class FileSecrets:
    """Reads file secrets from below `directories`; with none, there are no file secrets."""

    directories: tuple[Path, ...] = ()

    def paths(self, name: str) -> tuple[Path, ...]:
        """The files behind `name`, each inside an allowed directory once links are followed."""
        return tuple(self._allowed(Path(part)) for part in _parse(name))

    def load(self, name: str) -> Certificate | Roots:
        """Read the secret."""
        contents = [_read(path) for path in self.paths(name)]
        if name.startswith(ROOTS_PREFIX):
            return Roots(contents[0])
        return Certificate(contents[0], contents[1])

    def signature(self, name: str) -> tuple[tuple[int, int, int], ...]:
        """Changes when a file behind `name` does; empty while one is absent or not allowed."""
        try:
            states = [path.stat() for path in self.paths(name)]
        except (OSError, FileSecretError):
            return ()
        return tuple((state.st_mtime_ns, state.st_size, state.st_ino) for state in states)

    def _allowed(self, path: Path) -> Path:
        real = path.resolve()
        if not any(real.is_relative_to(directory.resolve()) for directory in self.directories):
            raise FileSecretError(f"{path} lies in none of the agent's secret_dirs")
        return real


def is_file_secret(name: str) -> bool:
    """Whether `name` stands for files."""
    return name.startswith((CERTIFICATE_PREFIX, ROOTS_PREFIX))


def _parse(name: str) -> Sequence[str]:
    prefix, count = (ROOTS_PREFIX, 1) if name.startswith(ROOTS_PREFIX) else (CERTIFICATE_PREFIX, 2)
    parts = name.removeprefix(prefix).split("~")
    if len(parts) != count or not all(part.startswith("/") and "\0" not in part for part in parts):
        raise FileSecretError(f"{name[:200]!r} is neither file-cert:/CHAIN~/KEY nor file-root:/ROOTS")
    return parts


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise FileSecretError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES or _BEGIN not in content:
        raise FileSecretError(f"{path} is not a PEM file of at most {_MAX_BYTES} bytes")
    return content
