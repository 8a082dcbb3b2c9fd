"""`lateen filter test`: pytest with the kit, in the filter's directory."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lateen.cli.exits import CommandError, Exit

INTERRUPTED = 130
PLUGIN = "lateen_filter.testing.plugin"
CODES = {0: Exit.OK, 1: Exit.FINDINGS, 2: Exit.FINDINGS, 3: Exit.BUG, 4: Exit.USAGE, 5: Exit.USAGE}
"""pytest's exit codes: passed, failed, interrupted, internal error, usage, no tests."""


def test(directory: Path, *, envoy: bool, module: Path | None, arguments: Sequence[str]) -> int:
    """Run pytest in `directory`; its output is the command's. FINDINGS if a test fails."""
    if not directory.is_dir():
        raise CommandError(Exit.USAGE, f"{directory} is no directory", "name the filter's project")
    if importlib.util.find_spec("pytest") is None:
        raise CommandError(Exit.USAGE, "pytest is not installed", "pip install 'lateen[filters]'")
    if module is not None and not (envoy and module.is_file()):
        problem = f"{module} is no file" if envoy else "goes with --envoy: without it no module is used"
        raise CommandError(Exit.USAGE, f"--module: {problem}", "lateen filter build makes one")
    source = (
        [] if module is None else [f"--filter-source={module.resolve()}"]
    )  # apart, pytest takes the path for one of tests
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, *(["--envoy"] if envoy else []), *source, *arguments]
    environment = dict(os.environ)
    if not (directory / "pytest.ini").is_file():  # as `filter new` has it
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(directory.resolve()), environment.get("PYTHONPATH")])
        )
    with subprocess.Popen(command, cwd=directory, env=environment) as pytest:
        stopped = _leave_to(pytest)
        code = pytest.wait()
    if stopped:
        return INTERRUPTED
    return Exit.FINDINGS if code < 0 else CODES.get(code, Exit.BUG)


def _leave_to(pytest: subprocess.Popen[bytes]) -> Sequence[int]:
    """Ctrl-C is pytest's affair, which ends its Envoys; other signals are handed on as Ctrl-C. What has come is in the result."""
    come: list[int] = []

    def stop(number: int, _frame: object) -> None:
        come.append(number)
        if number != signal.SIGINT:
            pytest.send_signal(signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    return come
