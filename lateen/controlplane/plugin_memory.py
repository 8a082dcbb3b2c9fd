"""Trials that went well are not made again: what was tried, and by which Envoy, is remembered over restarts. Failures never are."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import structlog

from lateen.controlplane.envoy_trial import TrialUnavailableError
from lateen.controlplane.plugin_trial import Trial, Verdict
from lateen.controlplane.plugins import LuaServing, Serving
from lateen.envoy_binary import envoy_path

MAX_REMEMBERED: Final = 2_000


class RememberedTrial:
    """A Trial in front of another one, with a file of digests: the newest `limit` that went well.

    A digest is of the module's sha256, the filter's name, its configuration and environment, and of Envoy's executable.
    """

    def __init__(
        self, trial: Trial, file: Path, envoy: Callable[[], Path] = envoy_path, limit: int = MAX_REMEMBERED
    ) -> None:
        """The file need not exist; one that is damaged counts as empty."""
        self._trial = trial
        self._file = file
        self._envoy = envoy
        self._limit = limit
        self._build: tuple[tuple[object, ...], str] | None = None
        self._good: dict[str, None] | None = None
        self._log = structlog.get_logger()

    async def __call__(self, servings: Sequence[Serving]) -> Verdict:
        """See `Trial`: only those are tried that are not remembered."""
        good, keys = await asyncio.to_thread(self._look_up, servings)
        left = [serving for serving in servings if keys[serving] not in good]
        if not left:
            return Verdict("", 0)
        verdict = await self._trial(left)
        if not verdict.reason:
            await asyncio.to_thread(self._remember, good, [keys[serving] for serving in left])
        return verdict

    def _look_up(self, servings: Iterable[Serving]) -> tuple[dict[str, None], dict[Serving, str]]:
        if self._good is None:
            self._good = dict.fromkeys(self._read())
        build = self._envoy_digest()
        return self._good, {serving: _key(serving, build) for serving in servings}

    def _envoy_digest(self) -> str:
        """SHA-256 of the executable: of another build nothing is known."""
        try:
            path = self._envoy()
            status = path.stat()
            seen = (path, status.st_size, status.st_mtime_ns, status.st_ino)
            if self._build is None or self._build[0] != seen:
                with path.open("rb") as file:
                    self._build = (seen, hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise TrialUnavailableError(str(error)) from None
        return self._build[1]

    def _read(self) -> list[str]:
        try:
            found = json.loads(self._file.read_text())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            self._log.error("remembered trials cannot be read, modules are tried anew", error=str(error))
            return []
        return [key for key in found if isinstance(key, str)][-self._limit :] if isinstance(found, list) else []

    def _remember(self, good: dict[str, None], keys: Iterable[str]) -> None:
        for key in keys:
            good[key] = None
        while len(good) > self._limit:
            del good[next(iter(good))]
        try:
            self._write(json.dumps(list(good)))
        except OSError as error:
            self._log.error("trials cannot be remembered, the next start will make them again", error=str(error))

    def _write(self, text: str) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self._file.parent, prefix=".trials-")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            Path(temporary).replace(self._file)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()


def _key(serving: Serving, build: str) -> str:
    """`path` is left out: where a module lies is nothing of its own."""
    if isinstance(serving, LuaServing):
        what: tuple[object, ...] = ("lua", serving.code)
    else:
        what = (
            serving.digest, serving.name, serving.configuration, serving.env, serving.host_env, serving.ours, serving.network,
        )  # fmt: skip
    return hashlib.sha256(repr((build, what)).encode()).hexdigest()
