"""Processes of ours that try or make something, bounded in time, CPU and in what they may say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_CPU_SECONDS: Final = 240
_MAX_OUTPUT: Final = 256 * 1024


class ProcessTooSlowError(Exception):
    """It did not end in time, and was killed."""


async def run_bounded(
    command: Sequence[str], seconds: float, *, cpu_seconds: int = _CPU_SECONDS, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command to its end: its status and the first 256 KiB of what it said.

    Its children end with it. `env` is its environment (None: ours). ProcessTooSlowError after `seconds`; OSError when it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=env, start_new_session=True,
    )  # fmt: skip
    try:
        _bind(process.pid, cpu_seconds)
        async with asyncio.timeout(seconds):
            output = await _bounded(process)
            status = await process.wait()
    except TimeoutError:
        raise ProcessTooSlowError(f"it has not ended after {seconds:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.returncode is None:
            await process.wait()
    return status, output


def _bind(pid: int, cpu_seconds: int) -> None:
    """Should we die meanwhile, an endless loop ends all the same; should memory run out, it goes first."""
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


async def _bounded(process: asyncio.subprocess.Process) -> str:
    """The first part of what it says; the rest is read and forgotten."""
    kept = bytearray()
    while process.stdout is not None and (chunk := await process.stdout.read(65_536)):
        kept += chunk[: _MAX_OUTPUT - len(kept)]
    return kept.decode(errors="replace")
