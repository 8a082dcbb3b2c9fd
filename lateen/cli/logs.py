"""`lateen logs`: the log files of a mesh that `lateen up` runs on this host."""

import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from lateen.cli.apiclient import ControlPlane, running_mesh
from lateen.cli.exits import CommandError, Exit
from lateen.cli.output import emit, say
from lateen.cli.suggestions import meant
from lateen.local.rundir import RunInfo, newest_logs, state_home

FOLLOW_SECONDS = 0.2


def logs(workload: str | None, *, control_plane: str | None, container: str | None, tail: int, follow: bool) -> None:
    """Print, and follow if asked, every log that belongs to `workload`; without it, list the logs."""
    run = _run(control_plane)
    directory = Path(run.logs)
    files = sorted(directory.glob("*.log"))
    if workload is None:
        emit("\n".join(path.stem for path in files))
        return
    chosen = choose_logs(files, workload, container)
    if not chosen:
        known = [path.stem.rpartition(".")[0] or path.stem for path in files]
        raise CommandError(
            Exit.FINDINGS, f"no log of {workload}", meant(workload, known, there_are="there are logs of")
        )
    silent = True
    for path in chosen:
        for line in last_lines(path, tail):
            emit(_labelled(path, line, chosen))
            silent = False
    if silent:
        say(f"note: nothing has been written to {', '.join(path.stem for path in chosen)} yet")
    if any(path.stem.endswith(".envoy") for path in chosen) and not _logs_requests(run.control_plane):
        say(
            f"note: requests are not logged, as in Istio by default: set accessLogFile: /dev/stdout in {run.directory}/mesh.yaml"
        )
    if follow:
        for path, line in _follow(chosen):
            emit(_labelled(path, line, chosen))


def _run(control_plane: str | None) -> RunInfo:
    try:
        return running_mesh(control_plane)
    except CommandError as error:
        kept = newest_logs(state_home()) if error.code is Exit.UNREACHABLE else None
        if kept is None:
            raise
        raise CommandError(
            error.code, error.message, f"{error.hint}\nthe logs of the last one: {kept}".strip()
        ) from None


def _logs_requests(control_plane: str) -> bool:
    """Whether mesh.yaml asks for access logs; yes when nobody can say."""
    try:
        with ControlPlane(control_plane) as api:
            return bool(api.get("/v1/info")["mesh"].get("accessLogFile"))
    except CommandError:
        return True


def choose_logs(files: Sequence[Path], workload: str, container: str | None) -> list[Path]:
    """The files of a workload (`payments-api-v1`), a replica (`payments-api-v1-0`) or a service (`extauthz`)."""
    pattern = re.compile(rf"{re.escape(workload)}(-\d+)?(\.(?P<container>[a-z]+))?")
    matches = [(path, pattern.fullmatch(path.stem)) for path in files]
    return [path for path, match in matches if match and (container is None or match["container"] == container)]


def last_lines(path: Path, count: int) -> Iterator[str]:
    """The last `count` lines of a file, all of them for 0."""
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from (line.rstrip("\n") for line in (deque(file, maxlen=count) if count else file))


def _labelled(path: Path, line: str, chosen: Sequence[Path]) -> str:
    return line if len(chosen) == 1 else f"[{path.stem}] {line}"


def _follow(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    offsets = {path: path.stat().st_size for path in paths}
    while True:
        for path in paths:
            if not path.exists():
                return
            size = path.stat().st_size
            if size < offsets[path]:  # rotated
                offsets[path] = 0
            if size > offsets[path]:
                with path.open("rb") as file:
                    file.seek(offsets[path])
                    chunk = file.read(size - offsets[path])
                complete, _, _ = chunk.rpartition(b"\n")
                offsets[path] += len(complete) + 1 if complete else 0
                yield from ((path, line) for line in complete.decode(errors="replace").splitlines())
        time.sleep(FOLLOW_SECONDS)
